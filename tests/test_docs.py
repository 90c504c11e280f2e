"""The documents are held against the code: what they name exists, and what they must is named."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from tools import draw_states

from switchover.model.capability import DESTINATION_CAPABILITIES, Capability

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "switchover"
DOCS = ROOT / "docs"
WIRE_PAGES = sorted((DOCS / "wire").glob("*.md"))
PAGES = sorted(ROOT.glob("*.md")) + sorted(DOCS.rglob("*.md"))
SOURCES = sorted(SRC.rglob("*.py"))
REFUSALS = ("UnsupportedStream", "UsageError")
FACING_PEERS = ("model", "wire", "protocol", "channel", "engine")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def on_one_line(path: Path) -> str:
    return " ".join(path.read_text().split())


DEVIATIONS = on_one_line(DOCS / "deviations.md")
THREADS = on_one_line(DOCS / "threads.md")


def resolve(dotted: str) -> object:
    """The module, or the thing in a module, that has the name."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(dotted)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_that_a_page_names_exist(page: Path) -> None:
    for dotted in re.findall(r"`(switchover(?:\.\w+)+)`", page.read_text()):
        resolve(dotted)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page: Path) -> None:
    for path in re.findall(r"`((?:src|tests|tools|docs)/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


def pages_of_modules() -> dict[str, str]:
    """Which page of docs/wire begins with the name of a module."""
    found: dict[str, str] = {}
    for page in WIRE_PAGES:
        head = re.search(r"^Modules?: (.+?)(?:\. |\.$)", page.read_text(), re.M | re.S)
        for module in re.findall(r"`(switchover\.wire\.\w+)`", head[1] if head else ""):
            assert module not in found, f"{module} has two pages"
            found[module] = f"docs/wire/{page.name}"
    return found


@pytest.mark.parametrize(
    "path", [path for path in (SRC / "wire").glob("*.py") if path.stem != "__init__"], ids=name_of
)
def test_every_module_of_wire_has_a_page(path: Path) -> None:
    page = pages_of_modules()[f"switchover.wire.{path.stem}"]
    named = re.findall(
        r"docs/wire/[\w-]+\.md", ast.get_docstring(ast.parse(path.read_text())) or ""
    )
    assert named in ([], [page])


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_pages_that_a_module_names_exist(path: Path) -> None:
    for page in re.findall(r"docs/[\w/-]+\.md", path.read_text()):
        assert (ROOT / page).is_file(), page


def test_states_are_as_in_the_tables() -> None:
    assert draw_states.PAGE == DOCS / "states.md"
    assert draw_states.main(["--check"]) == 0


def test_a_stale_page_of_states_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "states.md"
    monkeypatch.setattr(draw_states, "PAGE", page)
    assert draw_states.main(["--check"]) == 1
    page.write_text(draw_states.render() + "and more\n")
    assert draw_states.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().err
    assert draw_states.main([]) == 0
    assert draw_states.main(["--check"]) == 0


def dict_texts(tree: ast.Module, name: str) -> Iterator[str]:
    """The texts that stand as values in a dict of a module."""
    for statement in tree.body:
        if (
            isinstance(statement, ast.Assign)
            and isinstance(statement.value, ast.Dict)
            and any(isinstance(to, ast.Name) and to.id == name for to in statement.targets)
        ):
            for value in statement.value.values:
                assert isinstance(value, ast.Constant)
                yield str(value.value)


def texts(tree: ast.Module, node: ast.expr) -> Iterator[str]:
    """The fixed texts in what an error is made of."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            for value in values:
                yield from texts(tree, value)
        case ast.FormattedValue(value=value):
            yield from texts(tree, value)
        case ast.Subscript(value=ast.Name(id=name)):
            found = list(dict_texts(tree, name))
            assert found, f"there is no dict {name}"
            yield from found


def refusals(path: Path) -> list[tuple[int, str]]:
    """The fixed texts of a module's refusals, with the line of each."""
    tree = ast.parse(path.read_text())
    return [
        (node.lineno, text.strip())
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in REFUSALS
        for text in texts(tree, node.args[0])
    ]


@pytest.mark.parametrize("path", [path for path in SOURCES if refusals(path)], ids=name_of)
def test_every_refusal_is_listed(path: Path) -> None:
    missing = [f"line {line}: {text}" for line, text in refusals(path) if text not in DEVIATIONS]
    assert not missing


def test_refusals_are_found_in_the_code() -> None:
    found = [text for path in SOURCES for _, text in refusals(path)]
    assert "the page size of the source's machine is not supported" in found  # a plain text
    assert "belongs to" in found  # a part of a text
    assert "a record for RDMA, which is not supported" in found  # a text in a dict


def test_limits_have_the_values_of_the_code() -> None:
    rows = re.findall(
        r"^\| `(switchover\.[\w.]+\.[A-Z_]+)` \| (\d+) \|", text_of("deviations"), re.M
    )
    assert rows
    assert {name: resolve(name) for name, _ in rows} == {name: int(value) for name, value in rows}


def test_every_limit_is_listed() -> None:
    listed = set(re.findall(r"`(switchover\.[\w.]+\.[A-Z_]+)`", text_of("deviations")))
    limits = {
        f"switchover.{'.'.join(path.relative_to(SRC).with_suffix('').parts)}.{name}"
        for package in FACING_PEERS
        for path in (SRC / package).rglob("*.py")
        for name in re.findall(r"^(MAX_\w+|\w+_(?:LIMIT|TIMEOUT)_\w+) = ", path.read_text(), re.M)
    }
    # What the kernel takes in one call, and the length of a string that has one byte of it, are
    # not ours to choose.
    limits -= {
        "switchover.channel.connection.MAX_BUFFERS",
        "switchover.wire.cursor.MAX_COUNTED_STRING",
    }
    assert limits <= listed


def test_capabilities_are_as_in_the_code() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (accepted|refused)", text_of("deviations"), re.M))
    assert rows == {
        str(capability): "accepted" if capability in DESTINATION_CAPABILITIES else "refused"
        for capability in Capability
    }


def test_every_thread_is_listed() -> None:
    names = {
        name
        for path in SOURCES
        for name in re.findall(r"\bWorker\(\s*f?\"([^\"{]+)", path.read_text())
    }
    assert names
    assert {name for name in names if name not in THREADS} == set()


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text()
