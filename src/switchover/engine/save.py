"""From a guest that is held to a stream."""

from collections.abc import Iterator

import numpy as np

from ..errors import GuestError
from ..guest.parked import ParkedGuest
from ..guest.ram import HeldBlock
from ..model.ramblock import PageRun, ZeroRun, page_indices
from ..protocol.savevm import Buffers, SaveVM
from ..wire.command import Command, CommandMessage, ping
from ..wire.ram import EMPTY_BODY, MAX_RUN, RAMEncoder
from .progress import Progress

_PING = 1


def save_guest(
    guest: ParkedGuest,
    save: SaveVM,
    progress: Progress,
    *,
    opens_return_path: bool,
    sends_switchover_start: bool,
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
    for held in guest.blocks.values():
        for body in _save_block(held, ram, progress):
            yield save.part_section(guest.ram_header, [*body, EMPTY_BODY])
    if sends_switchover_start:
        yield save.command(CommandMessage(Command.SWITCHOVER_START))
    yield save.end_section(guest.ram_header, [EMPTY_BODY])
    if guest.devices.data:
        yield save.device_sections(guest.devices.data)
    yield save.end(guest.devices.description)


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
