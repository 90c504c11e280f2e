"""The frame of a stream: header, section headers, footers, end. Page: docs/wire/stream.md."""

from ..errors import StreamError, UnsupportedStream
from ..model.section import SectionHeader, SectionType
from .cursor import Cursor, counted_string, u32

MAGIC = 0x5145564D
"""QEMU_VM_FILE_MAGIC, "QEVM"."""
VERSION = 3
"""QEMU_VM_FILE_VERSION."""
OBSOLETE_VERSION = 2
MULTIFD_MAGIC = 0x11223344
"""MULTIFD_MAGIC: the first bytes of each connection of a multifd migration but the main one."""

EOF = bytes((SectionType.EOF,))


def encode_header() -> bytes:
    """The first eight bytes of every stream."""
    return u32(MAGIC) + u32(VERSION)


def decode_header(cursor: Cursor) -> None:
    """Checks the first eight bytes of a stream.

    Raises:
        StreamError: This is no migration stream, or one of another version.
    """
    offset = cursor.offset
    magic = cursor.u32("the header")
    if magic == MULTIFD_MAGIC:
        raise UnsupportedStream(
            "this connection is a multifd channel, and capability 'multifd' is not supported yet",
            offset=offset,
        )
    if magic != MAGIC:
        raise StreamError(
            "not a migration stream",
            offset=offset,
            expected=f"magic {MAGIC:#010x}",
            got=f"{magic:#010x}",
        )
    offset = cursor.offset
    version = cursor.u32("the header")
    if version != VERSION:
        what = "the obsolete" if version == OBSOLETE_VERSION else "an unknown"
        raise StreamError(
            f"a migration stream of {what} version", offset=offset, expected=VERSION, got=version
        )


def decode_section_type(cursor: Cursor) -> SectionType:
    """The byte that tells what comes next.

    Raises:
        StreamError: No section begins with it.
    """
    offset = cursor.offset
    value = cursor.u8("a section type")
    try:
        return SectionType(value)
    except ValueError:
        raise StreamError(
            "unknown section type",
            offset=offset,
            expected="a section, a command or the end",
            got=f"{value:#04x}",
        ) from None


def encode_section_start(section_type: SectionType, header: SectionHeader) -> bytes:
    """What stands before the body of a START or FULL section."""
    return b"".join(
        (
            bytes((section_type,)),
            u32(header.section_id),
            counted_string(header.idstr),
            u32(header.instance_id),
            u32(header.version_id),
        )
    )


def decode_section_header(cursor: Cursor) -> SectionHeader:
    """What stands between the type byte of a START or FULL section and its body."""
    what = "a section header"
    return SectionHeader(
        section_id=cursor.u32(what),
        idstr=cursor.counted_string("a section's name"),
        instance_id=cursor.u32(what),
        version_id=cursor.u32(what),
    )


def encode_section_continuation(section_type: SectionType, section_id: int) -> bytes:
    """What stands before the body of a PART or END section."""
    return bytes((section_type,)) + u32(section_id)


def decode_section_id(cursor: Cursor) -> int:
    """What stands between the type byte of a PART or END section and its body."""
    return cursor.u32("a section id")


def encode_footer(section_id: int) -> bytes:
    """What stands behind the body of a section."""
    return bytes((SectionType.FOOTER,)) + u32(section_id)


FOOTER_SIZE = 5


def decode_footer(cursor: Cursor, header: SectionHeader) -> None:
    """Checks what stands behind the body of a section.

    Raises:
        StreamError: It is no footer, or the footer of another section.
    """
    offset = cursor.offset
    section_type = cursor.u8("a section footer")
    if section_type != SectionType.FOOTER:
        raise StreamError(
            f"section footer of '{header.idstr}' is missing",
            offset=offset,
            expected=f"{SectionType.FOOTER:#04x}",
            got=f"{section_type:#04x}",
        )
    offset = cursor.offset
    section_id = cursor.u32("a section footer")
    if section_id != header.section_id:
        raise StreamError(
            f"section footer of '{header.idstr}'",
            offset=offset,
            expected=f"id {header.section_id}",
            got=section_id,
        )
