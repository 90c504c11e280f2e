"""A real QEMU with played VFIO devices, for tests of QEMU's VFIO migration without hardware."""

from collections.abc import Sequence
from typing import IO, Any

from switchover.player.qemu import PlayedQemu
from switchover.player.vfio import Event, PlayedDevice
from switchover.testing.peer import Peer
from switchover.testing.qemu import Process, Qemu


class VfioQemu(Qemu):
    """As `Qemu`, with VFIO devices that this process plays.

    Args:
        peer: Which QEMU; one from 9.0 on.
        devices: The devices.
        machine: See `Qemu`.
        options: See `Qemu`.

    Attributes:
        events: Each call on a device, and what it got, as they came.
    """

    def __init__(
        self, peer: Peer, devices: Sequence[PlayedDevice], machine: str = "q35", **options: Any
    ) -> None:
        super().__init__(peer, machine, **options)
        self.devices = devices
        self.events: list[Event] = []
        self._played: PlayedQemu | None = None

    def states(self, name: str) -> list[str]:
        """The states that QEMU asked a device for so far, and got."""
        return [
            event.detail
            for event in list(self.events)
            if (event.device, event.call, event.result) == (name, "SET MIG_DEVICE_STATE", 0)
        ]

    @property
    def played(self) -> PlayedQemu:
        """The process, for whoever wants to stop answering it."""
        assert self._played is not None
        return self._played

    def _spawn(self, arguments: Sequence[str], output: IO[bytes], qmp_fd: int) -> Process:
        self._played = PlayedQemu(
            arguments,
            self.devices,
            self.events.append,
            stdout=output,
            stderr=output,
            pass_fds=[qmp_fd],
            start_new_session=True,
        )
        return self._played

    def _clear(self) -> None:
        if self._played is not None:
            self._played.close()
        super()._clear()
