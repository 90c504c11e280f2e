"""Sections of a migration stream, and the seam for the body of a live one.

The format is in docs/wire/stream.md.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class SectionType(IntEnum):
    """The byte that opens each element of a stream (QEMU_VM_* in QEMU)."""

    EOF = 0x00
    START = 0x01
    PART = 0x02
    END = 0x03
    FULL = 0x04
    SUBSECTION = 0x05
    VMDESCRIPTION = 0x06
    CONFIGURATION = 0x07
    COMMAND = 0x08
    FOOTER = 0x7E


@dataclass(frozen=True, slots=True)
class SectionHeader:
    """What a START or FULL section says of itself.

    Attributes:
        section_id: The source's number for it; PART, END and footers repeat it.
        idstr: The device's name, at most 255 bytes.
        instance_id: Tells devices with the same name apart.
        version_id: The version of the layout of its body.
    """

    section_id: int
    idstr: str
    instance_id: int
    version_id: int


@dataclass(frozen=True, slots=True)
class Parsed:
    """One step of a live section's parser.

    Attributes:
        size: Bytes of the body that the step used up; at least one.
        item: What they mean, or None when there is nothing to hand on.
        is_last: The body of this section ends here.
    """

    size: int
    item: object | None
    is_last: bool


class LiveParser(Protocol):
    """Takes the body of one live section apart; brought by the owner of the section.

    A live section says nothing of its length, so whoever owns it must tell where it ends. A parser
    is pure: it holds what it must remember between the sections of one stream, and does no I/O.
    """

    @property
    def idstr(self) -> str:
        """The section's name in the stream."""
        ...

    @property
    def version_id(self) -> int:
        """The one version of its layout that this parser reads."""
        ...

    def parse(self, section_type: SectionType, body: memoryview, offset: int) -> Parsed:
        """Takes one step at the beginning of `body`.

        A section whose body gives no item at all must leave the parser as it was: such sections may
        be skipped unread when they repeat.

        Args:
            section_type: START, PART or END.
            body: The bytes from here on, as far as they have arrived; others may follow the body.
            offset: Where `body` begins in the stream, for errors.

        Returns:
            The step. Views into `body` are valid until the next call only.

        Raises:
            TruncatedStream: `body` holds less than one step; nothing was changed. Called again with
                more bytes.
            StreamError: The bytes are wrong.
        """
        ...
