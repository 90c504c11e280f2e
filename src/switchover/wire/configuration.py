"""The CONFIGURATION section. Page: docs/wire/stream.md."""

from uuid import UUID

from ..errors import StreamError
from ..model.configuration import Configuration
from ..model.section import SectionType
from .cursor import Cursor, counted_string, u32

MAX_MACHINE_NAME = 255
"""QEMU takes any length; no machine type's name comes near this one."""
MAX_CAPABILITIES = 64
"""More than QEMU has capabilities, and it sends only those it validates."""

_PAGE_BITS = "configuration/target-page-bits"
_CAPABILITIES = "configuration/capabilities"
_UUID = "configuration/uuid"
_SUBSECTION_VERSION = 1


def encode_configuration(configuration: Configuration) -> bytes:
    """The whole section, its type byte included."""
    name = configuration.machine.encode("ascii")
    parts = [bytes((SectionType.CONFIGURATION,)), u32(len(name)), name]
    if configuration.target_page_bits is not None:
        parts += _subsection(_PAGE_BITS), u32(configuration.target_page_bits)
    if configuration.capabilities:
        parts += _subsection(_CAPABILITIES), u32(len(configuration.capabilities))
        parts += map(counted_string, configuration.capabilities)
    if configuration.uuid is not None:
        parts += _subsection(_UUID), configuration.uuid.bytes
    return b"".join(parts)


def _subsection(name: str) -> bytes:
    return bytes((SectionType.SUBSECTION,)) + counted_string(name) + u32(_SUBSECTION_VERSION)


def decode_configuration(cursor: Cursor) -> Configuration:
    """What stands behind the type byte; reads one byte ahead to see where the section ends.

    Raises:
        StreamError: The name is too long, or a subsection is unknown, repeated or out of order.
    """
    what = "the configuration section"
    offset = cursor.offset
    size = cursor.u32(what)
    if not 0 < size <= MAX_MACHINE_NAME:
        raise StreamError(
            "the machine type's name has a wrong length",
            offset=offset,
            expected=f"1 to {MAX_MACHINE_NAME}",
            got=size,
        )
    machine = cursor.text(size, "the machine type's name")
    page_bits: int | None = None
    capabilities: tuple[str, ...] = ()
    uuid: UUID | None = None
    to_come = [_PAGE_BITS, _CAPABILITIES, _UUID]
    while cursor.peek_u8(what) == SectionType.SUBSECTION:
        name = _decode_subsection(cursor, to_come)
        del to_come[: to_come.index(name) + 1]
        if name == _PAGE_BITS:
            page_bits = cursor.u32(what)
        elif name == _CAPABILITIES:
            capabilities = _decode_capabilities(cursor)
        else:
            uuid = UUID(bytes=bytes(cursor.take(16, what)))
    return Configuration(machine, page_bits, capabilities, uuid)


def _decode_subsection(cursor: Cursor, to_come: list[str]) -> str:
    cursor.u8("a subsection")
    offset = cursor.offset
    name = cursor.counted_string("a subsection's name")
    if name not in to_come:
        raise StreamError(
            "a subsection of the configuration that does not belong there",
            offset=offset,
            expected=" or ".join(to_come) or "none",
            got=name,
        )
    offset = cursor.offset
    version = cursor.u32("a subsection")
    if version != _SUBSECTION_VERSION:
        raise StreamError(
            f"subsection '{name}'",
            offset=offset,
            expected=f"version {_SUBSECTION_VERSION}",
            got=version,
        )
    return name


def _decode_capabilities(cursor: Cursor) -> tuple[str, ...]:
    offset = cursor.offset
    count = cursor.u32("the capabilities")
    if count > MAX_CAPABILITIES:
        raise StreamError(
            "the configuration lists too many capabilities",
            offset=offset,
            expected=f"at most {MAX_CAPABILITIES}",
            got=count,
        )
    return tuple(cursor.counted_string("a capability's name") for _ in range(count))
