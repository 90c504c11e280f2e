"""The live sections besides RAM: which form a device has on the wire.

A `LiveDevice` has one of our own, a `VfioMigration` has QEMU's for VFIO.
"""

from collections.abc import Callable

from ..guest.base import LiveDevice
from ..protocol.switchover_ack import SwitchoverAckDestination, SwitchoverAckSource
from ..vfio.migration import VfioMigration
from .live_prefixed import PrefixedDestination, PrefixedSource
from .live_section import LiveDestination, LiveSource
from .live_vfio import VfioDestination, VfioSource

AnyLiveDevice = LiveDevice | VfioMigration


def open_live_source(
    device: AnyLiveDevice, section_id: int, acks: SwitchoverAckSource
) -> LiveSource:
    """The source's end of a device's section."""
    if isinstance(device, VfioMigration):
        return VfioSource(device, section_id, acks)
    return PrefixedSource(device, section_id, acks)


def open_live_destination(
    device: AnyLiveDevice,
    acks: Callable[[], SwitchoverAckDestination],
    ready: Callable[[str], None],
) -> LiveDestination:
    """The destination's end of a device's section.

    Args:
        device: The device.
        acks: What the destination has to say.
        ready: Called with the device's name when it is ready for the switchover, by any thread.
    """
    if isinstance(device, VfioMigration):
        return VfioDestination(device, acks, ready)
    return PrefixedDestination(device, ready)
