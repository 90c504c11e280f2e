"""The house rules a machine can check: imports, purity, and a test file for each pure module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "switchover"
TESTS = ROOT / "tests"

GROUND = {"errors", "model"}
MACHINE = GROUND | {"worker"}
"""What those may stand on who run threads."""

MAY_IMPORT = {
    "errors": set[str](),
    "worker": {"errors"},
    "model": {"errors"},
    "wire": GROUND,
    "protocol": GROUND | {"wire"},
    "kernel": {"errors"},
    "channel": MACHINE,
    "tracker": MACHINE | {"kernel"},
    "vfio": MACHINE | {"kernel"},
    # A guest is made of devices.
    "guest": MACHINE | {"kernel", "vfio"},
    # The columns meet here. Of wire it takes the parsers that LoadVM is given, the bodies that
    # SaveVM is given, and the messages that both of them hand on.
    "engine": MACHINE | {"protocol", "wire", "channel", "tracker", "guest", "vfio"},
    "analyze": GROUND | {"protocol"},
    # A program whose calls on VFIO's descriptors are answered by a device of ours.
    "player": MACHINE | {"kernel", "vfio"},
    "qmp": MACHINE | {"engine", "guest", "vfio"},
    "trial": MACHINE | {"channel", "guest", "vfio", "engine"},
    "demo": GROUND | {"vfio", "trial"},
    "testing": MACHINE
    | {"protocol", "wire", "channel", "tracker", "guest", "kernel", "vfio", "player", "engine"},
    # One move between two real QEMUs, with a device of ours.
    "trial_qemu": GROUND | {"vfio", "player", "testing"},
    "bench": GROUND | {"vfio", "player", "trial", "trial_qemu", "testing"},
    "cli": MACHINE
    | {"qmp", "analyze", "trial", "demo", "bench", "engine", "channel", "tracker", "guest", "vfio"}
    | {"player", "trial_qemu", "testing"},
}
PURE = ("model", "wire", "protocol")
PURE_MODULES = ("qmp/message.py", "qmp/session.py")
"""Those of a package that is not pure as a whole."""
IMPURE = {
    "asyncio",
    "io",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
}


def modules(package: str = "") -> list[str]:
    """The modules of a package, as paths."""
    return sorted(path.relative_to(SRC).as_posix() for path in (SRC / package).rglob("*.py"))


def package_of(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


def imports(module: str, source: str) -> Iterator[str]:
    """What a module imports, by whole names."""
    here = ("switchover", *Path(module).parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module) if part)
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def breaches(module: str, source: str) -> list[str]:
    """The imports of a module that it may not have."""
    package = package_of(module)
    found = []
    for target in imports(module, source):
        top, _, rest = target.partition(".")
        if top == "switchover":
            other = rest.split(".")[0]
            if other not in MAY_IMPORT[package] | {package, "__version__"}:
                found.append(target)
        elif (package in PURE or module in PURE_MODULES) and top in IMPURE:
            found.append(target)
    return found


@pytest.mark.parametrize("module", [m for m in modules() if not package_of(m).startswith("__")])
def test_a_module_imports_only_what_it_may(module: str) -> None:
    assert breaches(module, (SRC / module).read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("model/a.py", "from ..wire.cursor import Cursor", "switchover.wire.cursor.Cursor"),
        ("model/a.py", "import time", "time"),
        ("qmp/message.py", "import asyncio", "asyncio"),
        ("qmp/a.py", "from ..channel.open import x", "switchover.channel.open.x"),
        ("wire/a.py", "from ..protocol import loadvm", "switchover.protocol.loadvm"),
        ("wire/a.py", "def f():\n    from os import path", "os.path"),
        ("protocol/a.py", "from ..engine.load import x", "switchover.engine.load.x"),
        ("protocol/a.py", "from .. import worker", "switchover.worker"),
        ("protocol/a.py", "import switchover.channel.base", "switchover.channel.base"),
        ("errors.py", "from .model.section import x", "switchover.model.section.x"),
        ("channel/a.py", "from ..protocol.event import x", "switchover.protocol.event.x"),
        ("engine/a.py", "from ..cli.main import main", "switchover.cli.main.main"),
        ("engine/a.py", "from ..testing import x", "switchover.testing.x"),
    ],
)
def test_a_breach_is_found(module: str, source: str, breach: str) -> None:
    assert breaches(module, source) == [breach]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model/a.py", "import numpy, json\nfrom .section import x\nfrom ..errors import y"),
        ("protocol/a.py", "from ..wire.ram import x\nfrom ..model import y"),
        ("engine/a.py", "import time, os\nfrom ..protocol.event import x"),
        ("qmp/a.py", "import asyncio\nfrom ..guest.base import Guest"),
        ("worker.py", "import threading\nfrom .errors import x"),
    ],
)
def test_what_is_allowed_is_no_breach(module: str, source: str) -> None:
    assert breaches(module, source) == []


@pytest.mark.parametrize("package", PURE)
def test_each_module_of_pure_code_has_its_test_file(package: str) -> None:
    tested = {
        f"{package}/{path.name.removeprefix('test_')}"
        for path in (TESTS / package).glob("test_*.py")
    }
    assert tested == {module for module in modules(package) if not module.endswith("__init__.py")}


@pytest.mark.parametrize("module", PURE_MODULES)
def test_each_pure_module_has_its_test_file(module: str) -> None:
    package, name = module.split("/")
    assert (SRC / module).is_file()
    assert (TESTS / package / f"test_{name}").is_file()


def test_each_module_says_what_it_is() -> None:
    silent = [m for m in modules() if not ast.get_docstring(ast.parse((SRC / m).read_text()))]
    assert silent == []
