"""The source of a parked guest."""

from ..channel.base import Channel
from ..guest.parked import ParkedGuest
from ..model.capability import Capability
from ..model.status import MigrationStatus
from ..model.switchover import SwitchoverAckMode, sends_switchover_start, switchover_ack_mode
from ..protocol.grammar import StreamState
from ..protocol.savevm import SaveVM
from .outgoing import OutgoingMigration
from .progress import Progress
from .save import save_guest


class ParkedSource(OutgoingMigration):
    """Sends one guest that is held.

    Args:
        guest: A whole guest.
        channel: Where it goes. One that has a return path is asked for it.
        progress: Where it is counted.
        capabilities: Those that are set. With `switchover-ack` the destination is told when the
            initial data of its VFIO devices is there; the guest does not run, and waits for no ACK.
        ack_mode: Who counts the ACKs; None to read it from the machine type's name.
    """

    def __init__(
        self,
        guest: ParkedGuest,
        channel: Channel,
        progress: Progress,
        *,
        capabilities: frozenset[Capability] = frozenset(),
        ack_mode: SwitchoverAckMode | None = None,
    ) -> None:
        super().__init__(
            channel,
            progress,
            SaveVM(has_footers=guest.has_footers),
            opens_return_path=channel.has_return_path,
            ack_mode=ack_mode or switchover_ack_mode(guest.machine or ""),
        )
        self._guest = guest
        self._marks_initial_data = Capability.SWITCHOVER_ACK in capabilities
        progress.machine = guest.machine
        progress.ram_bytes = guest.ram_bytes
        progress.devices = guest.devices

    def _send(self) -> None:
        guest = self._guest
        self._progress.enter(MigrationStatus.ACTIVE)
        buffers = save_guest(
            guest,
            self._save,
            self._progress,
            opens_return_path=self._opens_return_path,
            sends_switchover_start=guest.sent_switchover_start
            or sends_switchover_start(guest.machine or ""),
            marks_initial_data=self._marks_initial_data,
        )
        for written in buffers:
            if self._save.state == StreamState.COMPLETE:
                self._progress.enter(MigrationStatus.DEVICE)
            self._write(written)
        self._channel.finish()
