"""What a migration did so far, counted in one place and shown to whoever watches."""

import time
from collections.abc import Callable, Iterator

from ..model.device import DeviceState
from ..model.stats import (
    DeviceReport,
    ExpectedDowntime,
    Phase,
    SwitchoverAckReport,
    TransferReport,
)
from ..model.status import MigrationStatus
from ..model.switchover import SwitchoverAckMode

Observer = Callable[[TransferReport], None]
"""Called by the engine's thread at each change of status, and several times a second between."""

_INTERVAL_NS = 100_000_000


class Progress:
    """The figures of one migration, written by the engine.

    Args:
        observer: Who watches.

    Attributes:
        status: See MigrationStatus; set by `enter`.
        machine: The guest's machine type.
        ram_bytes: The size of its RAM.
        transferred_bytes: Bytes of the stream.
        pages: Pages with content.
        zero_pages: Zero pages.
        ack_mode: Who counts the ACKs.
        ack_asked_ns: When an ACK could have been sent.
        ack_sent_ns: When it was.
        ack_received_ns: When it was received.
        devices: The device sections.
        remaining_bytes: What the source has left to send.
        bandwidth: Bytes a second.
        dirty_sync_count: How often the source looked for what was written.
        tracking: How it knows.
        stopping_ns: When the source was about to stop its guest, monotonic.
        waiting_for: The devices that the ACK is waited for.
        ack_timed_out: Whether it is waited for no longer.
        expected_downtime: What the source expects.
        hint: What keeps the migration from getting on.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self.status = MigrationStatus.SETUP
        self.machine: str | None = None
        self.ram_bytes = 0
        self.transferred_bytes = 0
        self.pages = 0
        self.zero_pages = 0
        self.ack_mode: SwitchoverAckMode | None = None
        self.ack_asked_ns: int | None = None
        self.ack_sent_ns: int | None = None
        self.ack_received_ns: int | None = None
        self.devices: DeviceState | None = None
        self.remaining_bytes = 0
        self.bandwidth = 0
        self.dirty_sync_count = 0
        self.tracking: str | None = None
        self.waiting_for: tuple[str, ...] = ()
        self.ack_timed_out = False
        self.expected_downtime: ExpectedDowntime | None = None
        self.hint: str | None = None
        self.waiting_ns: int | None = None
        self._waited_ns = 0
        self._phases: list[tuple[str, int]] = []
        self._phases_end_ns: int | None = None
        self._told: list[tuple[str, int, int]] = []
        self.stopping_ns: int | None = None
        self._stopped_ns: int | None = None
        self._observer = observer
        self._start_ns = time.monotonic_ns()
        self._shown_ns = self._start_ns

    def start(self) -> None:
        """Time counts from now on: the two sides are connected."""
        self._start_ns = time.monotonic_ns()

    def enter(self, status: MigrationStatus) -> None:
        """The migration is in another state."""
        if status != self.status:
            self.status = status
            if status == MigrationStatus.COMPLETED:
                self.stopped()
            self._show()

    def waiting_for_ack(self) -> None:
        """Nothing but the ACK keeps the source from stopping its guest."""
        if self.waiting_ns is None:
            self.waiting_ns = time.monotonic_ns()

    def not_waiting(self) -> None:
        """Something else keeps it, or nothing does."""
        if self.waiting_ns is not None:
            self._waited_ns += time.monotonic_ns() - self.waiting_ns
            self.waiting_ns = None

    @property
    def ack_wait_ns(self) -> int | None:
        """How long nothing but the ACK kept the source from stopping; None where nothing did."""
        if self.waiting_ns is not None:
            return self._waited_ns + time.monotonic_ns() - self.waiting_ns
        return self._waited_ns or None

    def stopping(self) -> None:
        """The source is about to stop its guest."""
        self.not_waiting()
        self.hint = None
        if not self.ack_timed_out:
            self.waiting_for = ()
        self.stopping_ns = time.monotonic_ns()
        self._phases = [("stop", self.stopping_ns)]

    def phase(self, name: str) -> None:
        """Another part of the downtime begins, and with it the one before ends; or it goes on."""
        if not self._phases or self._phases[-1][0] != name:
            self._phases.append((name, time.monotonic_ns()))

    def phases_end(self) -> None:
        """The last part of the downtime has ended."""
        self._phases_end_ns = time.monotonic_ns()

    def told_phase(self, name: str, began_ago_ns: int, ended_ago_ns: int) -> None:
        """The destination told of a part of its own."""
        now = time.monotonic_ns()
        self._told.append((name, now - began_ago_ns, now - ended_ago_ns))

    def own_phases(self) -> list[tuple[str, int, int]]:
        """The parts so far: name, beginning and end, monotonic."""
        ends = [began for _, began in self._phases[1:]]
        ends.append(self._phases_end_ns or time.monotonic_ns())
        return [(name, began, end) for (name, began), end in zip(self._phases, ends, strict=False)]

    def stopped(self) -> None:
        """The migration is over: the destination has the guest, or it goes on at its source."""
        self._stopped_ns = self._phases_end_ns = time.monotonic_ns()

    def tick(self) -> None:
        """Something moved; the observer is told now and then."""
        if time.monotonic_ns() - self._shown_ns >= _INTERVAL_NS:
            self._show()

    def _show(self) -> None:
        self._shown_ns = time.monotonic_ns()
        if self._observer is not None:
            self._observer(self.report())

    def report(self, error: BaseException | None = None) -> TransferReport:
        """The figures as they stand."""
        devices = () if self.devices is None else self.devices.sections
        return TransferReport(
            status=self.status,
            machine=self.machine,
            switchover_ack=SwitchoverAckReport(
                mode=self.ack_mode,
                asked_ms=self._since_start_ms(self.ack_asked_ns),
                sent_ms=self._since_start_ms(self.ack_sent_ns),
                received_ms=self._since_start_ms(self.ack_received_ns),
                waiting_for=self.waiting_for,
                waiting_ms=None if (waited := self.ack_wait_ns) is None else _ms(waited),
                timed_out=self.ack_timed_out,
            ),
            ram_bytes=self.ram_bytes,
            transferred_bytes=self.transferred_bytes,
            pages=self.pages,
            zero_pages=self.zero_pages,
            devices=tuple(
                DeviceReport(
                    section.header.idstr,
                    section.header.instance_id,
                    section.header.version_id,
                    section.size,
                )
                for section in devices
            ),
            total_ms=self._since_start_ms(time.monotonic_ns()) or 0.0,
            error=None if error is None else str(error),
            remaining_bytes=self.remaining_bytes,
            bandwidth=self.bandwidth,
            dirty_sync_count=self.dirty_sync_count,
            tracking=self.tracking,
            downtime_ms=_span_ms(self.stopping_ns, self._stopped_ns),
            expected_downtime=self.expected_downtime,
            phases=tuple(self._report_phases()),
            hint=self.hint,
        )

    def _report_phases(self) -> Iterator[Phase]:
        own = self.own_phases()
        if not own:
            return
        side, zero = "source", self.stopping_ns
        if zero is None:
            side, zero = "destination", own[0][1]
        for name, began, ended in own:
            yield Phase(side, name, _ms(began - zero), _ms(ended - began))
        for name, began, ended in self._told:
            yield Phase("destination", name, _ms(began - zero), _ms(ended - began))

    def _since_start_ms(self, now_ns: int | None) -> float | None:
        return None if now_ns is None else _ms(now_ns - self._start_ns)


def _span_ms(began: int | None, ended: int | None) -> float | None:
    return None if began is None or ended is None else _ms(ended - began)


def _ms(duration_ns: int) -> float:
    return round(duration_ns / 1e6, 3)
