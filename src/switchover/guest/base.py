"""The seam: whatever has RAM blocks and devices can be migrated.

A guest of one's own is a `Guest` with blocks over memory of this process and, if it has state
besides, devices. Two kinds of device: a `Device` is saved once, while the guest is stopped, as
described state; a `LiveDevice` is sent while the guest runs, in a section of its own, and so is a
VFIO device.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..model.vmstate import VmstateDescription
from ..vfio.migration import VfioMigration
from .ram import GuestRAM


class Device(Protocol):
    """A device that is saved as described state while the guest is stopped."""

    @property
    def idstr(self) -> str:
        """Its name in the stream."""
        ...

    @property
    def description(self) -> VmstateDescription:
        """The layout of its state."""
        ...

    def save(self) -> Mapping[str, Any]:
        """The values of its fields."""
        ...

    def load(self, values: Mapping[str, Any]) -> None:
        """Takes the values over.

        Raises:
            GuestError: They cannot be.
        """
        ...


class LiveDevice:
    """A device that is sent in pieces while the guest runs, in a live section of its own.

    A piece is bytes, at most 16 MiB; on the wire its length stands before it. Subclasses override
    what they need.

    Attributes:
        idstr: Its name in the stream.
        version_id: The version of its pieces.
        wants_switchover_ack: Whether the source must not stop the guest before `load` has called
            `ready` at the destination.
    """

    idstr: str
    version_id = 1
    wants_switchover_ack = False

    # Source

    def save_setup(self) -> bytes:
        """The first piece; the guest runs."""
        return b""

    def pending_bytes(self) -> int:
        """What is left to be sent, as far as it is known."""
        return 0

    def save_iterate(self) -> bytes:
        """Another piece while the guest runs; none when there is nothing for now."""
        return b""

    def save_complete(self) -> bytes:
        """Another piece while the guest is stopped; none when that was all."""
        return b""

    # Destination

    def load_setup(self) -> None:
        """A migration begins."""

    def load(self, piece: bytes, ready: Callable[[], None]) -> None:
        """Takes a piece.

        Args:
            piece: What the source gave, the empty ones left out.
            ready: To be called once when the source may stop the guest as far as this device goes;
                from any thread.

        Raises:
            GuestError: It cannot be.
        """

    def load_complete(self) -> None:
        """Everything is here; the guest goes on after this."""


class Guest(Protocol):
    """What is migrated."""

    @property
    def machine(self) -> str:
        """The name that both sides must agree on."""
        ...

    @property
    def ram(self) -> Sequence[GuestRAM]:
        """Its RAM, in stream order."""
        ...

    @property
    def devices(self) -> Sequence[Device]:
        """Its devices, in stream order."""
        ...

    @property
    def live_devices(self) -> Sequence[LiveDevice | VfioMigration]:
        """Its live devices besides RAM, in stream order.

        VFIO devices stop and go on with the guest, which sees to that itself.
        """
        ...

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        ...

    def stop(self) -> None:
        """Stops it; its memory and devices do not change from here on."""
        ...

    def cont(self) -> None:
        """Lets it run on from where it is."""
        ...
