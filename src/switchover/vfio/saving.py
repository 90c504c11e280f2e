"""A simulated device that is being read: what goes next, what is left, and what is rewritten.

The records that it gives are those of `vfio.records`. While the device runs it rewrites what was
read before: page after page, round and round, as much as the time that has passed asks for. That
is made up for whenever something is asked; nothing happens in between.
"""

import numpy as np
from numpy.typing import NDArray

from ..model.ramblock import TARGET_PAGE_SIZE, Bytes
from .options import SimOptions
from .records import HEADER, PAYLOAD_BYTES, Kind, header, size_in_records

_PAGE_SECOND = TARGET_PAGE_SIZE * 10**9
"""A page's bytes in the unit of bytes a second times nanoseconds."""
_PAYLOAD_PAGES = PAYLOAD_BYTES // TARGET_PAGE_SIZE


def page_count(state_bytes: int) -> int:
    """The pages of which so many bytes take a part."""
    return -(-state_bytes // TARGET_PAGE_SIZE)


class Saving:
    """One data session of the source, from the first byte to the last.

    Args:
        options: What the device is like.
        state: Its state.
        counters: The first 8 bytes of each of its pages: they change when it is rewritten.
        now_ns: The time.
        is_stopped: Whether the device stands still already.

    Attributes:
        is_reinit: Whether the initial data became new again, and nobody was told yet.
    """

    def __init__(
        self,
        options: SimOptions,
        state: Bytes,
        counters: NDArray[np.uint64],
        now_ns: int,
        is_stopped: bool,
    ) -> None:
        self.is_reinit = False
        self._options = options
        self._state = state
        self._counters = counters
        self._is_stopped = is_stopped
        self._advanced_ns = now_ns
        self._reinits_ns = [now_ns + delay for delay in options.reinit_ns]
        self._owed = 0
        """What was not rewritten yet of the time that has passed, in bytes a second times ns."""
        self._hand = 0
        """The page that is rewritten next."""
        self._is_started = False
        self._next = 0
        """As much of the state has gone into records, from its beginning."""
        self._dirty = np.zeros(len(counters), np.bool_)
        """Which pages go into a record once more."""
        # The present record: what is left of its header, and of its bytes.
        self._header = np.empty(0, np.uint8)
        self._payload = np.empty(0, np.uint8)
        self._kind = Kind.START

    # Time

    def advance(self, now_ns: int) -> None:
        """Makes up for the time until now."""
        elapsed_ns, self._advanced_ns = now_ns - self._advanced_ns, now_ns
        if self._is_stopped:
            return
        due = sum(reinit_ns <= now_ns for reinit_ns in self._reinits_ns)
        del self._reinits_ns[:due]
        if due:
            self._reinit()
        elif self._next:
            self._owed += self._options.dirty_rate * elapsed_ns
            pages, self._owed = divmod(self._owed, _PAGE_SECOND)
            self._rewrite(pages, page_count(self._next))

    def stop(self) -> None:
        """The device stands still from now on: the rest can be read."""
        self._is_stopped = True

    def _reinit(self) -> None:
        self.is_reinit = True
        self._is_started = False
        self._next = self._hand = self._owed = 0
        self._dirty[:] = False
        self._counters[: page_count(self._options.initial_bytes)] += np.uint64(1)

    def _rewrite(self, pages: int, among: int) -> None:
        """Rewrites so many pages among the first ones, from the hand on and round."""
        end = self._hand + min(pages, among)
        for part in slice(self._hand, min(end, among)), slice(0, max(end - among, 0)):
            self._counters[part] += np.uint64(1)
            self._dirty[part] = True
        self._hand = (self._hand + pages) % among

    # Sizes

    @property
    def initial_size(self) -> int:
        """What reads still give until the last byte of the initial data."""
        size = size_in_records(max(self._options.initial_bytes - self._next, 0))
        if not self._is_started:
            # Whatever is still to come of another record stands before it.
            return self._record_size + HEADER.size + size
        return size + (self._record_size if self._kind != Kind.LATER else 0)

    @property
    def dirty_size(self) -> int:
        """What reads give behind that, if the device runs on and nothing changes any more."""
        return self._later_size(self._options.initial_bytes)

    @property
    def stop_copy_size(self) -> int:
        """What reads give in all, if the device is stopped now."""
        state_bytes = len(self._state)
        rest = state_bytes - max(self._next, self._options.initial_bytes)
        return self.initial_size + self._later_size(state_bytes) + size_in_records(rest)

    @property
    def _record_size(self) -> int:
        return len(self._header) + len(self._payload)

    def _later_size(self, limit: int) -> int:
        """What the present record and the dirty pages take, up to a place in the state."""
        is_present = self._is_started and self._kind == Kind.LATER
        edges = np.flatnonzero(np.diff(self._dirty, prepend=False, append=False))
        starts = edges[::2] * TARGET_PAGE_SIZE
        sizes = np.minimum(edges[1::2] * TARGET_PAGE_SIZE, limit) - starts
        headers = int((-(-sizes // PAYLOAD_BYTES)).sum()) * HEADER.size
        return int(sizes.sum()) + headers + (self._record_size if is_present else 0)

    # Data

    def read_into(self, buffer: Bytes) -> int:
        """Reads what is left of one record, as far as the buffer goes.

        Returns:
            How many bytes; 0 where there is nothing for now, or where that was all.
        """
        if not self._record_size and not self._begin_record():
            return 0
        size = min(len(buffer), len(self._header))
        buffer[:size] = self._header[:size]
        self._header = self._header[size:]
        rest = buffer[size : size + len(self._payload)]
        # The one copy, from the device's memory into the reader's.
        rest[:] = self._payload[: len(rest)]
        self._payload = self._payload[len(rest) :]
        return size + len(rest)

    def _begin_record(self) -> bool:
        """Decides what goes next; False if nothing does."""
        initial_bytes, state_bytes = self._options.initial_bytes, len(self._state)
        if not self._is_started:
            self._is_started = True
            self._kind = Kind.START
            self._header = header(Kind.START, state_bytes, initial_bytes)
        elif self._next < initial_bytes:
            self._begin_fresh(Kind.INITIAL, initial_bytes)
        elif self._is_stopped and self._next < state_bytes:
            self._begin_fresh(Kind.LATER, state_bytes)
        else:
            first = int(self._dirty.argmax()) if len(self._dirty) else 0
            pages = self._dirty[first : first + _PAYLOAD_PAGES]
            if not pages.any():
                return False
            count = len(pages) if pages.all() else int(pages.argmin())
            pages[:count] = False
            self._begin(
                Kind.LATER,
                first * TARGET_PAGE_SIZE,
                min((first + count) * TARGET_PAGE_SIZE, self._next),
            )
        return True

    def _begin_fresh(self, kind: Kind, limit: int) -> None:
        start, self._next = self._next, min(self._next + PAYLOAD_BYTES, limit)
        self._begin(kind, start, self._next)

    def _begin(self, kind: Kind, start: int, end: int) -> None:
        self._kind = kind
        self._header = header(kind, start, end - start)
        self._payload = self._state[start:end]
