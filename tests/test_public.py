"""The public names are the documented ones, and each is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import switchover

PAGE = Path(__file__).parent.parent / "docs" / "library.md"


def documented() -> set[str]:
    """The names in the first column of the page's tables, and the root of the errors."""
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)} | {"MigrationError"}


def test_the_public_names_are_the_documented_ones() -> None:
    assert set(switchover.__all__) == documented()
    assert list(switchover.__all__) == sorted(switchover.__all__)
    assert set(switchover.__all__) <= set(dir(switchover))


@pytest.mark.parametrize("name", switchover.__all__)
def test_each_name_is_there_and_documents_itself(name: str) -> None:
    thing = getattr(switchover, name)
    assert thing.__name__ == name
    assert thing.__doc__


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = switchover.nothing


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = "import sys, switchover; print({'numpy', 'unicorn', 'rich'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
