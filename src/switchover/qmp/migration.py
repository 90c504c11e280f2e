"""One migration, outgoing or incoming, in a thread of its own, as QMP shows it."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

from ..engine.arrival import ArrivingDestination
from ..engine.precopy import PrecopySource
from ..engine.progress import Progress
from ..errors import MigrationCancelled, MigrationError
from ..model.address import InetAddress, MigrationAddress, UnixAddress
from ..model.capability import Capability
from ..model.parameter import Parameters
from ..model.ramblock import TARGET_PAGE_SIZE
from ..model.stats import TransferReport
from ..model.status import MigrationStatus
from ..worker import Worker
from .guest import SharedGuest

FINAL = frozenset({MigrationStatus.COMPLETED, MigrationStatus.FAILED, MigrationStatus.CANCELLED})
_WITHOUT_FIGURES = frozenset(
    {MigrationStatus.SETUP, MigrationStatus.FAILED, MigrationStatus.CANCELLED}
)

Notify = Callable[[str, dict[str, object]], None]
"""Told of an event, by any thread: its name and its data."""


class Wiring(Protocol):
    """How the two ends of a migration come to their channels."""

    def open_source(
        self,
        address: MigrationAddress,
        guest: SharedGuest,
        capabilities: frozenset[Capability],
        parameters: Parameters,
        progress: Progress,
    ) -> AbstractContextManager[PrecopySource]:
        """A source that is connected.

        Raises:
            ChannelError: It cannot be.
        """
        ...

    def open_destination(
        self,
        address: MigrationAddress,
        guest: SharedGuest,
        capabilities: frozenset[Capability],
        progress: Progress,
    ) -> AbstractContextManager[tuple[ArrivingDestination, MigrationAddress]]:
        """A destination that listens, and where.

        Raises:
            ChannelError: It cannot.
        """
        ...


class Migration:
    """What both directions have in common.

    Args:
        guest: The guest.
        has_events: Whether events of the migration are wanted.
        notify: Told of them.

    Attributes:
        status: How far it has come.
        error: Why it failed.
    """

    def __init__(self, guest: SharedGuest, has_events: Callable[[], bool], notify: Notify) -> None:
        self.guest = guest
        self.status = MigrationStatus.NONE
        self.error: BaseException | None = None
        self.progress = Progress(self._observe)
        self._has_events = has_events
        self._notify = notify
        self._passes = 0
        self._seen = MigrationStatus.SETUP
        self._lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in FINAL

    def _enter(self, status: MigrationStatus) -> bool:
        """Another status, unless it is over, or about to be; whether it is so."""
        with self._lock:
            is_ending = self.status == MigrationStatus.CANCELLING and status not in FINAL
            if self.is_over or is_ending:
                return False
            self.status = status
            self._tell("MIGRATION", {"status": status.value})
            return True

    def _tell(self, event: str, data: dict[str, object]) -> None:
        if self._has_events():
            self._notify(event, data)

    def _observe(self, report: TransferReport) -> None:
        while self._passes < report.dirty_sync_count:
            self._passes += 1
            self._tell("MIGRATION_PASS", {"pass": self._passes})
        # The last word is said when the guest has been dealt with, too.
        if report.status != self._seen and report.status not in FINAL:
            self._seen = report.status
            self._see(report)
            self._enter(report.status)

    def _see(self, report: TransferReport) -> None:
        """Another status is about to be shown."""

    def _end(self, error: BaseException | None) -> None:
        """The last word."""
        self.error = error
        if error is None:
            self._enter(MigrationStatus.COMPLETED)
        elif isinstance(error, MigrationCancelled):
            self._enter(MigrationStatus.CANCELLED)
        else:
            self._enter(MigrationStatus.FAILED)


class Outgoing(Migration):
    """A migration from here.

    Args:
        guest: The guest.
        has_events: Whether events of the migration are wanted.
        notify: Told of them.
        open_source: Gives the source, connected; called once, where blocking does no harm.

    Attributes:
        is_given_away: Whether the guest is at the destination, or may be.
        is_done: Set when its thread is about to end.
    """

    def __init__(
        self,
        guest: SharedGuest,
        has_events: Callable[[], bool],
        notify: Notify,
        open_source: Callable[[Progress], AbstractContextManager[PrecopySource]],
    ) -> None:
        super().__init__(guest, has_events, notify)
        self.is_given_away = False
        self.is_done = threading.Event()
        self._open_source = open_source
        self._source: PrecopySource | None = None
        self._parameters: Parameters | None = None
        self._is_cancelled = False
        self._setup_ms = 0.0
        self._precopy_bytes: int | None = None
        self._final: TransferReport | None = None
        self._enter(MigrationStatus.SETUP)
        self.worker = Worker("mig/src/main", self._run)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with self._open_source(self.progress) as source:
                self._source = source
                # What was asked for while there was no source to be asked.
                if self._is_cancelled:
                    raise MigrationCancelled("cancelled")
                if self._parameters is not None:
                    source.set_parameters(self._parameters)
                source.run()
        except BaseException as failure:
            error = failure
            if not isinstance(failure, MigrationError):
                raise
        finally:
            self._final = self.progress.report(error)
            done, self._source = self._source, None
            self.is_given_away = error is None or (done is not None and done.may_run_there)
            self.guest.release()
            self._end(error)
            self.is_done.set()

    def cancel(self) -> None:
        """Ends it, as long as the destination cannot have the whole guest."""
        source = self._source
        if source is not None and source.may_run_there:
            return
        if not self._enter(MigrationStatus.CANCELLING):
            return
        self._is_cancelled = True
        if (source := self._source) is not None:
            source.cancel()

    def continue_switchover(self) -> None:
        """Goes on from pre-switchover."""
        if (source := self._source) is not None:
            source.continue_switchover()

    def set_parameters(self, parameters: Parameters) -> None:
        """Changes the limits while it goes on."""
        self._parameters = parameters
        if (source := self._source) is not None:
            source.set_parameters(parameters)

    def _see(self, report: TransferReport) -> None:
        if report.status == MigrationStatus.ACTIVE:
            self._setup_ms = report.total_ms
        elif report.status in (MigrationStatus.PRE_SWITCHOVER, MigrationStatus.DEVICE):
            self._precopy_bytes = report.transferred_bytes
            # Whoever stopped it before must not start it now: what is read must not change.
            self.guest.stop()

    def describe(self, parameters: Parameters) -> dict[str, Any]:
        """What `query-migrate` says."""
        status = self.status
        described: dict[str, Any] = {"status": status.value}
        if self.error is not None and status == MigrationStatus.FAILED:
            described["error-desc"] = str(self.error) or type(self.error).__name__
        if status in _WITHOUT_FIGURES:
            return described
        report = self._final or self.progress.report()
        is_completed = status == MigrationStatus.COMPLETED
        described["setup-time"] = round(self._setup_ms)
        described["total-time"] = round(report.total_ms)
        if is_completed:
            described["downtime"] = round(report.downtime_ms or 0)
        else:
            expected = report.expected_downtime
            described["expected-downtime"] = (
                parameters.downtime_limit_ms if expected is None else round(expected.expected_ms)
            )
        described["ram"] = _describe_ram(report, self._precopy_bytes, is_completed)
        return described | _describe_own(report)


def _describe_own(report: TransferReport) -> dict[str, Any]:
    """What QEMU does not tell, under names that it will not use."""
    described: dict[str, Any] = {}
    if (expected := report.expected_downtime) is not None:
        described["x-expected-downtime"] = {
            "expected": expected.expected_ms,
            "transfer": expected.transfer_ms,
            "load-measured": expected.is_load_measured,
        }
    ack = report.switchover_ack
    if ack.waiting_for or ack.waiting_ms is not None:
        described["x-switchover-ack"] = {
            "mode": None if ack.mode is None else ack.mode.value,
            "waiting-for": list(ack.waiting_for),
            "waiting": ack.waiting_ms,
            "timed-out": ack.timed_out,
        }
    if report.phases:
        described["x-downtime-phases"] = [
            {
                "side": phase.side,
                "name": phase.name,
                "start": phase.start_ms,
                "duration": phase.duration_ms,
            }
            for phase in report.phases
        ]
    if report.hint is not None:
        described["x-hint"] = report.hint
    return described


def _describe_ram(
    report: TransferReport, precopy_bytes: int | None, is_completed: bool
) -> dict[str, Any]:
    seconds = report.total_ms / 1000 or 1.0
    precopy = report.transferred_bytes if precopy_bytes is None else precopy_bytes
    return {
        "transferred": report.transferred_bytes,
        "remaining": 0 if is_completed else report.remaining_bytes,
        "total": report.ram_bytes,
        "duplicate": report.zero_pages,
        "normal": report.pages,
        "normal-bytes": report.pages * TARGET_PAGE_SIZE,
        "dirty-pages-rate": 0,
        "mbps": report.transferred_bytes * 8 / seconds / 1e6,
        "dirty-sync-count": report.dirty_sync_count,
        "postcopy-requests": 0,
        "page-size": TARGET_PAGE_SIZE,
        "multifd-bytes": 0,
        "pages-per-second": int((report.pages + report.zero_pages) / seconds),
        "precopy-bytes": precopy,
        "downtime-bytes": report.transferred_bytes - precopy,
        "postcopy-bytes": 0,
        "dirty-sync-missed-zero-copy": 0,
    }


class Incoming(Migration):
    """A migration to here.

    Args:
        guest: The guest, which is held.
        has_events: Whether events of the migration are wanted.
        notify: Told of them.
        open_destination: Gives the destination, which listens, and where.
        ended: Called when it is over, by its thread.

    Raises:
        ChannelError: It cannot listen.
    """

    def __init__(
        self,
        guest: SharedGuest,
        has_events: Callable[[], bool],
        notify: Notify,
        open_destination: Callable[
            [Progress], AbstractContextManager[tuple[ArrivingDestination, MigrationAddress]]
        ],
        ended: Callable[["Incoming"], None],
    ) -> None:
        super().__init__(guest, has_events, notify)
        self._ended = ended
        self._stack = ExitStack()
        self._destination, self._address = self._stack.enter_context(
            open_destination(self.progress)
        )
        self._enter(MigrationStatus.SETUP)
        self.worker = Worker("mig/dst/main", self._run)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with self._stack:
                self._destination.run()
        except BaseException as failure:
            error = failure
            if not isinstance(failure, MigrationError):
                raise
        finally:
            if error is None:
                self.guest.release()
            self._end(error)
            self._ended(self)

    def close(self) -> None:
        """Stops listening, for a process that is about to end."""
        self._stack.close()

    def describe(self) -> dict[str, Any]:
        """What `query-migrate` says."""
        described: dict[str, Any] = {"status": self.status.value}
        if self.error is not None:
            described["error-desc"] = f"load of migration failed: {self.error}"
        described |= _describe_own(self.progress.report())
        if self.status == MigrationStatus.SETUP:
            match self._address:
                case InetAddress(host=host, port=port):
                    address = {"type": "inet", "host": host, "port": str(port)}
                    described["socket-address"] = [address]
                case UnixAddress(path=path):
                    described["socket-address"] = [{"type": "unix", "path": path}]
        return described
