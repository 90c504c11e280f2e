"""The QEMUs and the Linux guest as fixtures: a missing one skips its tests, or fails them."""

from pathlib import Path

import pytest

from switchover.testing import (
    PEERS,
    LinuxGuest,
    Peer,
    find_linux_guest,
    find_peer,
    missing_guest_reason,
    missing_reason,
)

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.compat)


def do_without(reason: str, config: pytest.Config) -> None:
    """Skips the test for the reason, or fails it where the peers are required."""
    if config.getoption("--peers-required"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require_peer(name: str, directory: Path, config: pytest.Config) -> Peer:
    """The peer of the name, or no test."""
    found = find_peer(name, directory)
    if found is None:
        do_without(missing_reason(name, directory), config)
    assert found is not None
    return found


@pytest.fixture(scope="session", params=PEERS)
def peer(
    request: pytest.FixtureRequest, peers_directory: Path, pytestconfig: pytest.Config
) -> Peer:
    """Each peer in turn."""
    return require_peer(str(request.param), peers_directory, pytestconfig)


@pytest.fixture(scope="session")
def peer_7_2(peers_directory: Path, pytestconfig: pytest.Config) -> Peer:
    """The peer that has no switchover-ack."""
    return require_peer("7.2", peers_directory, pytestconfig)


@pytest.fixture(scope="session")
def peer_10_0(peers_directory: Path, pytestconfig: pytest.Config) -> Peer:
    """The peer whose destination sends one switchover ACK."""
    return require_peer("10.0", peers_directory, pytestconfig)


@pytest.fixture(scope="session")
def peer_11_1(peers_directory: Path, pytestconfig: pytest.Config) -> Peer:
    """The peer whose source counts one switchover ACK for each device."""
    return require_peer("11.1", peers_directory, pytestconfig)


@pytest.fixture(scope="session")
def linux_guest(peers_directory: Path, pytestconfig: pytest.Config) -> LinuxGuest:
    """The guest that boots Linux and counts."""
    found = find_linux_guest(peers_directory)
    if found is None:
        do_without(missing_guest_reason(peers_directory), pytestconfig)
    assert found is not None
    return found
