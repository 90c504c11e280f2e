"""From a stream to a guest that is held."""

import os
import time
from collections.abc import Callable, Iterable, Iterator

from ..channel.base import Channel
from ..errors import MigrationError, StreamError
from ..guest.parked import HeldDevice, ParkedGuest
from ..guest.ram import HeldBlock
from ..model.configuration import Configuration
from ..model.ramblock import PageRun, RAMBlocksListed, ZeroRun
from ..model.section import LiveParser, SectionHeader
from ..protocol.event import (
    NEED_DATA,
    Configured,
    Event,
    SectionEnding,
    SectionItem,
    SectionStarted,
    StreamEnded,
    SwitchoverStarted,
)
from ..protocol.loadvm import LoadVM
from ..protocol.pace import Pace
from ..wire.ram import RAM_IDSTR, RAMParser
from ..wire.vfio import VfioData, VfioParser
from .progress import Progress

PHYSICAL_RAM_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
"""This machine's memory: a guest with more RAM cannot be held here."""


class StreamLoader:
    """Takes a stream in, a piece at a time; a subclass knows what becomes of it.

    Args:
        parsers: One for each live section that is welcome.
        progress: Where it is counted.
        find_parser: See `LoadVM`.

    Attributes:
        load: The stream's protocol.
        receive_pace: How long it takes to read what is there to be read.
    """

    def __init__(
        self,
        parsers: Iterable[LiveParser],
        progress: Progress,
        find_parser: Callable[[str], LiveParser | None] = lambda _: None,
    ) -> None:
        self.load = LoadVM(parsers, find_parser)
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
        max_ram_bytes: A source that announces more RAM is refused before any is reserved, and one
            whose VFIO devices give more beside the RAM when they do.
        progress: Where it is counted.
    """

    def __init__(self, max_ram_bytes: int, progress: Progress) -> None:
        super().__init__([RAMParser(max_ram_bytes)], progress, _find_parser)
        self._max_bytes = max_ram_bytes
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
            case SectionItem(header=header, item=VfioData(data=data)):
                self._hold(header, data)
            case SectionEnding(header=header) if header.idstr != RAM_IDSTR:
                device = self._held(header)
                device.precopy_bytes = len(device.data)
            case SectionStarted(header=header, has_footers=has_footers):
                self.guest.has_footers = has_footers
                if header.idstr != RAM_IDSTR:
                    self._held(header)
            case Configured(configuration=configuration):
                self._configuration = configuration
                self._progress.machine = configuration.machine if configuration else None
            case SwitchoverStarted():
                self.guest.sent_switchover_start = True
            case StreamEnded(devices=devices):
                self.guest.devices = devices
                self._progress.devices = devices

    def _held(self, header: SectionHeader) -> HeldDevice:
        return self.guest.live.setdefault(header.idstr, HeldDevice(header))

    def _hold(self, header: SectionHeader, data: memoryview) -> None:
        """Keeps some data of a VFIO device."""
        size = self.guest.ram_bytes + self.guest.live_bytes + len(data)
        if size > self._max_bytes:
            raise StreamError(
                f"{header.idstr}: the guest's devices have too much state",
                offset=self.load.buffer.offset,
                expected=f"at most {self._max_bytes} bytes with its RAM",
                got=size,
            )
        self._held(header).data += data

    def _reserve(self, header: SectionHeader, listed: RAMBlocksListed) -> None:
        self._guest = ParkedGuest(self._configuration, listed.blocks, header)
        self._progress.ram_bytes = self._guest.ram_bytes


def _find_parser(idstr: str) -> LiveParser | None:
    """The sections of VFIO devices are welcome, whatever the device."""
    is_vfio = idstr == "vfio" or idstr.endswith("/vfio")
    return VfioParser(idstr) if is_vfio else None


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
