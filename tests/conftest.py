"""The options that say where the peers are, and a listener for whoever needs one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from switchover.channel.connection import Listener
from switchover.model.address import InetAddress, UnixAddress
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


@pytest.fixture(params=["tcp", "unix"])
def listener(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Listener]:
    """Somebody who listens, over tcp and over a unix socket in turn."""
    directory = tmp_path_factory.mktemp("listener")
    address = (
        InetAddress("127.0.0.1", 0)
        if request.param == "tcp"
        else UnixAddress(str(directory / "socket"))
    )
    with Listener(address) as opened:
        yield opened
