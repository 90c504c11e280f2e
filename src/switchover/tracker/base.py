"""What every dirty-page tracker does."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..model.ramblock import Bytes

DirtyPages = NDArray[np.bool_]
"""For each page of a block whether it must be sent."""


class DirtyTracker(Protocol):
    """Notes which pages of one piece of memory are written, by whomever in this process.

    Attributes:
        name: How it knows.
    """

    name: str

    @property
    def content(self) -> Bytes:
        """The pages as they are to be sent, once a mark is cleared: uint8 of shape (pages, 4096).

        Not always the memory itself. Whoever takes every marked page from here after a last `sync`,
        with no write since, has the memory.
        """
        ...

    def start(self) -> None:
        """From now on every write is noted.

        Raises:
            KernelError: It cannot be.
        """
        ...

    def sync(self, dirty: DirtyPages) -> None:
        """Marks the pages written since the last call, or since `start`; clears no mark.

        A write that happens meanwhile is noted now or next time, never lost.
        """
        ...

    def stop(self) -> None:
        """Notes no more, and gives back what that took; may be called twice."""
        ...
