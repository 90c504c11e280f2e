"""What the protocols report. Each is a thing that happened, in the past tense."""

from dataclasses import dataclass
from enum import Enum

from ..model.configuration import Configuration
from ..model.device import DeviceState
from ..model.section import SectionHeader


class NeedData(Enum):
    """Returned where an event would stand: the bytes so far hold no more of them."""

    NEED_DATA = "need data"


NEED_DATA = NeedData.NEED_DATA


@dataclass(frozen=True, slots=True)
class Configured:
    """The stream said what machine it holds.

    Attributes:
        configuration: What it said; None where the machine type is too old to say.
    """

    configuration: Configuration | None


@dataclass(frozen=True, slots=True)
class ReturnPathOpened:
    """The source will read the return path from now on."""


@dataclass(frozen=True, slots=True)
class Pinged:
    """The source wants a PONG with the same value."""

    value: int


@dataclass(frozen=True, slots=True)
class SwitchoverStarted:
    """The source has stopped its machine and says so (machine types from 10.0)."""


@dataclass(frozen=True, slots=True)
class SectionStarted:
    """A live section began."""

    header: SectionHeader
    has_footers: bool


@dataclass(frozen=True, slots=True)
class SectionEnding:
    """The END of a live section begins: its machine is stopped, and the rest of it follows."""

    header: SectionHeader


@dataclass(frozen=True, slots=True)
class SectionItem:
    """A live section's parser gave an item.

    Attributes:
        header: The section.
        item: What the parser gave; views in it are valid until the next event is asked for.
    """

    header: SectionHeader
    item: object


@dataclass(frozen=True, slots=True)
class LiveSectionsEnded:
    """Every live section is whole: what is left are the device sections."""


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream is whole."""

    devices: DeviceState


Event = (
    Configured
    | ReturnPathOpened
    | Pinged
    | SwitchoverStarted
    | SectionStarted
    | SectionEnding
    | SectionItem
    | LiveSectionsEnded
    | StreamEnded
)
