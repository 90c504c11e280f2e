"""Live migration as Python: QEMU's migration protocol, byte for byte.

The names below are the public ones; docs/library.md says what each is for. They are loaded when
they are first asked for, so that the command line starts fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .channel.connection import Listener, connect
    from .channel.file import AtomicFile, open_file
    from .channel.open import open_incoming, open_outgoing
    from .engine.arrival import ArrivingDestination
    from .engine.destination import ParkingDestination
    from .engine.incoming import ReceiveOptions
    from .engine.load import load_guest
    from .engine.precopy import PrecopySource
    from .engine.progress import Progress
    from .engine.source import ParkedSource
    from .errors import (
        ChannelError,
        CompatibilityError,
        GuestError,
        KernelError,
        MigrationCancelled,
        MigrationError,
        PeerError,
        StreamError,
        TruncatedStream,
        UnsupportedStream,
        UsageError,
    )
    from .guest.base import Device, Guest, LiveDevice
    from .guest.machine import BuiltinMachine
    from .guest.parked import ParkedGuest
    from .guest.ram import GuestRAM
    from .model.address import parse_address
    from .model.capability import Capability
    from .model.parameter import AckTimeoutPolicy, Parameters
    from .model.ramblock import RAMBlock
    from .model.section import LiveParser
    from .model.stats import ExpectedDowntime, Phase, TransferReport
    from .model.status import MigrationStatus
    from .model.switchover import SwitchoverAckMode
    from .model.vmstate import VmstateDescription, VmstateField, VmstateType
    from .vfio.device import PrecopyDevice
    from .vfio.kernel import KernelVfioDevice
    from .vfio.migration import VfioMigration
    from .vfio.options import SimOptions
    from .vfio.sim import VfioSim

__version__ = "0.1.0"

_HOMES = {
    "Listener": "channel.connection",
    "connect": "channel.connection",
    "AtomicFile": "channel.file",
    "open_file": "channel.file",
    "open_incoming": "channel.open",
    "open_outgoing": "channel.open",
    "ArrivingDestination": "engine.arrival",
    "ParkingDestination": "engine.destination",
    "ReceiveOptions": "engine.incoming",
    "load_guest": "engine.load",
    "PrecopySource": "engine.precopy",
    "Progress": "engine.progress",
    "ParkedSource": "engine.source",
    "ChannelError": "errors",
    "CompatibilityError": "errors",
    "GuestError": "errors",
    "KernelError": "errors",
    "MigrationCancelled": "errors",
    "MigrationError": "errors",
    "PeerError": "errors",
    "StreamError": "errors",
    "TruncatedStream": "errors",
    "UnsupportedStream": "errors",
    "UsageError": "errors",
    "Device": "guest.base",
    "Guest": "guest.base",
    "LiveDevice": "guest.base",
    "BuiltinMachine": "guest.machine",
    "ParkedGuest": "guest.parked",
    "GuestRAM": "guest.ram",
    "VfioSim": "vfio.sim",
    "parse_address": "model.address",
    "Capability": "model.capability",
    "Parameters": "model.parameter",
    "RAMBlock": "model.ramblock",
    "LiveParser": "model.section",
    "TransferReport": "model.stats",
    "MigrationStatus": "model.status",
    "VmstateDescription": "model.vmstate",
    "VmstateField": "model.vmstate",
    "VmstateType": "model.vmstate",
    "AckTimeoutPolicy": "model.parameter",
    "ExpectedDowntime": "model.stats",
    "KernelVfioDevice": "vfio.kernel",
    "Phase": "model.stats",
    "PrecopyDevice": "vfio.device",
    "SimOptions": "vfio.options",
    "SwitchoverAckMode": "model.switchover",
    "VfioMigration": "vfio.migration",
}

__all__ = [
    "AckTimeoutPolicy",
    "ArrivingDestination",
    "AtomicFile",
    "BuiltinMachine",
    "Capability",
    "ChannelError",
    "CompatibilityError",
    "Device",
    "ExpectedDowntime",
    "Guest",
    "GuestError",
    "GuestRAM",
    "KernelError",
    "KernelVfioDevice",
    "Listener",
    "LiveDevice",
    "LiveParser",
    "MigrationCancelled",
    "MigrationError",
    "MigrationStatus",
    "Parameters",
    "ParkedGuest",
    "ParkedSource",
    "ParkingDestination",
    "PeerError",
    "Phase",
    "PrecopyDevice",
    "PrecopySource",
    "Progress",
    "RAMBlock",
    "ReceiveOptions",
    "SimOptions",
    "StreamError",
    "SwitchoverAckMode",
    "TransferReport",
    "TruncatedStream",
    "UnsupportedStream",
    "UsageError",
    "VfioMigration",
    "VfioSim",
    "VmstateDescription",
    "VmstateField",
    "VmstateType",
    "connect",
    "load_guest",
    "open_file",
    "open_incoming",
    "open_outgoing",
    "parse_address",
]


def __getattr__(name: str) -> Any:
    """Loads a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
