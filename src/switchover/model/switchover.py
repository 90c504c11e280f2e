"""The two ways of counting SWITCHOVER_ACKs, and what a machine type's name tells of them.

The message is the same in both; who counts is not on the wire (docs/wire/return-path.md).
"""

import re
from enum import StrEnum

_VERSIONED = re.compile(r"pc-(?:i440fx|q35)-(\d+)\.(\d+)")
_BUILT_IN = re.compile(r"switchover-\d+")
_FIRST_PER_DEVICE = (11, 1)
_FIRST_WITH_SWITCHOVER_START = (10, 0)


class SwitchoverAckMode(StrEnum):
    """Who counts the devices that want to be waited for.

    LEGACY: the destination does and sends one ACK when none is left, at once where there is none
    (QEMU 8.1 to 11.0, and machine types of those versions on later ones).
    PER_DEVICE: the source does and each ACK takes one off; where no device asked, none is sent
    (machine types from 11.1).
    """

    LEGACY = "legacy"
    PER_DEVICE = "per-device"


def machine_version(machine: str) -> tuple[int, int] | None:
    """The QEMU version in a machine type's name; None for names that carry none."""
    match = _VERSIONED.fullmatch(machine)
    return (int(match[1]), int(match[2])) if match else None


def switchover_ack_mode(machine: str) -> SwitchoverAckMode | None:
    """The mode of a source with that machine type; None where the name does not tell.

    The built-in machine's source counts as legacy ones do.
    """
    if _BUILT_IN.fullmatch(machine):
        return SwitchoverAckMode.LEGACY
    version = machine_version(machine)
    if version is None:
        return None
    if version >= _FIRST_PER_DEVICE:
        return SwitchoverAckMode.PER_DEVICE
    return SwitchoverAckMode.LEGACY


def sends_switchover_start(machine: str) -> bool:
    """Whether a source with that versioned machine type sends SWITCHOVER_START.

    Names without a version say no: a destination older than 10.0 dies of the command, and none
    needs it for a machine without live devices other than RAM. The built-in machine goes to nobody
    who does not know it.
    """
    if _BUILT_IN.fullmatch(machine):
        return True
    version = machine_version(machine)
    return version is not None and version >= _FIRST_WITH_SWITCHOVER_START
