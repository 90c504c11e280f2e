"""Described device state: values to bytes and back, and what a VM description says of it.

Page: docs/wire/vmstate.md. There are no tags or lengths in the bytes: fields stand one behind the
other, subsections behind them.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import GuestError, StreamError, TruncatedStream
from ..model.section import SectionHeader, SectionType
from ..model.vmstate import VmstateDescription, VmstateField, VmstateType
from .cursor import Cursor, counted_string, u32

Values = Mapping[str, Any]
"""A device's state: integers, booleans, bytes, lists for arrays, mappings for structs and, under
their full names, for the subsections that are present."""

_SCALARS = {
    VmstateType.BOOL: struct.Struct(">?"),
    VmstateType.INT8: struct.Struct(">b"),
    VmstateType.INT16: struct.Struct(">h"),
    VmstateType.INT32: struct.Struct(">i"),
    VmstateType.INT64: struct.Struct(">q"),
    VmstateType.UINT8: struct.Struct(">B"),
    VmstateType.UINT16: struct.Struct(">H"),
    VmstateType.UINT32: struct.Struct(">I"),
    VmstateType.UINT64: struct.Struct(">Q"),
}


def encode_vmstate(description: VmstateDescription, values: Values) -> bytes:
    """The body of a device section, or of a struct in one.

    Raises:
        GuestError: A value is missing, or is not what its field holds.
    """
    if not isinstance(values, Mapping):
        raise GuestError(f"device state '{description.name}' does not take {values!r}")
    parts = []
    for field in description.fields:
        if field.type != VmstateType.UNUSED and field.name not in values:
            raise GuestError(f"device state '{description.name}' has no value '{field.name}'")
        where = f"field '{field.name}' of '{description.name}'"
        parts += [
            _encode_element(field, element, where) for element in _elements(field, values, where)
        ]
    for subsection in _present(description, values):
        parts += [
            bytes((SectionType.SUBSECTION,)),
            counted_string(subsection.name),
            u32(subsection.version_id),
            encode_vmstate(subsection, values[subsection.name]),
        ]
    return b"".join(parts)


def _elements(field: VmstateField, values: Values, where: str) -> Sequence[Any]:
    if field.type == VmstateType.UNUSED:
        return (None,)
    value = values[field.name]
    if field.count is None:
        return (value,)
    count = values[field.count] if isinstance(field.count, str) else field.count
    try:
        elements = tuple(value)
    except TypeError:
        raise GuestError(f"{where} does not take {value!r}: expected {count} elements") from None
    if len(elements) != count:
        raise GuestError(f"{where} has {len(elements)} elements, expected {count}")
    return elements


def _present(description: VmstateDescription, values: Values) -> Iterator[VmstateDescription]:
    return (subsection for subsection in description.subsections if subsection.name in values)


def _encode_element(field: VmstateField, value: Any, where: str) -> bytes:
    match field.type:
        case VmstateType.UNUSED:
            return bytes(field.size)
        case VmstateType.BUFFER:
            if not isinstance(value, bytes | bytearray | memoryview):
                raise GuestError(f"{where} does not take {value!r}: expected {field.type}")
            if len(value) != field.size:
                raise GuestError(f"{where} has {len(value)} bytes, expected {field.size}")
            return bytes(value)
        case VmstateType.STRUCT:
            return encode_vmstate(_struct(field), value)
    try:
        return _SCALARS[field.type].pack(value)
    except struct.error:
        raise GuestError(f"{where} does not take {value!r}: expected {field.type}") from None


def _struct(field: VmstateField) -> VmstateDescription:
    if field.struct is None:
        raise GuestError(f"field '{field.name}' is a struct without a layout")
    return field.struct


def decode_vmstate(
    description: VmstateDescription, cursor: Cursor, version_id: int | None = None
) -> dict[str, Any]:
    """The values in the body of a device section; stops where the description ends.

    Args:
        description: The layout.
        cursor: Stands at the body.
        version_id: The version that the section says it has; None for the description's own.

    Raises:
        StreamError: The version cannot be read, or the bytes do not fit the layout.
    """
    version = description.version_id if version_id is None else version_id
    if not description.minimum_version_id <= version <= description.version_id:
        raise StreamError(
            f"device state '{description.name}'",
            offset=cursor.offset,
            expected=f"version {description.minimum_version_id} to {description.version_id}",
            got=version,
        )
    values: dict[str, Any] = {}
    for field in description.fields:
        if field.version_id <= version:
            value = _decode_field(description, field, cursor, values)
            if field.type != VmstateType.UNUSED:
                values[field.name] = value
    _decode_subsections(description, cursor, values)
    return values


def _decode_field(
    description: VmstateDescription, field: VmstateField, cursor: Cursor, values: dict[str, Any]
) -> Any:
    where = f"field '{field.name}' of '{description.name}'"
    if field.count is None or field.type == VmstateType.UNUSED:
        return _decode_element(field, cursor, where)
    count = values[field.count] if isinstance(field.count, str) else field.count
    if count < 0:
        raise StreamError(
            f"{where} has a wrong number of elements",
            offset=cursor.offset,
            expected="0 or more",
            got=count,
        )
    # Every element has at least a byte: a count that the peer chose costs it as many.
    if count > cursor.remaining:
        raise TruncatedStream(
            f"the stream ends inside {where}",
            offset=cursor.offset,
            expected=f"{count} elements",
            got=f"{cursor.remaining} bytes",
        )
    return [_decode_element(field, cursor, where) for _ in range(count)]


def _decode_element(field: VmstateField, cursor: Cursor, where: str) -> Any:
    match field.type:
        case VmstateType.UNUSED | VmstateType.BUFFER:
            return bytes(cursor.take(field.size, where))
        case VmstateType.STRUCT:
            return decode_vmstate(_struct(field), cursor)
    scalar = _SCALARS[field.type]
    return scalar.unpack(cursor.take(scalar.size, where))[0]


def _decode_subsections(
    description: VmstateDescription, cursor: Cursor, values: dict[str, Any]
) -> None:
    known = {subsection.name: subsection for subsection in description.subsections}
    while _is_at_subsection(description, cursor):
        offset = cursor.offset
        cursor.u8("a subsection")
        name = cursor.counted_string("a subsection's name")
        if name not in known or name in values:
            raise StreamError(
                f"a subsection of '{description.name}' that does not belong there",
                offset=offset,
                expected=", ".join(sorted(known.keys() - values.keys())) or "none",
                got=name,
            )
        version = cursor.u32("a subsection")
        values[name] = decode_vmstate(known[name], cursor, version)


def _is_at_subsection(description: VmstateDescription, cursor: Cursor) -> bool:
    """Whether a subsection of the description stands next.

    Anything else there, bytes that begin like one included, belongs to what this is a part of.
    """
    prefix = f"{description.name}/".encode()
    following = cursor.data[cursor.position : cursor.position + 2 + len(prefix)]
    return (
        following[:1] == bytes((SectionType.SUBSECTION,))
        and following[2:] == prefix
        and following[1] >= len(prefix)
    )


def describe_device(
    header: SectionHeader, description: VmstateDescription, values: Values
) -> dict[str, Any]:
    """What a VM description says of a device section with those values."""
    return {
        "name": header.idstr,
        "instance_id": header.instance_id,
        **describe_vmstate(description, values),
    }


def describe_vmstate(description: VmstateDescription, values: Values) -> dict[str, Any]:
    """What a VM description says of a device's, struct's or subsection's state."""
    fields = [
        described for field in description.fields for described in _describe_field(field, values)
    ]
    described: dict[str, Any] = {
        "vmsd_name": description.name,
        "version": description.version_id,
        "fields": fields,
    }
    subsections = [
        describe_vmstate(subsection, values[subsection.name])
        for subsection in _present(description, values)
    ]
    return {**described, "subsections": subsections} if subsections else described


def _describe_field(field: VmstateField, values: Values) -> list[dict[str, Any]]:
    """One entry, or one for each element where elements may differ in size.

    An empty array has none, as in QEMU: whoever reads an entry reads at least one element.
    """
    elements = _elements(field, values, field.name)
    if not elements:
        return []
    if field.type != VmstateType.STRUCT:
        array = {} if field.count is None else {"array_len": len(elements)}
        scalar = _SCALARS.get(field.type)
        size = field.size if scalar is None else scalar.size
        return [{"name": field.name, **array, "type": field.type.value, "size": size}]
    layout = _struct(field)
    return [
        {
            "name": field.name,
            **({} if field.count is None else {"index": index}),
            "type": field.type.value,
            "struct": describe_vmstate(layout, element),
            "size": len(encode_vmstate(layout, element)),
        }
        for index, element in enumerate(elements)
    ]
