"""What a stream says first of the machine that it holds."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Configuration:
    """The CONFIGURATION section.

    Attributes:
        machine: The machine type's name, such as `pc-q35-10.0`.
        target_page_bits: The page size as a power of two, where the source sends it (never on x86).
        capabilities: The validatable capabilities that are on, by QAPI name.
        uuid: The machine's UUID, where `validate-uuid` is on and it has one.
    """

    machine: str
    target_page_bits: int | None = None
    capabilities: tuple[str, ...] = ()
    uuid: UUID | None = None
