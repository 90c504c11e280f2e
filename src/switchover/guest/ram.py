"""RAM blocks with their memory, which is memory of this process."""

import mmap

import numpy as np
from numpy.typing import NDArray

from ..errors import GuestError
from ..model.ramblock import TARGET_PAGE_SIZE, Bytes, PageRun, RAMBlock, ZeroRun


class GuestRAM:
    """A RAM block with its memory.

    Args:
        block: The block.
        memory: Its pages, uint8 of shape (pages, 4096), at a page boundary in a mapping; None for
            new memory, which is zero and takes room only where it is written.

    Attributes:
        block: The block.
        memory: Its pages.

    Raises:
        GuestError: There is no memory for it, or that which was given has another size.
    """

    def __init__(self, block: RAMBlock, memory: Bytes | None = None) -> None:
        self.block = block
        self.memory = _allocate(block) if memory is None else memory
        if self.memory.nbytes != block.used_length:
            raise GuestError(
                f"the memory of RAM block '{block.idstr}': expected {block.used_length} bytes, "
                f"got {self.memory.nbytes}"
            )


def _allocate(block: RAMBlock) -> Bytes:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        memory = mmap.mmap(-1, block.used_length, flags=flags)
    except (OSError, OverflowError) as error:
        raise _does_not_fit(block) from error
    return np.frombuffer(memory, np.uint8).reshape(-1, TARGET_PAGE_SIZE)


def _does_not_fit(block: RAMBlock) -> GuestError:
    return GuestError(
        f"RAM block '{block.idstr}' of {block.used_length} bytes does not fit in memory"
    )


class HeldBlock(GuestRAM):
    """A RAM block that is filled from a stream.

    Attributes:
        populated: For each page whether it may hold anything but zeros.
    """

    def __init__(self, block: RAMBlock, memory: Bytes | None = None) -> None:
        super().__init__(block, memory)
        try:
            self.populated: NDArray[np.bool_] = np.zeros(block.page_count, np.bool_)
        except MemoryError as error:
            raise _does_not_fit(block) from error
        if memory is not None:
            self.populated |= memory.any(axis=1)

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
