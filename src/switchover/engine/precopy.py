"""The source of a guest that runs while it is sent.

Setup, then pass after pass over what the guest has written meanwhile, until what is left takes no
longer than the downtime limit and the destination has said that it is ready; then the guest is
stopped and the rest follows. If that fails before the end mark the guest goes on here.
"""

import time
from collections.abc import Sequence

from ..channel.base import Channel
from ..errors import ChannelError, GuestError, PeerError
from ..guest.base import Device, Guest
from ..guest.globalstate import GlobalState
from ..model.capability import Capability
from ..model.configuration import Configuration
from ..model.device import DeviceSection, DeviceState
from ..model.parameter import Parameters
from ..model.ramblock import TARGET_PAGE_SIZE
from ..model.section import SectionHeader
from ..model.status import MigrationStatus
from ..model.switchover import SwitchoverAckMode
from ..protocol.convergence import Convergence
from ..protocol.savevm import Buffers, SaveVM
from ..wire.command import Command, CommandMessage, ping
from ..wire.description import encode_description
from ..wire.prefixed import MAX_PREFIXED_BODY, encode_prefixed
from ..wire.ram import EMPTY_BODY, MAX_RUN, RAM_IDSTR, RAM_VERSION
from ..wire.vmstate import describe_device, encode_vmstate
from .outgoing import UNSURE, OutgoingMigration
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
        resumes_when_unsure: Whether the guest goes on here when everything was written and no SHUT
            came, as QEMU's does: it may then run on both sides.
    """

    def __init__(
        self,
        guest: Guest,
        channel: Channel,
        capabilities: frozenset[Capability],
        parameters: Parameters,
        progress: Progress,
        *,
        resumes_when_unsure: bool = False,
    ) -> None:
        opens_return_path = Capability.RETURN_PATH in capabilities and channel.has_return_path
        super().__init__(channel, progress, SaveVM(), opens_return_path=opens_return_path)
        self._guest = guest
        self._waits_for_ack = Capability.SWITCHOVER_ACK in capabilities
        self._resumes_when_unsure = resumes_when_unsure
        self._convergence = Convergence(
            parameters.max_bandwidth, parameters.downtime_limit_ms, time.monotonic_ns()
        )
        self._was_running = False
        self._is_waiting = False
        self._has_sent_piece = False
        self._delayed_ns = 0
        ids = iter(range(1, 1 << 16))
        self._ram_header = SectionHeader(next(ids), RAM_IDSTR, 0, RAM_VERSION)
        self._live = [
            (device, SectionHeader(next(ids), device.idstr, 0, device.version_id))
            for device in guest.live_devices
        ]
        self._next_id = next(ids)
        progress.machine = guest.machine
        progress.ram_bytes = sum(ram.block.used_length for ram in guest.ram)
        progress.ack_mode = SwitchoverAckMode.LEGACY

    def set_parameters(self, parameters: Parameters) -> None:
        """Changes the limits of a migration that goes on; from any thread."""
        self._convergence.max_bandwidth = parameters.max_bandwidth
        self._convergence.downtime_limit_ms = parameters.downtime_limit_ms
        self._wake.set()

    def run(self) -> None:
        """See OutgoingMigration; leaves the guest in the condition that the class promises."""
        try:
            super().run()
        except BaseException as error:
            may_go_on = self._resumes_when_unsure or not self.may_run_there
            if self._was_running and may_go_on:
                self._guest.cont()
            self._progress.stopped()
            if self.may_run_there and isinstance(error, ChannelError):
                raise PeerError(f"{error}; {UNSURE}", after_switchover=True) from error
            raise

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
        self._write(save.start_section(self._ram_header, [ram.block_list(), EMPTY_BODY]))
        for device, header in self._live:
            self._write(save.start_section(header, [_encode_piece(header, device.save_setup())]))

    def _may_switch_over(self, ram: RAMSource) -> bool:
        """Whether little enough is left and nobody is waited for."""
        if not self._has_little_left(ram):
            return False
        if ram.dirty_pages and not self._may_stop:
            return False
        ram.sync()
        self._progress.dirty_sync_count += 1
        if not self._has_little_left(ram):
            return False
        if self._may_stop:
            return True
        self._is_waiting = not self._has_sent_piece
        if self._is_waiting:
            self._progress.waiting_for_ack()
        return False

    def _has_little_left(self, ram: RAMSource) -> bool:
        """Whether what is left, as far as it is known, goes in the downtime."""
        pending = ram.remaining_bytes + sum(device.pending_bytes() for device, _ in self._live)
        has_little_left = pending <= self._convergence.threshold_bytes
        self._is_waiting = self._is_waiting and has_little_left
        self._progress.remaining_bytes = pending
        self._progress.bandwidth = self._convergence.bandwidth
        return has_little_left

    @property
    def _may_stop(self) -> bool:
        """Whether the destination is ready, or nobody asks it."""
        return not self._waits_for_ack or self._acked or not self._guest.is_running

    def _iterate(self, ram: RAMSource) -> None:
        """Sends the next of everything, and pauses where there is nothing, or no hurry."""
        self._wait_for_limit()
        slice_pages = self._convergence.slice_bytes // TARGET_PAGE_SIZE
        has_sent_ram = self._write_ram(ram, max(1, min(slice_pages, MAX_RUN)))
        self._has_sent_piece = False
        for device, header in self._live:
            self._wait_for_limit()
            if piece := device.save_iterate():
                self._write_part(header, [_encode_piece(header, piece)])
                self._has_sent_piece = True
        is_idle = not has_sent_ram or (self._is_waiting and not ram.dirty_pages)
        if is_idle and not self._has_sent_piece:
            self._convergence.paused()
            self._pause(IDLE_NS)

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
        held_ns = time.monotonic_ns() - began + self._delayed_ns
        self._convergence.sent(sum(map(len, buffers)), held_ns, began)

    def _pause(self, duration_ns: int) -> None:
        """Waits, unless something happens that the writer must look at."""
        self._wake.wait(duration_ns / 1e9)
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
        self._progress.enter(MigrationStatus.DEVICE)
        ram.sync()
        while ram.dirty_pages:
            self._write_ram(ram)
        for device, header in self._live:
            while piece := device.save_complete():
                self._write_part(header, [_encode_piece(header, piece)])
        self._write(self._save.end_section(self._ram_header, [EMPTY_BODY]))
        for _, header in self._live:
            self._write(self._save.end_section(header, [encode_prefixed(b"")]))
        description = self._write_devices()
        self._write(self._save.end(description))

    def _write_devices(self) -> bytes:
        state = GlobalState(was_running=self._was_running)
        devices: Sequence[Device] = (*self._guest.devices, state)
        described, sections = [], []
        start = 0
        for section_id, device in enumerate(devices, self._next_id):
            layout, values = device.description, device.save()
            header = SectionHeader(section_id, device.idstr, 0, layout.version_id)
            body = encode_vmstate(layout, values)
            described.append(describe_device(header, layout, values))
            buffers = self._save.full_section(header, body)
            self._write(buffers)
            sections.append(DeviceSection(header, start + len(buffers[0]), len(body)))
            start += sum(map(len, buffers))
        description = encode_description(Configuration(self._guest.machine), described)
        self._progress.devices = DeviceState(b"", description, tuple(sections))
        return description


def _encode_piece(header: SectionHeader, piece: bytes) -> bytes:
    """A piece of a live device, as the destination takes it."""
    if len(piece) > MAX_PREFIXED_BODY:
        raise GuestError(
            f"device '{header.idstr}' gives a piece of {len(piece)} bytes, expected at most "
            f"{MAX_PREFIXED_BODY}"
        )
    return encode_prefixed(piece)
