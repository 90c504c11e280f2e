"""What every destination does: reads a stream, answers on the return path, keeps the ACK's time.

One thread does all of it. Whatever goes wrong before SHUT leaves the guest to its source.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..channel.base import Channel, wait_readable
from ..channel.connection import Connection, Listener
from ..errors import PeerError, TruncatedStream, UnsupportedStream
from ..model.capability import Capability
from ..model.ramblock import PageRun, ZeroRun
from ..model.status import MigrationStatus
from ..model.switchover import SwitchoverAckMode, switchover_ack_mode
from ..protocol.event import (
    Configured,
    Event,
    LiveSectionsEnded,
    Pinged,
    ReturnPathOpened,
    SectionEnding,
    SectionItem,
    SwitchoverStarted,
)
from ..protocol.return_path import ReturnPathDestination, ReturnPathState
from ..protocol.switchover_ack import SwitchoverAckDestination
from ..wire.cursor import u32
from ..wire.return_path import X_REPORT_PING, LoadReport, PhaseReport
from ..wire.stream import MULTIFD_MAGIC
from .load import PHYSICAL_RAM_BYTES, StreamLoader
from .progress import Progress

STALL_LIMIT_NS = 10_000_000_000
"""Behind RAM a source sends without pause; when nothing has come for so long, nothing will."""
REPORT_NS = 10_000_000
"""How often a source that asked for it is told how far the stream was dealt with."""
QUIET_NS = 5_000_000_000
"""When a source has had little left to send for so long and does not stop its guest, it is said why
that may be."""
SHORT_PASS_NS = 300_000_000
"""A source sends what its guest writes in passes over RAM. One that takes no longer than QEMU's
default downtime-limit is little, and would have been the last."""
MAX_OTHERS = 16
"""Further connections that are watched for the mark of multifd."""


@dataclass(frozen=True, slots=True)
class ReceiveOptions:
    """How a destination is to behave.

    Attributes:
        capabilities: Those that are set, as on a QEMU destination.
        hold_ack_ns: How long the SWITCHOVER_ACK is held back.
        ack_mode: Who counts the ACKs; None to read it from the machine type's name.
        max_ram_bytes: A guest with more RAM is refused.
    """

    capabilities: frozenset[Capability] = frozenset()
    hold_ack_ns: int = 0
    ack_mode: SwitchoverAckMode | None = None
    max_ram_bytes: int = PHYSICAL_RAM_BYTES


class IncomingMigration:
    """One migration to here; a subclass knows what becomes of the guest.

    Args:
        incoming: Where it comes from.
        loader: Takes the stream in.
        options: How to behave.
        progress: Where it is counted.
        warn: Told, in a sentence, what is odd but not wrong.
    """

    def __init__(
        self,
        incoming: Channel | Listener,
        loader: StreamLoader,
        options: ReceiveOptions,
        progress: Progress,
        warn: Callable[[str], None],
    ) -> None:
        self._incoming = incoming
        self._options = options
        self._progress = progress
        self._warn = warn
        self._loader = loader
        self._return_path = ReturnPathDestination()
        self._others: dict[int, Connection] = {}
        self._acks = SwitchoverAckDestination(
            is_enabled=Capability.SWITCHOVER_ACK in options.capabilities,
            devices=self._ack_devices(),
        )
        self._acks_due_ns: deque[int] = deque()
        self._reports = False
        self._reported_bytes = 0
        self._report_due_ns = 0
        self._quiet_at_ns: int | None = None
        self._pass_began_ns = 0
        self._pass_pages: dict[str, int] = {}
        self._has_warned = False
        self._stalls_at_ns: int | None = None

    def run(self) -> None:
        """Receives the guest, takes it over, and says so to the source.

        Raises:
            MigrationError: It failed; the source still has its guest, unless it sends without a
                return path and was done.
            PeerError: It failed; with `after_switchover` the guest was taken over, and the source
                may or may not know.
        """
        if not isinstance(self._incoming, Listener):
            self._run(self._incoming, None)
            return
        with self._incoming.accept() as channel:
            try:
                self._run(channel, self._incoming)
            finally:
                for other in self._others.values():
                    other.close()

    def _run(self, channel: Channel, listener: Listener | None) -> None:
        if isinstance(channel, Connection):
            channel.limit_sending()
        self._progress.start()
        self._progress.enter(MigrationStatus.ACTIVE)
        load = self._loader.load
        # A connection stays open behind a whole stream; anything else has an end of its own.
        while not (load.is_whole and (channel.has_return_path or load.is_at_end)):
            if self._wait(channel, listener):
                self._receive(channel)
                self._send_due_acks(channel)
        self._take_over(channel)
        self._progress.enter(MigrationStatus.COMPLETED)

    def _take_over(self, channel: Channel) -> None:
        """Makes the guest, which is whole, this side's own, and sends SHUT.

        Raises:
            MigrationError: It cannot be.
        """
        raise NotImplementedError

    def _ack_devices(self) -> Iterable[str]:
        """The devices that can get ready while the guest runs at its source."""
        return ()

    def _take_ready(self) -> None:
        """Hands those on that have become ready."""

    def _paces(self) -> Iterable[tuple[int, int]]:
        """The section ids of devices, and how long each takes for a MiB, in nanoseconds."""
        return ()

    def _shut(self, channel: Channel) -> None:
        """Tells the source that its guest is here."""
        self._progress.phases_end()
        if self._return_path.state != ReturnPathState.OPEN:
            return
        if self._reports:
            phases = self._progress.own_phases()
            now = time.monotonic_ns()
            channel.send(
                [
                    self._return_path.phase(PhaseReport(name, now - began, now - ended))
                    for name, began, ended in phases
                ]
            )
        channel.send([self._return_path.shut()])

    def _check_source(self, channel: Channel) -> None:
        """Fails if the source, which waits for SHUT, is not there to hear it."""
        if self._return_path.state == ReturnPathState.OPEN and _has_left(channel):
            raise PeerError(
                f"{channel.name}: the source left before it was told that its guest is here"
                f"{self._suspicion()}"
            )

    def _receive(self, channel: Channel) -> None:
        try:
            for event in self._loader.receive(channel):
                self._handle(event, channel)
            if self._progress.status == MigrationStatus.DEVICE:
                self._stalls_at_ns = time.monotonic_ns() + STALL_LIMIT_NS
        except TruncatedStream as error:
            if not channel.has_return_path:
                raise
            # Many leave for another reason, and where its name told the mode it is one of those.
            is_odd = self._options.ack_mode is not None or self._has_warned
            raise PeerError(
                f"{channel.name}: the source left before the guest was whole: {error}"
                f"{self._suspicion() if is_odd else ''}"
            ) from error

    def _suspicion(self) -> str:
        """What a source that left may have made of our ACK."""
        is_legacy = self._acks.mode == SwitchoverAckMode.LEGACY
        if self._progress.ack_sent_ns is None or not is_legacy:
            return ""
        return (
            "; it had our ACK, and if its error is 'Switchover ack pending num underflowed' it "
            "counts per device: then use --switchover-ack-mode per-device here"
        )

    def _wait(self, channel: Channel, listener: Listener | None) -> bool:
        """Waits for bytes, and does what is due meanwhile; whether there are any."""
        filenos = {channel.fileno(), *self._others, *self._wake_filenos()}
        if listener is not None:
            filenos.add(listener.fileno())
        readable = wait_readable(filenos, self._timeout_ns())
        self._take_ready()
        self._send_due_acks(channel)
        self._report(channel)
        self._look_whether_quiet()
        if listener is not None and listener.fileno() in readable:
            self._accept_other(listener)
        for fileno in readable & self._others.keys():
            self._judge_other(fileno)
        if not readable and self._stalls_at_ns is not None:
            if time.monotonic_ns() >= self._stalls_at_ns:
                raise self._loader.load.stall()
        return channel.fileno() in readable

    def _wake_filenos(self) -> Sequence[int]:
        """What else to wait on: readable when a device may have become ready."""
        return ()

    def _timeout_ns(self) -> int | None:
        now = time.monotonic_ns()
        due_ns = list(self._acks_due_ns)
        if self._reports and self._reported_bytes != self._loader.load.buffer.offset:
            due_ns.append(self._report_due_ns)
        if self._stalls_at_ns is not None:
            due_ns.append(self._stalls_at_ns)
        elif self._quiet_at_ns is not None and not due_ns:
            due_ns.append(self._quiet_at_ns)
        return max(min(due_ns) - now, 0) if due_ns else None

    # Telling the source how far we are

    def _report(self, channel: Channel) -> None:
        """Tells a source that asked for it how far we are, and how fast our devices are."""
        consumed = self._loader.load.buffer.offset
        now = time.monotonic_ns()
        if not self._reports or consumed == self._reported_bytes or now < self._report_due_ns:
            return
        self._report_due_ns = now + REPORT_NS
        self._reported_bytes = consumed
        paces = list(self._paces()) or [(0, 0)]
        channel.send([self._return_path.load_report(LoadReport(consumed, *pace)) for pace in paces])

    def _look_whether_quiet(self) -> None:
        """A source that makes short passes only, or sends empty sections, waits for something."""
        is_quiet = self._quiet_at_ns is not None and time.monotonic_ns() >= self._quiet_at_ns
        if is_quiet and self._progress.status == MigrationStatus.ACTIVE and not self._acks_due_ns:
            self._quiet_at_ns = None
            self._has_warned = True
            self._warn(self._explain_quiet())

    def _explain_quiet(self) -> str:
        text = "the source has had little left to send for 5 s, and does not stop its guest: "
        if not self._acks.is_enabled:
            return text + (
                "if capability 'switchover-ack' is on there it waits for an ACK, which is sent "
                "only with --capability switchover-ack here too"
            )
        if self._acks.pending:
            return text + f"it waits for {' and '.join(self._acks.pending)}, not ready here"
        if self._acks.mode == SwitchoverAckMode.PER_DEVICE and self._progress.ack_sent_ns is None:
            return text + (
                "if it waits for one ACK for all devices (-global "
                "migration.switchover-ack-legacy=on, or a machine type up to 11.0), use "
                "--switchover-ack-mode legacy"
            )
        text += (
            "what is left may take longer than its downtime-limit at the bandwidth that it has "
            "measured: set avail-switchover-bandwidth there"
        )
        if self._acks.mode == SwitchoverAckMode.LEGACY and self._progress.ack_sent_ns is not None:
            text += (
                "; or, if its error is 'Switchover ack pending num underflowed', it counts per "
                "device (-global migration.switchover-ack-legacy=off): then cancel it, and use "
                "--switchover-ack-mode per-device here"
            )
        return text

    def _is_news(self, item: object) -> bool:
        """Whether an item says that the source has much to send yet: all but short passes over RAM.

        A guest that runs writes, so that a source that only waits goes over RAM again and again.
        """
        if not isinstance(item, PageRun | ZeroRun):
            return True
        if isinstance(item.indices, slice):
            first, last = item.indices.start, item.indices.stop - 1
        else:
            first, last = int(item.indices[0]), int(item.indices[-1])
        now = time.monotonic_ns()
        if last < first or first <= self._pass_pages.get(item.block.idstr, -1):
            self._pass_pages.clear()
            self._pass_began_ns = now
        self._pass_pages[item.block.idstr] = last
        return now - self._pass_began_ns > SHORT_PASS_NS

    # Connections beside the main one

    def _accept_other(self, listener: Listener) -> None:
        other = listener.accept()
        if len(self._others) == MAX_OTHERS:
            other.close()
        else:
            self._others[other.fileno()] = other

    def _judge_other(self, fileno: int) -> None:
        """A second connection is multifd's, or somebody's who knocked at the wrong door."""
        other = self._others.pop(fileno)
        with other:
            if other.peek(4) == u32(MULTIFD_MAGIC):
                raise UnsupportedStream(
                    "the source opened a multifd channel, and capability 'multifd' is not "
                    "supported yet",
                    offset=0,
                )
            self._warn(f"{other.name}: a second connection, which was closed")

    # Events

    def _handle(self, event: Event, channel: Channel) -> None:
        match event:
            case SectionItem(item=item) if not self._has_warned:
                if self._is_news(item):
                    self._quiet_at_ns = time.monotonic_ns() + QUIET_NS
            case Configured():
                self._choose_mode()
            case ReturnPathOpened():
                self._open_return_path(channel)
            case Pinged(value=value):
                channel.send([self._return_path.pong(value)])
                if value == X_REPORT_PING:
                    self._reports = Capability.X_LOAD_REPORT in self._options.capabilities
            case SwitchoverStarted():
                self._stopped("ram")
            case SectionEnding(header=header):
                self._stopped(header.idstr)
            case LiveSectionsEnded():
                self._stopped("devices")

    def _stopped(self, phase: str) -> None:
        """The guest is stopped at its source, and waits for nothing."""
        self._acks.drop()
        self._acks_due_ns.clear()
        self._progress.phase(phase)
        self._progress.enter(MigrationStatus.DEVICE)

    def _choose_mode(self) -> None:
        machine = self._progress.machine
        mode = self._options.ack_mode
        if mode is None and machine is not None:
            mode = switchover_ack_mode(machine)
        if mode is None:
            mode = SwitchoverAckMode.LEGACY
            if Capability.SWITCHOVER_ACK in self._options.capabilities:
                self._warn(
                    f"machine type '{machine}' does not tell the mode of SWITCHOVER_ACK; legacy is "
                    "assumed, and if that is wrong a source of QEMU 11.1 or newer stays active or "
                    "fails, with the error 'Switchover ack pending num underflowed': then use "
                    "--switchover-ack-mode per-device"
                )
        self._progress.ack_mode = self._acks.mode = mode

    def _open_return_path(self, channel: Channel) -> None:
        if not channel.has_return_path:
            raise UnsupportedStream(
                f"the source asks for a return path, which {channel.name} does not have",
                offset=self._loader.load.buffer.offset,
            )
        if self._return_path.state != ReturnPathState.CLOSED:
            return
        self._return_path.open()
        is_per_device = self._progress.ack_mode == SwitchoverAckMode.PER_DEVICE
        if self._options.hold_ack_ns and is_per_device and not self._acks.pending:
            self._warn(
                f"machine type '{self._progress.machine}' waits for its devices only, and none "
                "asks: there is no ACK to be held"
            )
        self._acks.open()
        self._send_due_acks(channel)

    def _send_due_acks(self, channel: Channel) -> None:
        now = time.monotonic_ns()
        self._progress.waiting_for = self._acks.pending if self._acks.is_enabled else ()
        for _ in range(self._acks.take_due()):
            self._progress.ack_asked_ns = self._progress.ack_asked_ns or now
            self._acks_due_ns.append(now + self._options.hold_ack_ns)
        while self._acks_due_ns and now >= self._acks_due_ns[0]:
            self._acks_due_ns.popleft()
            channel.send([self._return_path.switchover_ack()])
            self._progress.ack_sent_ns = now
            if not self._has_warned:
                # What it had to wait for, it waits for no longer.
                self._quiet_at_ns = now + QUIET_NS


def _has_left(channel: Channel) -> bool:
    """Whether the connection is over already, seen without waiting."""
    if not isinstance(channel, Connection):
        return False
    return bool(wait_readable([channel.fileno()], 0)) and not channel.peek(1)
