"""RAM of our own making in a real QEMU, and guests of several sizes in ours."""

from pathlib import Path

import numpy as np
import pytest
from tests.compat.parking import receive, send

from switchover.channel.connection import connect
from switchover.engine.progress import Progress
from switchover.engine.source import ParkedSource
from switchover.guest.parked import ParkedGuest
from switchover.model.address import UnixAddress
from switchover.model.configuration import Configuration
from switchover.model.device import DeviceState
from switchover.model.ramblock import PageRun, RAMBlock
from switchover.model.section import SectionHeader
from switchover.testing import Peer, Qemu
from switchover.wire.description import encode_description
from switchover.wire.ram import RAM_IDSTR, RAM_VERSION

MIB = 1 << 20
OVERHEAD_BYTES = 128 * MIB
"""The interpreter, numpy, buffers and tables: all that is not the guest's RAM."""


def ram_only_guest(memory: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> ParkedGuest:
    """A guest of machine `none`: one block, no devices."""
    configuration = Configuration("none")
    block = RAMBlock("ram", memory.nbytes)
    guest = ParkedGuest(configuration, [block], SectionHeader(2, RAM_IDSTR, 0, RAM_VERSION))
    populated = np.flatnonzero(memory.any(axis=1))
    guest.blocks["ram"].store_pages(PageRun(block, populated, memory[populated]))
    guest.devices = DeviceState(b"", encode_description(configuration), ())
    return guest


def test_ram_of_our_own(peer: Peer) -> None:
    random = np.random.default_rng(1)
    memory = random.integers(0, 256, (16 * MIB // 4096, 4096), np.uint8)
    memory[random.random(len(memory)) < 0.5] = 0
    with Qemu(peer, "none", "16M", incoming="defer") as destination:
        path = str(destination.directory / "migration")
        destination.migrate_incoming(f"unix:{path}")
        with connect(UnixAddress(path)) as channel:
            ParkedSource(ram_only_guest(memory), channel, Progress()).run()
        destination.wait_status("completed")
        assert destination.save_memory(0, memory.nbytes) == memory.tobytes()


@pytest.mark.parametrize("size_mib", [64, 512, 2048])
def test_memory_grows_with_the_guest_once(peer_10_0: Peer, size_mib: int, tmp_path: Path) -> None:
    backing, file = tmp_path / "backing", tmp_path / "guest"
    pattern = np.random.default_rng(2).integers(0, 256, 16 * MIB, np.uint8).tobytes()
    with backing.open("wb") as out:
        for _ in range(size_mib // 16):
            out.write(pattern)
    ram = f"memory-backend-file,id=ram,size={size_mib}M,mem-path={backing},share=off"
    machine, memory = "none,memory-backend=ram", f"{size_mib}M"
    with Qemu(peer_10_0, machine, memory, extra=["-object", ram]) as source:
        source.set_parameters({"max-bandwidth": 0})
        received = receive(source, file)
    assert received.report["ram_bytes"] == size_mib * MIB
    assert received.report["pages"] == size_mib * MIB // 4096
    assert received.peak_rss_bytes <= size_mib * MIB + OVERHEAD_BYTES
    backing.unlink()
    with Qemu(peer_10_0, "none", memory, incoming="defer") as destination:
        sent = send(file, destination)
        assert sent.peak_rss_bytes <= size_mib * MIB + OVERHEAD_BYTES
        for offset in range(0, size_mib * MIB, 16 * MIB):
            assert destination.save_memory(offset, 16 * MIB) == pattern
