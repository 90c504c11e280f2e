"""RAM blocks and runs of their pages."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

TARGET_PAGE_BITS = 12
TARGET_PAGE_SIZE = 1 << TARGET_PAGE_BITS
"""The unit in which RAM travels, in bytes: 4096 on every x86 machine."""

Bytes = NDArray[np.uint8]
"""Bytes as a numpy array: one row for each page where it has two dimensions."""

PageIndices = slice | NDArray[np.int64]
"""Numbers of pages in a block, counted from 0: consecutive ones as a slice with both ends set."""


def page_indices(indices: NDArray[np.int64]) -> PageIndices:
    """The same numbers, as a slice where they are consecutive, so that pages are a view."""
    first, count = int(indices[0]), len(indices)
    if int(indices[-1]) == first + count - 1 and bool((np.diff(indices) == 1).all()):
        return slice(first, first + count)
    return indices


@dataclass(frozen=True, slots=True)
class RAMBlock:
    """A named stretch of a machine's RAM.

    Attributes:
        idstr: Its name, such as `pc.ram`; at most 255 bytes.
        used_length: Its size in bytes, a multiple of the page size.
        page_count: The same in pages.
    """

    idstr: str
    used_length: int
    page_count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "page_count", self.used_length >> TARGET_PAGE_BITS)


@dataclass(frozen=True, slots=True)
class PageRun:
    """Pages with their content, as they stand in a stream.

    Attributes:
        block: The block they belong to.
        indices: Which of its pages they are. A number may stand there twice: the later one counts.
        pages: Their content, uint8 of shape (n, 4096). A view into the receive buffer.
    """

    block: RAMBlock
    indices: PageIndices
    pages: Bytes

    def __len__(self) -> int:
        return len(self.pages)


@dataclass(frozen=True, slots=True)
class ZeroRun:
    """Pages that are all zero.

    Attributes:
        block: The block they belong to.
        indices: Which of its pages they are.
    """

    block: RAMBlock
    indices: PageIndices

    def __len__(self) -> int:
        if isinstance(self.indices, slice):
            return int(self.indices.stop - self.indices.start)
        return len(self.indices)


@dataclass(frozen=True, slots=True)
class RAMBlocksListed:
    """The block list, which opens the RAM of a stream.

    Attributes:
        blocks: Every block, in the source's order.
    """

    blocks: tuple[RAMBlock, ...]
