"""The example of docs/vfio-without-hardware.md: a VFIO device of one's own inside a real QEMU.

What stands between the two marks is all that its author writes.
"""

import struct
from errno import EIO
from pathlib import Path

import pytest

from switchover.errors import DeviceError
from switchover.model.vfio import PciConfig
from switchover.player.process import why_not
from switchover.player.vfio import PlayedDevice
from switchover.testing import Peer
from switchover.testing.vfio import VfioQemu
from switchover.vfio.options import SimOptions
from switchover.vfio.sim import VfioSim

PAGE = Path(__file__).parents[2] / "docs" / "vfio-without-hardware.md"

needs_playing = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


# device: begin
class FlakyNic(PlayedDevice):
    """Its states and its data are VfioSim's; what it looks like and what fails is ours."""

    def __init__(self, is_empty: bool = False) -> None:
        options = SimOptions("nic0", state_bytes=20 << 20, initial=2 << 20, allocate_ns=0)
        sim = VfioSim(options, is_empty=is_empty)
        ids = struct.pack("<HHHHBBBB", 0x1234, 0x5678, 0, 0, 1, 0, 0, 0xFF)
        sim.config = PciConfig(ids.ljust(256, b"\0"))
        super().__init__("nic0", sim)
        self.is_broken = False

    def before(self, call: str, detail: str) -> None:
        if self.is_broken and (call, detail) == ("SET MIG_DEVICE_STATE", "STOP_COPY"):
            raise DeviceError(self.name, "go to STOP_COPY", EIO)


def migrate(source: VfioQemu, destination: VfioQemu) -> None:
    uri = f"unix:{destination.directory / 'migration'}"
    for qemu in (source, destination):
        qemu.set_parameters({"avail-switchover-bandwidth": 2_000_000_000})
    destination.migrate_incoming(uri)
    source.migrate(uri)


@needs_playing
def test_a_guest_goes_on_where_it_was_if_its_device_does_not_stop(peer_10_0: Peer) -> None:
    nic = FlakyNic()
    with VfioQemu(peer_10_0, [nic]) as source:
        nic.is_broken = True
        with VfioQemu(peer_10_0, [FlakyNic(is_empty=True)], incoming="defer") as destination:
            migrate(source, destination)
            source.wait_status("failed")
            source.wait_run_state("running")
        assert source.states("nic0")[-3:] == ["PRE_COPY_P2P", "RUNNING_P2P", "RUNNING"]
        assert [event.call for event in source.events if event.result == -EIO] == [
            "SET MIG_DEVICE_STATE"
        ]
        nic.is_broken = False
        with VfioQemu(peer_10_0, [FlakyNic(is_empty=True)], incoming="defer") as destination:
            migrate(source, destination)
            source.wait_status("completed")
            destination.wait_run_state("running")
            assert destination.states("nic0")[-3:] == ["RESUMING", "RUNNING_P2P", "RUNNING"]
            pci = destination.execute("human-monitor-command", **{"command-line": "info pci"})
            assert "1234:5678" in str(pci)


# device: end


def test_the_example_is_in_the_page() -> None:
    source = Path(__file__).read_text()
    example = source.split("# device: begin\n")[1].split("\n\n# device: end")[0]
    assert example.strip() in PAGE.read_text()
