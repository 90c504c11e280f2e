"""The device sections of a stream, held as they came."""

from dataclasses import dataclass

from .section import SectionHeader


@dataclass(frozen=True, slots=True)
class DeviceSection:
    """One device's place among the device sections.

    Attributes:
        header: What the section says of itself.
        start: Where its body begins, in bytes from the first device section.
        size: Bytes of its body.
    """

    header: SectionHeader
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class DeviceState:
    """Everything behind the live sections, undecoded.

    Attributes:
        data: The FULL sections, back to back, headers and footers included.
        description: The VM description, a JSON text.
        sections: What the description says is in `data`.
    """

    data: bytes
    description: bytes
    sections: tuple[DeviceSection, ...]
