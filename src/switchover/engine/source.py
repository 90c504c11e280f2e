"""The source of a parked guest: sends it, and waits until the destination says that it has it."""

import time
from typing import NoReturn

from ..channel.base import Channel
from ..errors import ChannelError, MigrationError, PeerError
from ..guest.parked import ParkedGuest
from ..model.status import MigrationStatus
from ..model.switchover import sends_switchover_start, switchover_ack_mode
from ..protocol.event import NEED_DATA
from ..protocol.grammar import StreamState
from ..protocol.return_path import ReturnPathSource, ReturnPathState
from ..protocol.savevm import SaveVM
from ..wire.return_path import ReturnPathMessage, ReturnPathMessageType
from ..worker import Worker
from .progress import Progress
from .save import save_guest

_UNSURE = (
    "everything was written, and nobody here can know whether the destination runs the guest: look "
    "there before it is sent again"
)


class ParkedSource:
    """Sends one guest.

    Args:
        guest: A whole guest.
        channel: Where it goes. One that has a return path is asked for it.
        progress: Where it is counted.
    """

    def __init__(
        self,
        guest: ParkedGuest,
        channel: Channel,
        progress: Progress,
    ) -> None:
        self._guest = guest
        self._channel = channel
        self._progress = progress
        self._save = SaveVM(has_footers=guest.has_footers)
        self._return_path = ReturnPathSource()

    @property
    def may_run_there(self) -> bool:
        """Whether the destination may have the whole guest.

        From the end mark on: what stands behind it describes the guest and is no part of it.
        """
        return self._save.state == StreamState.END

    def run(self) -> None:
        """Sends the guest and waits for the destination's word.

        Raises:
            PeerError: The destination failed, or went away; `after_switchover` tells whether it
                may run the guest all the same.
        """
        progress, guest = self._progress, self._guest
        progress.machine = guest.machine
        progress.ram_bytes = guest.ram_bytes
        progress.devices = guest.devices
        progress.ack_mode = switchover_ack_mode(guest.machine or "")
        progress.start()
        if not self._channel.has_return_path:
            self._send()
            progress.enter(MigrationStatus.COMPLETED)
        else:
            worker = Worker("mig/src/return", self._read_return_path)
            try:
                self._send_and_wait(worker)
                progress.enter(MigrationStatus.COMPLETED)
            except KeyboardInterrupt as interrupt:
                if self.may_run_there:
                    interrupt.add_note(_UNSURE)
                raise
            finally:
                self._channel.shutdown()
                worker.join()

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

    def _fail(self, error: BaseException) -> NoReturn:
        if not isinstance(error, MigrationError):
            raise error
        # Not even a SHUT that says otherwise settles it: a QEMU that misses no more than the VM
        # description runs the guest, and says that it failed.
        if self.may_run_there:
            raise PeerError(f"{error}; {_UNSURE}", after_switchover=True) from error
        raise PeerError(f"{error}; the destination did not get the whole guest") from error

    def _send(self) -> None:
        guest, progress = self._guest, self._progress
        progress.enter(MigrationStatus.ACTIVE)
        buffers = save_guest(
            guest,
            self._save,
            progress,
            opens_return_path=self._channel.has_return_path,
            sends_switchover_start=guest.sent_switchover_start
            or sends_switchover_start(guest.machine or ""),
        )
        for written in buffers:
            if self._save.state == StreamState.COMPLETE:
                progress.enter(MigrationStatus.DEVICE)
            self._channel.send(written)
            progress.transferred_bytes += sum(map(len, written))
            progress.tick()
        self._channel.finish()

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
        except BaseException:
            self._channel.shutdown()
            raise

    def _handle(self, message: ReturnPathMessage) -> None:
        match message.type:
            case ReturnPathMessageType.SWITCHOVER_ACK:
                self._progress.ack_received_ns = time.monotonic_ns()
            case ReturnPathMessageType.SHUT if message.value != 0:
                raise PeerError(
                    f"{self._channel.name}: the destination says that it failed "
                    f"(SHUT {message.value})"
                )
            case ReturnPathMessageType.SHUT if not self.may_run_there:
                raise PeerError(
                    f"{self._channel.name}: the destination sent SHUT before it had everything"
                )
