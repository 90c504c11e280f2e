"""Where received bytes wait to be decoded.

One piece of memory, filled at the end, used from the beginning. Nothing is copied but the
incomplete rest, when the end of the memory is near; the memory grows where that rest alone fills
half of it, so that how much is held at once is bounded by what the decoders wait for.
"""

from ..wire.cursor import Cursor

CAPACITY = 4 << 20
"""Bytes: a run of 1000 pages, as many as a large read from a socket brings."""


class ReceiveBuffer:
    """Bytes between a channel and a decoder.

    Args:
        capacity: Bytes to begin with.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._memory = memoryview(bytearray(capacity))
        self._begin = 0
        self._end = 0
        self._consumed = 0

    @property
    def offset(self) -> int:
        """Where in the stream the first waiting byte stands."""
        return self._consumed

    @property
    def received_bytes(self) -> int:
        """Bytes that were ever put in."""
        return self._consumed + self._end - self._begin

    def __len__(self) -> int:
        return self._end - self._begin

    def writable(self) -> memoryview:
        """The memory that may be written next, never empty; `commit` says how much of it was.

        Views of waiting bytes are no longer valid afterwards.
        """
        half = len(self._memory) // 2
        if self._end > half:
            waiting = self.waiting()
            if len(waiting) > half:
                self._memory = memoryview(bytearray(2 * len(self._memory)))
            self._begin, self._end = 0, len(waiting)
            self._memory[: self._end] = waiting
        return self._memory[self._end :]

    def commit(self, size: int) -> None:
        """Says that `size` bytes of the writable memory were written."""
        self._end += size

    def waiting(self) -> memoryview:
        """The bytes that were received and not used."""
        return self._memory[self._begin : self._end]

    def cursor(self) -> Cursor:
        """A cursor over the waiting bytes."""
        return Cursor(self.waiting(), self._consumed)

    def consume(self, size: int) -> None:
        """Says that the first `size` waiting bytes are used."""
        self._begin += size
        self._consumed += size
        if self._begin == self._end:
            self._begin = self._end = 0
