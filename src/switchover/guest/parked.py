"""A guest that is held: its RAM and its undecoded device sections.

It does not run. What it takes in memory is the pages that are not zero.
"""

import mmap
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..errors import GuestError
from ..model.configuration import Configuration
from ..model.device import DeviceState
from ..model.ramblock import TARGET_PAGE_SIZE, Bytes, PageRun, RAMBlock, ZeroRun
from ..model.section import SectionHeader


class HeldBlock:
    """A RAM block with its memory.

    Args:
        block: The block.

    Attributes:
        block: The block.
        memory: Its pages, uint8 of shape (pages, 4096); what was never written is zero.
        populated: For each page whether it holds anything but zeros.

    Raises:
        GuestError: There is no memory for it.
    """

    def __init__(self, block: RAMBlock) -> None:
        self.block = block
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            memory = mmap.mmap(-1, block.used_length, flags=flags)
            self.populated: NDArray[np.bool_] = np.zeros(block.page_count, np.bool_)
        except (OSError, OverflowError, MemoryError) as error:
            raise GuestError(
                f"RAM block '{block.idstr}' of {block.used_length} bytes does not fit in memory"
            ) from error
        self.memory: Bytes = np.frombuffer(memory, np.uint8).reshape(-1, TARGET_PAGE_SIZE)

    def store_pages(self, run: PageRun) -> None:
        """Takes pages with their content."""
        self.memory[run.indices] = run.pages
        self.populated[run.indices] = True

    def store_zeros(self, run: ZeroRun) -> None:
        """Takes zero pages, without touching those that are zero already."""
        populated = self.populated[run.indices]
        if populated.any():
            first = run.indices.start if isinstance(run.indices, slice) else 0
            indices = (
                np.flatnonzero(populated) + first
                if isinstance(run.indices, slice)
                else run.indices[populated]
            )
            self.memory[indices] = 0
            self.populated[indices] = False


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
        self.devices: DeviceState | None = None

    @property
    def machine(self) -> str | None:
        """The machine type's name."""
        return None if self.configuration is None else self.configuration.machine

    @property
    def ram_bytes(self) -> int:
        """The size of its RAM, zero pages included."""
        return sum(held.block.used_length for held in self.blocks.values())
