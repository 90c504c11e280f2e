"""What every source does: writes a stream, hears the return path, and says truly how it ended.

The thread that calls `run` writes; a second one, `mig/src/return`, reads what the destination
answers. Whoever of the two is first in trouble wakes the other by shutting the channel down.
"""

import threading
import time
from typing import NoReturn

from ..channel.base import Channel
from ..errors import ChannelError, MigrationCancelled, MigrationError, PeerError
from ..model.status import MigrationStatus
from ..model.switchover import SwitchoverAckMode
from ..protocol.event import NEED_DATA
from ..protocol.grammar import StreamState
from ..protocol.return_path import ReturnPathSource, ReturnPathState
from ..protocol.savevm import Buffers, SaveVM
from ..protocol.switchover_ack import SwitchoverAckSource
from ..wire.return_path import (
    ReturnPathMessage,
    ReturnPathMessageType,
    decode_load_report,
    decode_phase,
)
from ..worker import Worker
from .outlook import Told
from .progress import Progress

MAX_PHASES = 1024
"""Parts of its downtime that a destination may tell of; there are a few for each device."""

UNSURE = (
    "everything was written, and nobody here can know whether the destination runs the guest: look "
    "there before it is sent again"
)


class OutgoingMigration:
    """One migration from here to a destination; a subclass knows what is sent.

    Args:
        channel: Where it goes.
        progress: Where it is counted.
        save: The order of its stream.
        opens_return_path: Whether the destination is asked to answer. A channel that goes one way
            must not ask: QEMU refuses what it cannot answer.
        ack_mode: Who counts the ACKs; None where nobody knows.
        waits_for_ack: Whether the capability `switchover-ack` is on.
        takes_reports: Whether the destination is asked for reports of our own.
    """

    def __init__(
        self,
        channel: Channel,
        progress: Progress,
        save: SaveVM,
        *,
        opens_return_path: bool,
        ack_mode: SwitchoverAckMode | None,
        waits_for_ack: bool = False,
        takes_reports: bool = False,
    ) -> None:
        self._channel = channel
        self._progress = progress
        self._save = save
        self._opens_return_path = opens_return_path
        self._takes_reports = takes_reports
        self._return_path = ReturnPathSource(takes_reports=takes_reports)
        self._acks = SwitchoverAckSource(
            ack_mode or SwitchoverAckMode.LEGACY, is_enabled=waits_for_ack
        )
        self._told = Told()
        self._phases_told = 0
        progress.ack_mode = ack_mode
        self._worker: Worker | None = None
        # Known before its thread has ended: the writer may look as soon as it is woken.
        self._return_path_error: BaseException | None = None
        # Set by whatever the writer may be waiting for: the ACK, a cancel, an error.
        self._wake = threading.Event()
        # Whether a cancel or the end mark comes first is decided once, under the lock.
        self._verdict_lock = threading.Lock()
        self._cancelled = False
        self._may_run_there = False

    @property
    def may_run_there(self) -> bool:
        """Whether the destination may have the whole guest.

        From the end mark on: what stands behind it describes the guest and is no part of it.
        """
        return self._may_run_there

    def run(self) -> None:
        """Sends the guest and, where there is a return path, waits for the destination's word.

        Raises:
            PeerError: The destination failed, or went away; `after_switchover` tells whether it
                may run the guest all the same.
            MigrationCancelled: `cancel` was called in time.
        """
        self._progress.start()
        try:
            if self._opens_return_path:
                self._run_with_return_path()
            else:
                self._send()
                self._progress.enter(MigrationStatus.COMPLETED)
        except MigrationError as error:
            if self._cancelled and not isinstance(error, MigrationCancelled):
                raise MigrationCancelled("cancelled") from error
            raise

    def cancel(self) -> None:
        """Ends the migration, unless the destination may have the whole guest; from any thread."""
        with self._verdict_lock:
            if self._may_run_there:
                return
            self._cancelled = True
        self._wake.set()
        self._channel.shutdown()

    def _send(self) -> None:
        """Writes the whole stream.

        Raises:
            MigrationError: It cannot be.
        """
        raise NotImplementedError

    def _write(self, buffers: Buffers) -> None:
        """Writes a part of the stream and counts it."""
        with self._verdict_lock:
            self._check_cancelled()
            self._may_run_there = self._save.state == StreamState.END
        self._channel.send(buffers)
        self._progress.transferred_bytes += sum(map(len, buffers))
        self._progress.tick()

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise MigrationCancelled("cancelled")

    # The return path

    def _run_with_return_path(self) -> None:
        self._worker = Worker("mig/src/return", self._read_return_path)
        try:
            self._send_and_wait(self._worker)
            self._progress.enter(MigrationStatus.COMPLETED)
        except KeyboardInterrupt as interrupt:
            if self.may_run_there:
                interrupt.add_note(UNSURE)
            raise
        finally:
            self._channel.shutdown()
            self._worker.join()

    def _send_and_wait(self, worker: Worker) -> None:
        # What the return path says counts. Where it ended with SHUT, all is well: a QEMU that wants
        # no VM description leaves as soon as it has the end mark.
        try:
            self._send()
        except ChannelError:
            self._channel.shutdown()
        worker.join()
        if worker.error is not None:
            self._fail(worker.error)

    def _check_return_path(self) -> None:
        """Raises what the return path ended with, for a writer that has nothing to write."""
        if self._return_path_error is not None:
            self._fail(self._return_path_error)

    def _fail(self, error: BaseException) -> NoReturn:
        if not isinstance(error, MigrationError):
            raise error
        # Not even a SHUT that says otherwise settles it: a QEMU that misses no more than the VM
        # description runs the guest, and says that it failed.
        if self.may_run_there:
            raise PeerError(f"{error}; {UNSURE}", after_switchover=True) from error
        raise PeerError(f"{error}; the destination did not get the whole guest") from error

    def _read_return_path(self) -> None:
        """Reads until SHUT; whatever else ends it also wakes whoever writes."""
        try:
            while self._return_path.state != ReturnPathState.SHUT:
                buffer = self._return_path.buffer
                size = self._channel.recv_into(buffer.writable())
                if size == 0:
                    raise PeerError(f"{self._channel.name}: the destination left without SHUT")
                buffer.commit(size)
                while (message := self._return_path.next_message()) is not NEED_DATA:
                    self._handle(message)
        except BaseException as error:
            self._return_path_error = error
            self._channel.shutdown()
            raise
        finally:
            self._wake.set()

    def _handle(self, message: ReturnPathMessage) -> None:
        match message.type:
            case ReturnPathMessageType.SWITCHOVER_ACK:
                self._progress.ack_received_ns = time.monotonic_ns()
                self._acks.receive()
                self._wake.set()
            case ReturnPathMessageType.X_LOAD_REPORT:
                self._told.report(decode_load_report(message.payload))
            case ReturnPathMessageType.X_PHASE if self._phases_told < MAX_PHASES:
                self._phases_told += 1
                phase = decode_phase(message.payload, self._return_path.buffer.offset)
                self._progress.told_phase(phase.name, phase.began_ns, phase.ended_ns)
            case ReturnPathMessageType.SHUT if message.value != 0:
                raise PeerError(
                    f"{self._channel.name}: the destination says that it failed "
                    f"(SHUT {message.value})"
                )
            case ReturnPathMessageType.SHUT if not self.may_run_there:
                raise PeerError(
                    f"{self._channel.name}: the destination sent SHUT before it had everything"
                )
