"""What every destination does: reads a stream, answers on the return path, keeps the ACK's time.

One thread does all of it. Whatever goes wrong before SHUT leaves the guest to its source.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..channel.base import Channel, wait_readable
from ..channel.connection import Connection, Listener
from ..errors import PeerError, TruncatedStream, UnsupportedStream
from ..model.capability import Capability
from ..model.status import MigrationStatus
from ..model.switchover import SwitchoverAckMode, switchover_ack_mode
from ..protocol.event import (
    Configured,
    Event,
    LiveSectionsEnded,
    Pinged,
    ReturnPathOpened,
    SwitchoverStarted,
)
from ..protocol.return_path import ReturnPathDestination, ReturnPathState
from ..wire.cursor import u32
from ..wire.stream import MULTIFD_MAGIC
from .load import PHYSICAL_RAM_BYTES, StreamLoader
from .progress import Progress

STALL_LIMIT_NS = 10_000_000_000
"""Behind RAM a source sends without pause; when nothing has come for so long, nothing will."""
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
        self._is_asked_for_ack = False
        self._ack_due_ns: int | None = None

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
        self._take_over(channel)
        self._progress.enter(MigrationStatus.COMPLETED)

    def _take_over(self, channel: Channel) -> None:
        """Makes the guest, which is whole, this side's own, and sends SHUT.

        Raises:
            MigrationError: It cannot be.
        """
        raise NotImplementedError

    def _pending_acks(self) -> int:
        """Devices that are not ready for the switchover."""
        return 0

    def _shut(self, channel: Channel) -> None:
        """Tells the source that its guest is here."""
        if self._return_path.state == ReturnPathState.OPEN:
            channel.send([self._return_path.shut()])

    def _check_source(self, channel: Channel) -> None:
        """Fails if the source, which waits for SHUT, is not there to hear it."""
        if self._return_path.state == ReturnPathState.OPEN and _has_left(channel):
            raise PeerError(
                f"{channel.name}: the source left before it was told that its guest is here"
            )

    def _receive(self, channel: Channel) -> None:
        try:
            for event in self._loader.receive(channel):
                self._handle(event, channel)
        except TruncatedStream as error:
            if not channel.has_return_path:
                raise
            raise PeerError(
                f"{channel.name}: the source left before the guest was whole: {error}"
            ) from error

    def _wait(self, channel: Channel, listener: Listener | None) -> bool:
        """Waits for bytes, and does what is due meanwhile; whether there are any."""
        filenos = {channel.fileno(), *self._others, *self._wake_filenos()}
        if listener is not None:
            filenos.add(listener.fileno())
        readable = wait_readable(filenos, self._timeout_ns())
        self._send_due_ack(channel)
        if listener is not None and listener.fileno() in readable:
            self._accept_other(listener)
        for fileno in readable & self._others.keys():
            self._judge_other(fileno)
        if not readable and self._progress.status == MigrationStatus.DEVICE:
            raise self._loader.load.stall()
        return channel.fileno() in readable

    def _wake_filenos(self) -> Sequence[int]:
        """What else to wait on: readable when a device may have become ready."""
        return ()

    def _timeout_ns(self) -> int | None:
        if self._ack_due_ns is not None:
            return self._ack_due_ns - time.monotonic_ns()
        return STALL_LIMIT_NS if self._progress.status == MigrationStatus.DEVICE else None

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
            case Configured():
                self._choose_mode()
            case ReturnPathOpened():
                self._open_return_path(channel)
            case Pinged(value=value):
                channel.send([self._return_path.pong(value)])
            case SwitchoverStarted() | LiveSectionsEnded():
                self._is_asked_for_ack = False
                self._ack_due_ns = None
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
        self._progress.ack_mode = mode

    def _open_return_path(self, channel: Channel) -> None:
        if not channel.has_return_path:
            raise UnsupportedStream(
                f"the source asks for a return path, which {channel.name} does not have",
                offset=self._loader.load.buffer.offset,
            )
        if self._return_path.state != ReturnPathState.CLOSED:
            return
        self._return_path.open()
        if Capability.SWITCHOVER_ACK not in self._options.capabilities:
            return
        if self._progress.ack_mode == SwitchoverAckMode.PER_DEVICE:
            if self._options.hold_ack_ns:
                self._warn(
                    f"machine type '{self._progress.machine}' waits for its devices only, and none "
                    "asks: there is no ACK to be held"
                )
            return
        self._is_asked_for_ack = True
        self._send_due_ack(channel)

    def _send_due_ack(self, channel: Channel) -> None:
        now = time.monotonic_ns()
        if self._is_asked_for_ack and self._pending_acks() == 0:
            self._is_asked_for_ack = False
            self._progress.ack_asked_ns = now
            self._ack_due_ns = now + self._options.hold_ack_ns
        if self._ack_due_ns is not None and now >= self._ack_due_ns:
            channel.send([self._return_path.switchover_ack()])
            self._progress.ack_sent_ns = now
            self._ack_due_ns = None


def _has_left(channel: Channel) -> bool:
    """Whether the connection is over already, seen without waiting."""
    if not isinstance(channel, Connection):
        return False
    return bool(wait_readable([channel.fileno()], 0)) and not channel.peek(1)
