"""The destination of a guest that runs on here.

The guest is this process's own: its RAM blocks and devices must be those of the stream. It runs
only behind SHUT, so that it never runs on two sides.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..channel.base import Channel
from ..channel.connection import Listener
from ..errors import CompatibilityError, GuestError, StreamError, TruncatedStream
from ..guest.base import Device, Guest
from ..guest.globalstate import GlobalState
from ..guest.ram import HeldBlock
from ..model.device import DeviceSection, DeviceState
from ..model.ramblock import PageRun, RAMBlock, RAMBlocksListed, ZeroRun
from ..protocol.event import (
    Configured,
    Event,
    LiveSectionsEnded,
    SectionItem,
    SectionStarted,
    StreamEnded,
)
from ..protocol.switchover_ack import SwitchoverAckDestination
from ..wire.cursor import Cursor
from ..wire.ram import RAM_IDSTR, RAMParser
from ..wire.vmstate import decode_vmstate
from .incoming import IncomingMigration, ReceiveOptions
from .live import open_live_destination
from .live_section import LiveDestination
from .load import StreamLoader
from .progress import Progress


class ArrivalLoader(StreamLoader):
    """Fills a guest of this process.

    Args:
        guest: The guest, which is stopped.
        acks: What the destination has to say.
        ready: Called with a live device's name when the source may stop the guest as far as that
            goes; from any thread.
        progress: Where it is counted.

    Attributes:
        was_running: Whether the guest ran at its source.
        live: Its live sections, by name.
    """

    def __init__(
        self,
        guest: Guest,
        acks: Callable[[], SwitchoverAckDestination],
        ready: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self._guest = guest
        opened = [open_live_destination(device, acks, ready) for device in guest.live_devices]
        self.live: dict[str, LiveDestination] = {device.idstr: device for device in opened}
        self._section_ids: dict[str, int] = {}
        parsers = [device.parser for device in opened]
        ram_bytes = sum(ram.block.used_length for ram in guest.ram)
        super().__init__([RAMParser(ram_bytes), *parsers], progress)
        self._blocks = {ram.block.idstr: HeldBlock(ram.block, ram.memory) for ram in guest.ram}
        self._global_state = GlobalState()
        self._devices_offset = 0
        self._missing = {RAM_IDSTR, *self.live}
        for device in opened:
            device.begin()

    @property
    def was_running(self) -> bool:
        """Whether the guest ran at its source."""
        return self._global_state.was_running

    def _apply(self, event: Event) -> None:
        match event:
            case SectionItem(item=PageRun() | ZeroRun() as run):
                self._store(self._blocks[run.block.idstr], run)
            case SectionItem(item=RAMBlocksListed(blocks=blocks)):
                self._check_blocks(blocks)
            case SectionItem(header=header, item=item):
                self.live[header.idstr].load(item, self.load.buffer.offset)
            case SectionStarted(header=header):
                self._missing.discard(header.idstr)
                self._section_ids[header.idstr] = header.section_id
            case LiveSectionsEnded():
                self._devices_offset = self.load.buffer.offset
            case Configured(configuration=configuration):
                machine = None if configuration is None else configuration.machine
                self._progress.machine = machine
                if machine != self._guest.machine:
                    raise CompatibilityError(
                        f"the machine type: expected '{self._guest.machine}', got '{machine}'"
                    )
            case StreamEnded(devices=devices):
                self._progress.devices = devices
                self._load_devices(devices)

    def _check_blocks(self, blocks: Sequence[RAMBlock]) -> None:
        expected = {held.block.idstr: held.block for held in self._blocks.values()}
        if {block.idstr: block for block in blocks} != expected:
            raise CompatibilityError(
                f"the RAM blocks: expected {_named(expected.values())}, got {_named(blocks)}"
            )
        self._progress.ram_bytes = sum(block.used_length for block in blocks)

    def _load_devices(self, state: DeviceState) -> None:
        devices = {device.idstr: device for device in (*self._guest.devices, self._global_state)}
        stateful = {device.idstr: device for device in self.live.values() if device.needs_state}
        for section in state.sections:
            body = state.data[section.start : section.start + section.size]
            offset = self._devices_offset + section.start
            if (live := stateful.pop(section.header.idstr, None)) is not None:
                live.load_state(body, offset)
                continue
            device = devices.pop(section.header.idstr, None)
            if device is None or section.header.instance_id != 0:
                raise CompatibilityError(
                    f"device '{section.header.idstr}' instance {section.header.instance_id} is "
                    "not in this machine"
                )
            device.load(_decode_device(device, Cursor(body, offset), section))
        if missing := [*self._missing, *devices, *stateful]:
            names = " and ".join(f"'{idstr}'" for idstr in sorted(missing))
            raise CompatibilityError(f"the stream lacks {names}")
        for live in self.live.values():
            live.end()

    def paces(self) -> Iterator[tuple[int, int]]:
        """The section ids of the live devices, and how long a MiB of each takes here.

        One thread reads the stream and loads what it read: the two times add up.
        """
        reading = self.receive_pace.ns_per_mib or 0
        for idstr, section_id in self._section_ids.items():
            if idstr in self.live:
                loading = self.live[idstr].load_pace.ns_per_mib
                yield section_id, 0 if loading is None else reading + loading


def _decode_device(device: Device, cursor: Cursor, section: DeviceSection) -> Mapping[str, Any]:
    try:
        values = decode_vmstate(device.description, cursor, section.header.version_id)
    except TruncatedStream as error:
        # The stream is whole: it is the two sides' layouts that differ.
        raise StreamError(
            f"device '{section.header.idstr}' has less state than its layout",
            offset=error.offset,
            expected="more",
            got=f"{section.size} bytes",
        ) from error
    if cursor.remaining:
        raise StreamError(
            f"device '{section.header.idstr}' has more state than its layout",
            offset=cursor.offset,
            expected=f"{section.size - cursor.remaining} bytes",
            got=section.size,
        )
    return values


def _named(blocks: Iterable[RAMBlock]) -> str:
    return ", ".join(f"'{block.idstr}' of {block.used_length} bytes" for block in blocks)


class ArrivingDestination(IncomingMigration):
    """Receives one guest, which then runs here if it ran there.

    Args:
        guest: The guest, which is stopped. It belongs to the migration until `run` returns.
        incoming: Where it comes from.
        options: How to behave.
        progress: Where it is counted.
        warn: Told, in a sentence, what is odd but not wrong.
    """

    def __init__(
        self,
        guest: Guest,
        incoming: Channel | Listener,
        options: ReceiveOptions,
        progress: Progress,
        warn: Callable[[str], None],
    ) -> None:
        if guest.is_running:
            raise GuestError("a guest that runs cannot receive another")
        self._arrival = ArrivalLoader(guest, lambda: self._acks, self._mark_ready, progress)
        super().__init__(incoming, self._arrival, options, progress, warn)
        self._guest = guest
        self._ready: deque[str] = deque()
        self._wake_lock = threading.Lock()
        self._wake_fileno = -1

    def run(self) -> None:
        """See IncomingMigration."""
        self._wake_fileno = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            super().run()
        finally:
            with self._wake_lock:
                os.close(self._wake_fileno)
                self._wake_fileno = -1

    def _mark_ready(self, idstr: str) -> None:
        """A device is ready for the switchover; from any thread."""
        with self._wake_lock:
            self._ready.append(idstr)
            if self._wake_fileno >= 0:
                os.eventfd_write(self._wake_fileno, 1)

    def _ack_devices(self) -> Iterable[str]:
        return [device.idstr for device in self._arrival.live.values() if device.wants_ack]

    def _take_ready(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake_fileno)
        while self._ready:
            self._acks.ready(self._ready.popleft())

    def _paces(self) -> Iterable[tuple[int, int]]:
        return self._arrival.paces()

    def _wake_filenos(self) -> Sequence[int]:
        return (self._wake_fileno,)

    def _take_over(self, channel: Channel) -> None:
        self._check_source(channel)
        self._shut(channel)
        if self._arrival.was_running:
            self._progress.phase("resume")
            self._guest.cont()
            self._progress.phases_end()
