"""Writes are found by comparison with a copy: works everywhere, and takes the memory twice."""

import numpy as np

from ..model.ramblock import Bytes
from .base import DirtyPages

_STEP = 1024
"""Pages that are compared at once, so that they stay in the cache until they are copied."""


class CompareTracker:
    """Keeps a copy, which is what is to be sent.

    From the memory it could not be: a page that is written, sent, and then written back is as the
    copy has it, and nobody would know that the other side has something else.

    Args:
        memory: uint8 of shape (pages, 4096).
    """

    name = "compare"

    def __init__(self, memory: Bytes) -> None:
        self._memory = memory
        self._copy: Bytes | None = None

    @property
    def content(self) -> Bytes:
        """The copy, which is as the memory was at the last `sync`."""
        return self._memory if self._copy is None else self._copy

    def start(self) -> None:
        """From now on every write that changes something is noted."""
        self._copy = self._memory.copy()

    def sync(self, dirty: DirtyPages) -> None:
        """Marks the pages changed since the last call, or since `start`."""
        if self._copy is None:
            return
        for first in range(0, len(self._memory), _STEP):
            now = self._memory[first : first + _STEP]
            then = self._copy[first : first + _STEP]
            changed = (now.view(np.uint64) != then.view(np.uint64)).any(axis=1)
            dirty[first : first + _STEP] |= changed
            # The copy is what is sent: a write meanwhile is in it, or differs from it next time.
            then[changed] = now[changed]

    def stop(self) -> None:
        """Notes no more."""
        self._copy = None
