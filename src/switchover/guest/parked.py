"""A guest that is held: its RAM and its undecoded device sections.

It does not run. What it takes in memory is the pages that are not zero.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..model.configuration import Configuration
from ..model.device import DeviceState
from ..model.ramblock import RAMBlock
from ..model.section import SectionHeader
from .ram import HeldBlock


@dataclass(slots=True)
class HeldDevice:
    """A VFIO device of a guest that is held: what it gave, which nobody here understands.

    Attributes:
        header: How its section is numbered.
        data: Its data, in the order in which it came.
        precopy_bytes: As much of it came before the END of its section: while its machine ran.
    """

    header: SectionHeader
    data: bytearray = field(default_factory=bytearray)
    precopy_bytes: int = 0


class ParkedGuest:
    """A whole guest, as a stream brought it or as the caller put it together.

    Args:
        configuration: Its machine type; None for those before 2.4, which do not say.
        blocks: Its RAM.
        ram_header: How its RAM section is numbered.
        has_footers: Whether its sections have footers.

    Attributes:
        configuration: As given.
        blocks: Its RAM by name, in stream order.
        ram_header: As given.
        has_footers: As given.
        sent_switchover_start: Whether the source said when it had stopped its machine.
        live: Its VFIO devices by the names of their sections, in stream order.
        devices: Its devices; None until they are known.
    """

    def __init__(
        self,
        configuration: Configuration | None,
        blocks: Iterable[RAMBlock],
        ram_header: SectionHeader,
        *,
        has_footers: bool = True,
    ) -> None:
        self.configuration = configuration
        self.blocks = {block.idstr: HeldBlock(block) for block in blocks}
        self.ram_header = ram_header
        self.has_footers = has_footers
        self.sent_switchover_start = False
        self.live: dict[str, HeldDevice] = {}
        self.devices: DeviceState | None = None

    @property
    def machine(self) -> str | None:
        """The machine type's name."""
        return None if self.configuration is None else self.configuration.machine

    @property
    def ram_bytes(self) -> int:
        """The size of its RAM, zero pages included."""
        return sum(held.block.used_length for held in self.blocks.values())

    @property
    def live_bytes(self) -> int:
        """What is held of its VFIO devices."""
        return sum(len(device.data) for device in self.live.values())
