"""A QEMU's guest with a played VFIO device comes to us, and goes on in another QEMU.

The device is simulated and its state is QEMU's to move: what arrives in the second QEMU's device is
compared with what the first one's had.
"""

from pathlib import Path

import pytest
from tests.compat.command import Switchover

from switchover.channel.file import open_file
from switchover.engine.load import load_guest
from switchover.model.vfio import VfioState
from switchover.player.vfio import PlayedDevice
from switchover.testing import BootSectorGuest, Peer, Qemu
from switchover.testing.vfio import VfioQemu
from switchover.vfio.options import parse_options
from switchover.vfio.sim import VfioSim

OPTIONS = "state=3M,initial=1M,allocate=20ms"
SWITCHOVER_ACK = ("return-path", "switchover-ack")
PARAMETERS = {"avail-switchover-bandwidth": 2_000_000_000, "max-bandwidth": 0}
"""QEMU's threshold would else collapse, now and then."""


def sim(*, is_empty: bool = True) -> VfioSim:
    return VfioSim(parse_options(OPTIONS, "nic"), is_empty=is_empty)


def words(capabilities: tuple[str, ...]) -> list[str]:
    return [word for name in capabilities for word in ("--capability", name)]


def park(peer: Peer, machine: str, file: Path, capabilities: tuple[str, ...]) -> VfioSim:
    """Moves the guest into a file; gives its device, whose state then moves no more."""
    device = sim(is_empty=False)
    with (
        VfioQemu(peer, [PlayedDevice("nic", device)], machine, guest=BootSectorGuest()) as source,
        Switchover("receive", "tcp:127.0.0.1:0", "--output", file, *words(capabilities)) as command,
    ):
        source.wait_serial("ABC")
        source.set_capabilities(*capabilities)
        source.set_parameters(PARAMETERS)
        source.migrate(command.wait_uri())
        outcome = command.wait()
        assert outcome.exit_code == 0, outcome.messages
        source.wait_status("completed")
        assert source.states("nic")[-4:] == ["PRE_COPY", "PRE_COPY_P2P", "STOP_COPY", "STOP"]
        has_acked = outcome.report["switchover_ack"]["sent_ms"] is not None
        assert has_acked is ("switchover-ack" in capabilities)
    return device


@pytest.mark.parametrize("capabilities", [SWITCHOVER_ACK, ("return-path",)], ids=["ack", "plain"])
@pytest.mark.parametrize("machine", ["pc-q35-10.0", "pc-q35-11.1"])
def test_guest_with_a_device_comes_in_and_goes_out(
    machine: str,
    capabilities: tuple[str, ...],
    peer_10_0: Peer,
    peer_11_1: Peer,
    tmp_path: Path,
) -> None:
    peer = peer_11_1 if machine.endswith("11.1") else peer_10_0
    file = tmp_path / "guest"
    device = park(peer, machine, file, capabilities)
    arrived = sim()
    with VfioQemu(
        peer,
        [PlayedDevice("nic", arrived)],
        machine,
        guest=BootSectorGuest(),
        incoming="defer",
    ) as destination:
        destination.set_capabilities(*capabilities)
        uri = f"unix:{destination.directory / 'migration'}"
        destination.migrate_incoming(uri)
        with Switchover("send", file, uri, *words(capabilities)) as command:
            outcome = command.wait()
        assert outcome.exit_code == 0, outcome.messages
        destination.wait_run_state("running")
        destination.wait_serial(lambda text: len(text) > 3)
        assert destination.states("nic") == ["RESUMING", "RUNNING_P2P", "RUNNING"]
    assert arrived.digest() == device.digest()
    # QEMU acknowledges what it was told of, in either mode.
    has_acked = outcome.report["switchover_ack"]["received_ms"] is not None
    assert has_acked is ("switchover-ack" in capabilities)


def test_parked_device_is_what_a_device_of_our_own_takes(peer_10_0: Peer, tmp_path: Path) -> None:
    file = tmp_path / "guest"
    device = park(peer_10_0, "pc-q35-10.0", file, SWITCHOVER_ACK)
    with open_file(str(file), str(file)) as channel:
        guest = load_guest(channel)
    ((idstr, held),) = guest.live.items()
    assert idstr.endswith("/vfio")
    assert 0 < held.precopy_bytes < len(held.data)
    ours = sim()
    ours.set_state(VfioState.RESUMING)
    ours.write(memoryview(held.data))
    ours.set_state(VfioState.STOP)
    assert ours.digest() == device.digest()


def test_qemu_reads_a_parked_device_from_the_file(peer_10_0: Peer, tmp_path: Path) -> None:
    file = tmp_path / "guest"
    device = park(peer_10_0, "pc-q35-10.0", file, ("return-path",))
    arrived = sim()
    with VfioQemu(
        peer_10_0,
        [PlayedDevice("nic", arrived)],
        "pc-q35-10.0",
        guest=BootSectorGuest(),
        incoming=f"file:{file}",
    ) as destination:
        destination.wait_run_state("running")
    assert arrived.digest() == device.digest()


def test_qemu_without_the_device_refuses_it(peer_10_0: Peer, tmp_path: Path) -> None:
    file = tmp_path / "guest"
    park(peer_10_0, "pc-q35-10.0", file, ("return-path",))
    with Qemu(peer_10_0, "pc-q35-10.0", guest=BootSectorGuest(), incoming="defer") as destination:
        uri = f"unix:{destination.directory / 'migration'}"
        destination.migrate_incoming(uri)
        with Switchover("send", file, uri) as command:
            outcome = command.wait()
        assert outcome.exit_code == 1
        assert "load of migration failed" in destination.wait_error()
        assert "Unknown savevm section or instance" in destination.stderr()
