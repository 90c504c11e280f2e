"""The RAM of a guest that may run while it is sent: what is dirty, and what goes next."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..guest.ram import GuestRAM
from ..model.ramblock import TARGET_PAGE_SIZE, Bytes, PageRun, ZeroRun, page_indices
from ..protocol.savevm import Buffers
from ..tracker.base import DirtyTracker
from ..tracker.choose import start_tracker
from ..wire.ram import MAX_RUN, RAMEncoder

_WORD_STEP = 64
"""A page is looked at in every 64th of its 512 words before it is looked at as a whole."""


class _TrackedBlock:
    """One block: every page is dirty at first."""

    def __init__(self, held: GuestRAM) -> None:
        self.held = held
        self.dirty: NDArray[np.bool_] = np.ones(held.block.page_count, np.bool_)
        choice = start_tracker(held.memory)
        self.tracker: DirtyTracker = choice.tracker
        self.reason = choice.reason


class RAMSource:
    """Sends each page, and again each page that was written since it was sent.

    Args:
        ram: The guest's RAM.

    Attributes:
        dirty_pages: Pages that are to be sent, as far as it is known since the last `sync`.
        tracking: How writes are known, and why so.
    """

    def __init__(self, ram: Sequence[GuestRAM]) -> None:
        self._blocks: list[_TrackedBlock] = []
        try:
            for held in ram:
                self._blocks.append(_TrackedBlock(held))
        except BaseException:
            self.stop()
            raise
        self._encoder = RAMEncoder()
        self._block = 0
        self._page = 0
        self._probed = 0
        self.dirty_pages: int = sum(held.block.page_count for held in ram)
        self.tracking = self._blocks[0].reason if self._blocks else "no RAM"

    @property
    def remaining_bytes(self) -> int:
        """Guest memory that is to be sent."""
        return self.dirty_pages * TARGET_PAGE_SIZE

    def block_list(self) -> bytes:
        """The list of blocks."""
        return self._encoder.block_list([block.held.block for block in self._blocks])

    def sync(self) -> None:
        """Finds out what was written since the last time."""
        for block in self._blocks:
            block.tracker.sync(block.dirty)
        self.dirty_pages = sum(int(np.count_nonzero(block.dirty)) for block in self._blocks)

    def stop(self) -> None:
        """Gives back what it took to know."""
        for block in self._blocks:
            block.tracker.stop()

    def next_body(self, max_pages: int = MAX_RUN) -> tuple[Buffers, int, int]:
        """Records of the next dirty pages, round and round the blocks.

        Args:
            max_pages: How many at most, up to MAX_RUN.

        Returns:
            The records, valid until the next call; the pages with content among them; the zero
            pages. No records when nothing is dirty.
        """
        block, indices = self._take(max_pages)
        if block is None:
            return [], 0, 0
        # The mark is gone before the page is read: a write meanwhile is found by the next sync.
        where = page_indices(indices)
        pages = block.tracker.content[where]
        is_zero = find_zero_pages(pages)
        body: Buffers = []
        ramblock = block.held.block
        zeros = indices[is_zero]
        if len(zeros) == 0:
            body += self._encoder.pages(PageRun(ramblock, where, pages))
        elif len(zeros) < len(indices):
            run = PageRun(ramblock, indices[~is_zero], pages[~is_zero])
            body += self._encoder.pages(run)
        if len(zeros):
            body += self._encoder.zeros(ZeroRun(ramblock, zeros))
        return body, len(indices) - len(zeros), len(zeros)

    def probe_body(self, max_pages: int = MAX_RUN) -> Buffers:
        """Records of some pages with their content, whether it is known there or not.

        They do no harm: what is written to them is found by the next `sync`, as ever.

        Returns:
            The records, valid until the next call; none where there is no RAM.
        """
        if not self._blocks:
            return []
        block = self._blocks[self._probed % len(self._blocks)]
        self._probed += 1
        pages = block.tracker.content[:max_pages]
        return [*self._encoder.pages(PageRun(block.held.block, slice(0, len(pages)), pages))]

    def _take(self, max_pages: int) -> tuple[_TrackedBlock | None, NDArray[np.int64]]:
        """The next dirty pages of one block, whose marks are cleared."""
        for _ in range(len(self._blocks) + 1):
            block = self._blocks[self._block] if self._blocks else None
            if block is None or self.dirty_pages == 0:
                break
            ahead = block.dirty[self._page :]
            skipped = int(ahead.argmax()) if len(ahead) else 0
            if len(ahead) and ahead[skipped]:
                first = self._page + skipped
                window = block.dirty[first : first + max_pages]
                indices = np.flatnonzero(window) + first
                window[:] = False
                self._page = first + len(window)
                self.dirty_pages -= len(indices)
                return block, indices
            self._block = (self._block + 1) % len(self._blocks)
            self._page = 0
        return None, np.empty(0, np.int64)


def find_zero_pages(pages: Bytes) -> NDArray[np.bool_]:
    """For each page whether it is all zero.

    Args:
        pages: uint8 of shape (n, 4096).
    """
    words = pages.view(np.uint64)
    is_zero: NDArray[np.bool_] = np.logical_not(words[:, ::_WORD_STEP].any(axis=1))
    candidates = np.flatnonzero(is_zero)
    if len(candidates):
        is_zero[candidates] = ~words[candidates].any(axis=1)
    return is_zero
