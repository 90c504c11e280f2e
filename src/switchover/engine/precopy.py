"""The source of a guest that runs while it is sent.

Setup, then pass after pass over what the guest has written meanwhile, until what is left takes no
longer than the downtime limit and the destination has said that it is ready; then the guest is
stopped and the rest follows. If that fails before the end mark the guest goes on here.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..channel.base import Channel
from ..errors import ChannelError, DeviceError, PeerError, UsageError
from ..guest.base import Device, Guest
from ..guest.globalstate import GlobalState
from ..model.capability import Capability
from ..model.configuration import Configuration
from ..model.device import DeviceSection, DeviceState
from ..model.parameter import Parameters
from ..model.ramblock import TARGET_PAGE_SIZE
from ..model.section import SectionHeader
from ..model.status import MigrationStatus
from ..model.switchover import SwitchoverAckMode, sends_switchover_start
from ..protocol.convergence import Convergence
from ..protocol.savevm import Buffers, SaveVM
from ..wire.command import Command, CommandMessage, ping
from ..wire.description import describe_opaque, encode_description
from ..wire.ram import EMPTY_BODY, MAX_RUN, RAM_IDSTR, RAM_VERSION
from ..wire.return_path import X_REPORT_PING
from ..wire.vmstate import describe_device, encode_vmstate
from .ack_wait import AckWait
from .live import open_live_source
from .live_section import LiveSource
from .outgoing import UNSURE, OutgoingMigration
from .outlook import RAM_SECTION_ID, Outlook
from .progress import Progress
from .ram_source import RAMSource

IDLE_NS = 20_000_000
"""While nothing is left to be sent and the guest must not be stopped yet, what was written is
looked for so often: QEMU does not stop looking, which takes a whole CPU."""

_PING = 1


class PrecopySource(OutgoingMigration):
    """Sends one guest, which may run.

    The guest belongs to the migration until `run` returns or raises. Then it is stopped if it is at
    the destination, or if nobody can know; else it is as it was before.

    Args:
        guest: The guest.
        channel: Where it goes.
        capabilities: Those that are set.
        parameters: Those that are set.
        progress: Where it is counted.
        ack_mode: Who counts the ACKs.
        resumes_when_unsure: Whether the guest goes on here when everything was written and no SHUT
            came, as QEMU's does: it may then run on both sides.

    Raises:
        UsageError: An ACK is to be waited for that cannot come.
    """

    def __init__(
        self,
        guest: Guest,
        channel: Channel,
        capabilities: frozenset[Capability],
        parameters: Parameters,
        progress: Progress,
        *,
        ack_mode: SwitchoverAckMode = SwitchoverAckMode.LEGACY,
        resumes_when_unsure: bool = False,
    ) -> None:
        if Capability.SWITCHOVER_ACK in capabilities and not channel.has_return_path:
            raise UsageError(
                f"capability 'switchover-ack' needs a return path, which {channel.name} does not "
                "have"
            )
        super().__init__(
            channel,
            progress,
            SaveVM(),
            opens_return_path=Capability.RETURN_PATH in capabilities and channel.has_return_path,
            ack_mode=ack_mode,
            waits_for_ack=Capability.SWITCHOVER_ACK in capabilities,
            takes_reports=Capability.X_LOAD_REPORT in capabilities,
        )
        self._guest = guest
        self._resumes_when_unsure = resumes_when_unsure
        self._convergence = Convergence(
            parameters.max_bandwidth, parameters.downtime_limit_ms, time.monotonic_ns()
        )
        self._ack_wait = AckWait(self._acks, progress)
        self._outlook = Outlook(self._convergence, self._told, progress)
        self._pauses = Capability.PAUSE_BEFORE_SWITCHOVER in capabilities
        self._is_continued = False
        self._was_running = False
        self._delayed_ns = 0
        ids = iter(range(RAM_SECTION_ID, 1 << 16))
        self._ram_header = SectionHeader(next(ids), RAM_IDSTR, 0, RAM_VERSION)
        self._live: list[LiveSource] = [
            open_live_source(device, next(ids), self._acks) for device in guest.live_devices
        ]
        self._next_id = next(ids)
        self.set_parameters(parameters)
        progress.machine = guest.machine
        progress.ram_bytes = sum(ram.block.used_length for ram in guest.ram)

    def set_parameters(self, parameters: Parameters) -> None:
        """Changes the limits of a migration that goes on; from any thread."""
        self._convergence.max_bandwidth = parameters.max_bandwidth
        self._convergence.downtime_limit_ms = parameters.downtime_limit_ms
        self._convergence.avail_switchover_bandwidth = parameters.avail_switchover_bandwidth
        self._ack_wait.timeout_ms = parameters.switchover_ack_timeout_ms
        self._ack_wait.policy = parameters.switchover_ack_timeout_policy
        self._wake.set()

    def continue_switchover(self) -> None:
        """Goes on from PRE_SWITCHOVER; from any thread."""
        self._is_continued = True
        self._wake.set()

    def run(self) -> None:
        """See OutgoingMigration; leaves the guest in the condition that the class promises."""
        try:
            super().run()
        except BaseException as error:
            may_go_on = self._resumes_when_unsure or not self.may_run_there
            self._finish_live(is_moved=False)
            if self._was_running and may_go_on:
                self._guest.cont()
            self._progress.stopped()
            if self.may_run_there and isinstance(error, ChannelError):
                raise PeerError(f"{error}; {UNSURE}", after_switchover=True) from error
            raise
        self._finish_live(is_moved=True)

    def _finish_live(self, *, is_moved: bool) -> None:
        """The live devices are read no longer; what one thinks of that changes nothing."""
        for live in self._live:
            with suppress(DeviceError):
                live.finish(is_moved=is_moved)

    # Writing

    def _send(self) -> None:
        ram = RAMSource(self._guest.ram)
        self._progress.tracking = ram.tracking
        try:
            self._set_up(ram)
            self._progress.enter(MigrationStatus.ACTIVE)
            while not self._may_switch_over(ram):
                self._iterate(ram)
            self._switch_over(ram)
        finally:
            ram.stop()
        self._channel.finish()

    def _set_up(self, ram: RAMSource) -> None:
        save = self._save
        self._write(save.header(Configuration(self._guest.machine)))
        if self._opens_return_path:
            self._write(save.command(CommandMessage(Command.OPEN_RETURN_PATH)))
            self._write(save.command(ping(_PING)))
            if self._takes_reports:
                self._write(save.command(ping(X_REPORT_PING)))
        self._write(save.start_section(self._ram_header, [ram.block_list(), EMPTY_BODY]))
        for live in self._live:
            self._write(save.start_section(live.header, live.setup()))

    def _may_switch_over(self, ram: RAMSource) -> bool:
        """Whether little enough is left and nobody is waited for."""
        self._outlook.look(ram.remaining_bytes, self._live)
        if not self._outlook.has_little_left:
            self._progress.not_waiting()
            return False
        if ram.dirty_pages and not self._may_stop:
            return False
        began = time.monotonic_ns()
        ram.sync()
        self._progress.dirty_sync_count += 1
        self._outlook.look_closely(ram.remaining_bytes, self._live, time.monotonic_ns() - began)
        if not self._outlook.has_little_left and not self._has_nothing_to_wait_for:
            self._progress.not_waiting()
            return False
        if self._may_stop:
            return True
        self._ack_wait.look()
        return self._may_stop

    @property
    def _has_nothing_to_wait_for(self) -> bool:
        """Whether nobody is kept waiting by what is left, and no more of it can be sent before."""
        return not self._guest.is_running and not self._outlook.precopy_bytes

    @property
    def _may_stop(self) -> bool:
        """Whether the destination is ready, or nobody asks it."""
        return self._acks.is_satisfied or not self._guest.is_running

    def _iterate(self, ram: RAMSource) -> None:
        """Sends the next of everything, and pauses where there is nothing, or no hurry."""
        self._wait_for_limit()
        slice_pages = self._convergence.slice_bytes // TARGET_PAGE_SIZE
        max_pages = max(1, min(slice_pages, MAX_RUN))
        has_sent_ram = self._write_ram(ram, max_pages)
        has_sent_piece = False
        for live in self._live:
            self._wait_for_limit()
            if body := live.iterate():
                self._write_part(live.header, body)
                has_sent_piece = True
        if has_sent_piece or (has_sent_ram and not self._is_waiting_idly(ram)):
            return
        if self._outlook.wants_probe and (body := ram.probe_body(max_pages)):
            self._write_part(self._ram_header, [*body, EMPTY_BODY])
            return
        self._convergence.paused()
        self._pause(IDLE_NS)

    def _is_waiting_idly(self, ram: RAMSource) -> bool:
        """Whether only the ACK is missing: then what the guest writes can wait for a while."""
        return self._progress.waiting_ns is not None and not ram.dirty_pages

    def _wait_for_limit(self) -> None:
        """Waits until more may be sent."""
        self._check_return_path()
        began = time.monotonic_ns()
        while delay_ns := self._convergence.delay_ns(time.monotonic_ns()):
            self._pause(delay_ns)
        self._delayed_ns = time.monotonic_ns() - began

    def _write_ram(self, ram: RAMSource, max_pages: int = MAX_RUN) -> bool:
        """Writes some dirty pages; whether there were any."""
        body, pages, zero_pages = ram.next_body(max_pages)
        if not body:
            return False
        self._progress.pages += pages
        self._progress.zero_pages += zero_pages
        self._write_part(self._ram_header, [*body, EMPTY_BODY])
        return True

    def _write_part(self, header: SectionHeader, body: Buffers) -> None:
        buffers = self._save.part_section(header, body)
        began = time.monotonic_ns()
        self._write(buffers)
        self._told.wrote(header.section_id, sum(map(len, body)), self._progress.transferred_bytes)
        held_ns = time.monotonic_ns() - began + self._delayed_ns
        self._convergence.sent(sum(map(len, buffers)), held_ns, began)

    def _pause(self, duration_ns: int | None) -> None:
        """Waits, unless something happens that the writer must look at; without limit if None."""
        self._wake.wait(None if duration_ns is None else duration_ns / 1e9)
        self._wake.clear()
        self._check_return_path()
        self._check_cancelled()

    # Switching over

    def _switch_over(self, ram: RAMSource) -> None:
        # Only now, as in QEMU: whoever stopped the guest meanwhile wants it stopped on either side.
        self._was_running = self._guest.is_running
        self._progress.stopping()
        if self._was_running:
            self._guest.stop()
        if self._pauses:
            self._progress.phase("pause")
            self._progress.enter(MigrationStatus.PRE_SWITCHOVER)
            while not self._is_continued:
                self._pause(None)
        self._progress.enter(MigrationStatus.DEVICE)
        if sends_switchover_start(self._guest.machine):
            self._write(self._save.command(CommandMessage(Command.SWITCHOVER_START)))
        self._progress.phase("sync")
        ram.sync()
        self._progress.phase("ram")
        while ram.dirty_pages:
            self._write_ram(ram)
        for live in self._live:
            for body in live.complete():
                self._progress.phase(live.header.idstr)
                self._write_part(live.header, body)
        self._write(self._save.end_section(self._ram_header, [EMPTY_BODY]))
        for live in self._live:
            self._progress.phase(live.header.idstr)
            for buffers in self._save.end_section_pieces(live.header, live.end()):
                self._write(buffers)
        self._progress.phase("devices")
        self._write(self._save.end(self._write_devices()))
        self._progress.phase("wait")

    def _write_devices(self) -> bytes:
        """Writes the sections of what was saved once the guest stood still; describes them."""
        described, sections = [], []
        start = 0
        for header, body, layout in self._saved_devices():
            buffers = self._save.full_section(header, body)
            self._write(buffers)
            described.append(layout)
            sections.append(DeviceSection(header, start + len(buffers[0]), len(body)))
            start += sum(map(len, buffers))
        description = encode_description(Configuration(self._guest.machine), described)
        self._progress.devices = DeviceState(b"", description, tuple(sections))
        return description

    def _saved_devices(self) -> Iterator[tuple[SectionHeader, bytes, Mapping[str, Any]]]:
        for live in self._live:
            if (body := live.state()) is not None:
                yield live.header, body, describe_opaque(live.header, len(body))
        state = GlobalState(was_running=self._was_running)
        devices: Sequence[Device] = (*self._guest.devices, state)
        for section_id, device in enumerate(devices, self._next_id):
            layout, values = device.description, device.save()
            header = SectionHeader(section_id, device.idstr, 0, layout.version_id)
            yield header, encode_vmstate(layout, values), describe_device(header, layout, values)
