"""Described device state as plain data: which fields a device has, in which order.

How the bytes are laid out is in docs/wire/vmstate.md; `switchover.wire.vmstate` writes and reads
them.
"""

from dataclasses import dataclass
from enum import StrEnum


class VmstateType(StrEnum):
    """What a field holds, by the name that QEMU's VM descriptions use."""

    BOOL = "bool"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    BUFFER = "buffer"
    UNUSED = "unused_buffer"
    STRUCT = "struct"


@dataclass(frozen=True, slots=True)
class VmstateField:
    """One field, or an array of them.

    Attributes:
        name: Its key among the values of the device.
        type: What it holds.
        count: Elements of an array: a number, or the name of an earlier integer field that holds
            it; None for a field that is no array.
        size: Bytes of a BUFFER or UNUSED field.
        struct: The layout of a STRUCT field.
        version_id: The first version of the enclosing description that has the field.
    """

    name: str
    type: VmstateType
    count: int | str | None = None
    size: int = 0
    struct: "VmstateDescription | None" = None
    version_id: int = 0


@dataclass(frozen=True, slots=True)
class VmstateDescription:
    """The layout of a device's state, or of a struct in it.

    Attributes:
        name: Its name; a subsection's begins with its parent's and a slash.
        fields: Its fields, in the order of the stream.
        version_id: The version that is written.
        minimum_version_id: The oldest version that can be read.
        subsections: Optional parts behind the fields: present when the values hold their name.
    """

    name: str
    fields: tuple[VmstateField, ...]
    version_id: int = 1
    minimum_version_id: int = 1
    subsections: "tuple[VmstateDescription, ...]" = ()
