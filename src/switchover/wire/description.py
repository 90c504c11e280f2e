"""The VM description: a JSON text that tells each device's fields and sizes.

Device sections say nothing of their length; only the description, at the very end, does. It is
believed when the sizes that it gives tile the device sections exactly. Page: docs/wire/vmstate.md.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import StreamError
from ..model.configuration import Configuration
from ..model.device import DeviceSection
from ..model.ramblock import TARGET_PAGE_SIZE
from ..model.section import SectionHeader, SectionType
from .cursor import Cursor, u32
from .stream import decode_footer, decode_section_header, decode_section_type

MAX_DESCRIPTION = 16 << 20
"""QEMU's are a few dozen KiB; this bounds what the parser may be made to build."""
DESCRIPTION_STARTS = (b'{"configuration"', b'{"page_size"')
"""How descriptions begin; the second is QEMU 7.2's."""

_NUMBER_LIMIT = 1 << 32
"""Sizes, counts and instances are 32-bit numbers in QEMU."""

JSON = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DescribedDevice:
    """What a description says of one device section.

    Attributes:
        idstr: Its name.
        instance_id: Its instance.
        version_id: The version of its layout; None for devices that do not say.
        size: Bytes of its body.
    """

    idstr: str
    instance_id: int
    version_id: int | None
    size: int


def encode_description_section(text: bytes) -> bytes:
    """The whole VMDESCRIPTION section but its text, which stands behind."""
    return bytes((SectionType.VMDESCRIPTION,)) + u32(len(text))


def encode_description(configuration: Configuration, devices: Iterable[JSON] = ()) -> bytes:
    """A description of a machine with those devices.

    Args:
        configuration: The CONFIGURATION section of the same stream.
        devices: What `switchover.wire.vmstate.describe_device` says of each, in stream order.
    """
    return json.dumps(
        {
            "configuration": _describe_configuration(configuration),
            "page_size": TARGET_PAGE_SIZE,
            "devices": list(devices),
        }
    ).encode()


def describe_opaque(header: SectionHeader, size: int) -> JSON:
    """What a description says of a section whose `size` bytes only its owner understands."""
    return {
        "name": header.idstr,
        "instance_id": header.instance_id,
        "size": size,
        "fields": [{"name": "data", "size": size, "type": "buffer"}],
    }


def _describe_configuration(configuration: Configuration) -> JSON:
    described: dict[str, Any] = {
        "vmsd_name": "configuration",
        "version": 1,
        "fields": [
            {"name": "len", "type": "uint32", "size": 4},
            {"name": "name", "type": "buffer", "size": len(configuration.machine)},
        ],
    }
    subsections: dict[str, list[JSON]] = {}
    if configuration.target_page_bits is not None:
        page_bits = {"name": "target_page_bits", "type": "uint32", "size": 4}
        subsections["target-page-bits"] = [page_bits]
    if configuration.capabilities:
        subsections["capabilities"] = [
            {"name": "caps_count", "type": "uint32", "size": 4},
            *_describe_capabilities(configuration.capabilities),
        ]
    if configuration.uuid is not None:
        size = len(configuration.uuid.bytes)
        subsections["uuid"] = [{"name": "uuid", "type": "buffer", "size": size}]
    if subsections:
        described["subsections"] = [
            {"vmsd_name": f"configuration/{name}", "version": 1, "fields": fields}
            for name, fields in subsections.items()
        ]
    return described


def _describe_capabilities(names: Sequence[str]) -> Iterator[JSON]:
    for index, name in enumerate(names):
        place = {"index": index} if len(names) > 1 else {}
        yield {"name": "capabilities", **place, "type": "capability", "size": 1 + len(name)}


def decode_description(text: bytes | bytearray | memoryview, offset: int) -> list[DescribedDevice]:
    """The devices that a description tells of, with their sizes.

    Raises:
        StreamError: It is no JSON text, or not of this form.
    """
    try:
        described = json.loads(bytes(text))
        return [_described_device(device) for device in described["devices"]]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise StreamError(
            "the VM description makes no sense",
            offset=offset,
            expected="JSON with devices, fields and sizes",
            got=f"{type(error).__name__} ({error})",
        ) from error


def _described_device(device: JSON) -> DescribedDevice:
    version = device.get("version")
    return DescribedDevice(
        idstr=_text(device["name"]),
        instance_id=_number(device["instance_id"]),
        version_id=None if version is None else _number(version),
        size=_state_size(device),
    )


def _state_size(state: JSON) -> int:
    """Bytes of a device, struct or subsection without its header."""
    size = sum(
        _number(field["size"]) * _number(field.get("array_len", 1)) for field in state["fields"]
    )
    for subsection in state.get("subsections", ()):
        size += _subsection_header_size(_text(subsection["vmsd_name"])) + _state_size(subsection)
    return size


def _subsection_header_size(name: str) -> int:
    return 1 + 1 + len(name) + 4


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < _NUMBER_LIMIT:
        raise ValueError("a size or a number that is none")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise ValueError("a name that is none")
    return value


def tile_devices(
    data: bytes | bytearray | memoryview,
    described: Iterable[DescribedDevice],
    offset: int,
    *,
    has_footers: bool,
) -> tuple[DeviceSection, ...]:
    """Lays the described devices over the bytes of the device sections.

    Args:
        data: The bytes between the last live section and the end mark.
        described: The devices of the description.
        offset: Where in the stream `data` begins, for errors.
        has_footers: Whether a footer stands behind each section.

    Returns:
        The sections, which cover `data` to the last byte.

    Raises:
        StreamError: They do not.
    """
    cursor = Cursor(data, offset)
    sections = []
    for device in described:
        header = _expect_device(cursor, device)
        start = cursor.position
        cursor.take(device.size, f"device '{device.idstr}'")
        if has_footers:
            decode_footer(cursor, header)
        sections.append(DeviceSection(header, start, device.size))
    if cursor.remaining:
        raise StreamError(
            "the VM description does not cover all device sections",
            offset=cursor.offset,
            expected="the end of the stream",
            got=f"{cursor.remaining} bytes more",
        )
    return tuple(sections)


def _expect_device(cursor: Cursor, device: DescribedDevice) -> SectionHeader:
    offset = cursor.offset
    section_type = decode_section_type(cursor)
    if section_type != SectionType.FULL:
        raise StreamError(
            f"the section of device '{device.idstr}'",
            offset=offset,
            expected="a FULL section",
            got=section_type.name,
        )
    header = decode_section_header(cursor)
    version_id = header.version_id if device.version_id is None else device.version_id
    expected = SectionHeader(header.section_id, device.idstr, device.instance_id, version_id)
    if header != expected:
        raise StreamError(
            "a device section is not the described one",
            offset=offset,
            expected=_name(expected),
            got=_name(header),
        )
    return header


def _name(header: SectionHeader) -> str:
    return f"'{header.idstr}' instance {header.instance_id} version {header.version_id}"
