"""Checks that each pure module is covered whole, lines and branches, by its own test file alone.

The tests run once. Coverage notes for each line by which test file it was run, and a module is
measured by what its own file ran, and by what its import ran. Exit code 0: all are; 1: a module is
not, or a test fails.
"""

import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from io import StringIO
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"
PACKAGES = ("model", "wire", "protocol")
MODULES = {"qmp": ("message", "session")}
"""The pure ones of other packages."""
IMPORT = "import"
"""The context of what runs when the modules are imported, before there is any test file."""


class ContextSwitch:
    """Tells coverage which test file collects or runs."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self._measured = measured

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        """A test file is imported, which may already call what it tests."""
        if isinstance(collector, pytest.Module):
            self._measured.switch_context(_context(collector.path))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A test begins."""
        self._measured.switch_context(_context(item.path))


def _context(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _modules() -> Iterator[tuple[Path, Path]]:
    """Each module with its test file."""
    for package in PACKAGES:
        for path in sorted((SRC / "switchover" / package).glob("*.py")):
            if path.stem != "__init__":
                yield path, _test_of(package, path.stem)
    for package, stems in MODULES.items():
        for stem in stems:
            yield SRC / "switchover" / package / f"{stem}.py", _test_of(package, stem)


def _test_of(package: str, stem: str) -> Path:
    return ROOT / "tests" / package / f"test_{stem}.py"


def _import(path: Path) -> None:
    import_module(".".join(path.relative_to(SRC).with_suffix("").parts))


def _report(measured: coverage.Coverage, path: Path, context: str) -> str | None:
    """What a context leaves out of a module; None where it leaves out nothing."""
    report = StringIO()
    share = measured.report(
        [str(path)],
        contexts=[f"^{IMPORT}$", f"^{context}$"],
        show_missing=True,
        skip_covered=False,
        file=report,
    )
    if share == 100:
        return None
    return report.getvalue().splitlines()[2]


def main() -> int:
    """Runs the tests and prints what is left out."""
    with tempfile.TemporaryDirectory() as scratch:
        measured = coverage.Coverage(
            data_file=f"{scratch}/coverage", config_file=str(ROOT / "pyproject.toml")
        )
        measured.set_option("run:core", "ctrace")  # the one that knows contexts on every Python
        measured.start()
        measured.switch_context(IMPORT)
        pairs = list(_modules())
        untested = [str(test) for _, test in pairs if not test.exists()]
        if untested:
            print("no such test file:", *untested)
            return 1
        for path, _ in pairs:
            _import(path)
        tests = [str(test) for _, test in pairs]
        failed = pytest.main(["-q", "-p", "no:cacheprovider", *tests], [ContextSwitch(measured)])
        measured.stop()
        if failed:
            return 1
        missing = [_report(measured, path, _context(test)) for path, test in pairs]
    lines = [line for line in missing if line is not None]
    print(*lines, f"{len(pairs)} modules, {len(lines)} not covered by their own tests", sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
