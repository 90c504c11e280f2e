"""From a stream to a guest that is held."""

import os
import time
from collections.abc import Iterable, Iterator

from ..channel.base import Channel
from ..errors import MigrationError
from ..guest.parked import ParkedGuest
from ..guest.ram import HeldBlock
from ..model.configuration import Configuration
from ..model.ramblock import PageRun, RAMBlocksListed, ZeroRun
from ..model.section import LiveParser, SectionHeader
from ..protocol.event import (
    NEED_DATA,
    Configured,
    Event,
    SectionItem,
    SectionStarted,
    StreamEnded,
    SwitchoverStarted,
)
from ..protocol.loadvm import LoadVM
from ..protocol.pace import Pace
from ..wire.ram import RAMParser
from .progress import Progress

PHYSICAL_RAM_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
"""This machine's memory: a guest with more RAM cannot be held here."""


class StreamLoader:
    """Takes a stream in, a piece at a time; a subclass knows what becomes of it.

    Args:
        parsers: One for each live section that is welcome.
        progress: Where it is counted.

    Attributes:
        load: The stream's protocol.
        receive_pace: How long it takes to read what is there to be read.
    """

    def __init__(self, parsers: Iterable[LiveParser], progress: Progress) -> None:
        self.load = LoadVM(parsers)
        self.receive_pace = Pace()
        self._progress = progress

    def receive(self, channel: Channel) -> Iterator[Event]:
        """Reads once from the channel and takes in what that brought.

        Yields:
            Each event, after the guest has taken what it holds.
        """
        writable = self.load.buffer.writable()
        began = time.monotonic_ns()
        size = channel.recv_into(writable)
        if size:
            self.receive_pace.add(size, time.monotonic_ns() - began)
            self.load.buffer.commit(size)
        else:
            self.load.receive_end()
        self._progress.transferred_bytes = self.load.buffer.received_bytes
        while (event := self.load.next_event()) is not NEED_DATA:
            self._apply(event)
            yield event
        self._progress.tick()

    def _apply(self, event: Event) -> None:
        """Takes in what an event holds; views in it are valid until the next one only."""
        raise NotImplementedError

    def _store(self, block: HeldBlock, run: PageRun | ZeroRun) -> None:
        """Puts pages into their block and counts them."""
        if isinstance(run, PageRun):
            block.store_pages(run)
            self._progress.pages += len(run)
        else:
            block.store_zeros(run)
            self._progress.zero_pages += len(run)


class GuestLoader(StreamLoader):
    """Fills a guest that is held, whatever machine it is.

    Args:
        max_ram_bytes: A source that announces more RAM is refused before any is reserved.
        progress: Where it is counted.
    """

    def __init__(self, max_ram_bytes: int, progress: Progress) -> None:
        super().__init__([RAMParser(max_ram_bytes)], progress)
        self._configuration: Configuration | None = None
        self._guest: ParkedGuest | None = None

    @property
    def guest(self) -> ParkedGuest:
        """The guest, whose RAM is there once the block list has come."""
        if self._guest is None:
            raise MigrationError("the stream has not told of a guest yet")
        return self._guest

    def _apply(self, event: Event) -> None:
        match event:
            case SectionItem(item=PageRun() | ZeroRun() as run):
                self._store(self.guest.blocks[run.block.idstr], run)
            case SectionItem(header=header, item=RAMBlocksListed() as listed):
                self._reserve(header, listed)
            case SectionStarted(has_footers=has_footers):
                self.guest.has_footers = has_footers
            case Configured(configuration=configuration):
                self._configuration = configuration
                self._progress.machine = configuration.machine if configuration else None
            case SwitchoverStarted():
                self.guest.sent_switchover_start = True
            case StreamEnded(devices=devices):
                self.guest.devices = devices
                self._progress.devices = devices

    def _reserve(self, header: SectionHeader, listed: RAMBlocksListed) -> None:
        self._guest = ParkedGuest(self._configuration, listed.blocks, header)
        self._progress.ram_bytes = self._guest.ram_bytes


def load_guest(channel: Channel, max_ram_bytes: int = PHYSICAL_RAM_BYTES) -> ParkedGuest:
    """The guest in a stream that has a beginning and an end, such as a file's.

    Raises:
        MigrationError: The stream is not whole, or not one.
    """
    loader = GuestLoader(max_ram_bytes, Progress())
    while not loader.load.is_at_end:
        for _ in loader.receive(channel):
            pass
    return loader.guest
