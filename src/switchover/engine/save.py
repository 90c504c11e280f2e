"""From a guest that is held to a stream."""

from collections.abc import Iterator

import numpy as np

from ..errors import GuestError
from ..guest.parked import HeldDevice, ParkedGuest
from ..guest.ram import HeldBlock
from ..model.ramblock import PageRun, ZeroRun, page_indices
from ..protocol.savevm import Buffers, SaveVM
from ..wire.command import Command, CommandMessage, ping
from ..wire.ram import EMPTY_BODY, MAX_RUN, RAMEncoder
from ..wire.vfio import END_OF_STATE, INIT_DATA_SENT, SETUP_BODY, encode_data_header
from .progress import Progress

_PING = 1
_END: Buffers = [END_OF_STATE]
_BLOCK_BYTES = 1 << 20
"""As much as QEMU reads from a VFIO device at once."""


def save_guest(
    guest: ParkedGuest,
    save: SaveVM,
    progress: Progress,
    *,
    opens_return_path: bool,
    sends_switchover_start: bool,
    marks_initial_data: bool = False,
) -> Iterator[Buffers]:
    """The stream of a guest, each page once.

    Args:
        guest: A guest with its devices.
        save: The order of the stream. Its state tells how far the buffers that were last given
            bring the stream; once it is END, whoever reads them may have a whole guest.
        progress: Where pages are counted.
        opens_return_path: Whether the destination is asked to answer. A channel that goes one way
            must not ask: nobody would hear the answer.
        sends_switchover_start: Whether the destination is told that the machine has stopped.
        marks_initial_data: Whether it is told when a VFIO device's initial data is all there, as
            with the capability `switchover-ack`, so that it can get ready and say so.

    Yields:
        Buffers to be written before the next are asked for.

    Raises:
        GuestError: The guest has no devices yet.
    """
    if guest.devices is None:
        raise GuestError("the guest is not whole: its devices are missing")
    ram = RAMEncoder()
    blocks = [held.block for held in guest.blocks.values()]
    yield save.header(guest.configuration)
    if opens_return_path:
        yield save.command(CommandMessage(Command.OPEN_RETURN_PATH))
        yield save.command(ping(_PING))
    yield save.start_section(guest.ram_header, [ram.block_list(blocks), EMPTY_BODY])
    for device in guest.live.values():
        yield save.start_section(device.header, [SETUP_BODY])
    for device in guest.live.values():
        for body in _precopy_parts(device, marks_initial_data=marks_initial_data):
            yield save.part_section(device.header, body)
    for held in guest.blocks.values():
        for body in _save_block(held, ram, progress):
            yield save.part_section(guest.ram_header, [*body, EMPTY_BODY])
    if sends_switchover_start:
        yield save.command(CommandMessage(Command.SWITCHOVER_START))
    yield save.end_section(guest.ram_header, [EMPTY_BODY])
    for device in guest.live.values():
        pieces = [*_data_blocks(device, device.precopy_bytes, len(device.data)), _END]
        yield from save.end_section_pieces(device.header, pieces)
    if guest.devices.data:
        yield save.device_sections(guest.devices.data)
    yield save.end(guest.devices.description)


def _precopy_parts(device: HeldDevice, *, marks_initial_data: bool) -> Iterator[Buffers]:
    """The bodies that hold what a device gave while its machine ran, the mark at their end."""
    if not device.precopy_bytes:
        return
    for block in _data_blocks(device, 0, device.precopy_bytes):
        yield [*block, END_OF_STATE]
    if marks_initial_data:
        yield [INIT_DATA_SENT]


def _data_blocks(device: HeldDevice, first: int, end: int) -> Iterator[Buffers]:
    data = memoryview(device.data)
    for start in range(first, end, _BLOCK_BYTES):
        block = data[start : min(start + _BLOCK_BYTES, end)]
        yield [encode_data_header(len(block)), block]


def _save_block(held: HeldBlock, ram: RAMEncoder, progress: Progress) -> Iterator[Buffers]:
    """The block's pages in as few records as they need, those with content first in each body."""
    for first in range(0, held.block.page_count, MAX_RUN):
        populated = held.populated[first : first + MAX_RUN]
        body: Buffers = []
        pages = np.flatnonzero(populated) + first
        if len(pages):
            where = page_indices(pages)
            body += ram.pages(PageRun(held.block, where, held.memory[where]))
        zeros = np.flatnonzero(~populated) + first
        if len(zeros):
            body += ram.zeros(ZeroRun(held.block, zeros))
        progress.pages += len(pages)
        progress.zero_pages += len(zeros)
        yield body
