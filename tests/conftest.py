"""The options that say where the peers are, and whether a test may do without one."""

from pathlib import Path

import pytest

from switchover.testing import default_directory


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("peers", "the real QEMUs that the compat tests talk to")
    group.addoption(
        "--peers-dir",
        type=Path,
        default=default_directory(),
        metavar="DIR",
        help="where `make peers` has put them (default: %(default)s)",
    )
    group.addoption(
        "--peers-required",
        action="store_true",
        help="a missing peer fails the tests that need it, which are skipped otherwise",
    )


@pytest.fixture(scope="session")
def peers_directory(pytestconfig: pytest.Config) -> Path:
    """Where the peers are."""
    directory = pytestconfig.getoption("--peers-dir")
    assert isinstance(directory, Path)
    return directory
