"""The data of a simulated device: what its source gives and its destination takes.

It is nobody else's business, as with a real device. A row of records, each a header and as many
bytes of the state as it says; all numbers have eight bytes, little-endian.

    kind     offset                 length                behind it
    START    size of the state      initial data in it    nothing
    INITIAL  where in the state     how many bytes        these bytes
    LATER    where in the state     how many bytes        these bytes

START comes first, then INITIAL in order from offset 0, then LATER: what is no initial data, in
order, and anything that was there before and has changed. Another START, between two records, says
that all of the initial data is new: it follows once more. What START takes belongs to the initial
data.
"""

from collections.abc import Callable
from enum import IntEnum
from errno import EINVAL
from struct import Struct
from typing import NoReturn

import numpy as np

from ..errors import DeviceError
from ..model.ramblock import TARGET_PAGE_SIZE, Bytes

HEADER = Struct("<QQQ")
"""Kind, offset, length."""
RECORD_BYTES = 1 << 20
"""A record at most, with its header: as much as QEMU reads at once."""
PAYLOAD_BYTES = RECORD_BYTES - TARGET_PAGE_SIZE
"""Of the state in a record at most. Whole pages, so that the next record begins with one too."""


class Kind(IntEnum):
    """What a record is."""

    START = 1
    INITIAL = 2
    LATER = 3


def size_in_records(state_bytes: int) -> int:
    """What so many bytes of the state take, headers included."""
    return state_bytes + HEADER.size * -(-state_bytes // PAYLOAD_BYTES)


def whole_size(state_bytes: int, initial_bytes: int) -> int:
    """What a state takes that is sent once."""
    return (
        HEADER.size + size_in_records(initial_bytes) + size_in_records(state_bytes - initial_bytes)
    )


class RecordReader:
    """Reads the records at the destination, cut anywhere, into the state.

    What does not fit is refused, and then everything that follows is too.

    Args:
        device: The device's name.
        state: Where the state goes.
        on_start: Called where initial data begins.
        on_initial: Called when the initial data is complete, each time it is; before anything
            that stands behind it is taken.
    """

    def __init__(
        self,
        device: str,
        state: Bytes,
        on_start: Callable[[], None],
        on_initial: Callable[[], None],
    ) -> None:
        self._device = device
        self._state = state
        self._on_start = on_start
        self._on_initial = on_initial
        self._header = bytearray()
        self._place = self._end = 0
        """Where the rest of the present record's bytes go."""
        self._known_bytes = 0
        """As much of the state is there, from its beginning."""
        self._initial_bytes: int | None = None
        self._is_broken = False

    @property
    def is_whole(self) -> bool:
        """Whether all of the state is there, and no record has only begun."""
        return (
            self._initial_bytes is not None
            and self._known_bytes == len(self._state)
            and not self._header
            and not self._is_broken
        )

    def write(self, data: Bytes) -> None:
        """Takes the next bytes, all of them.

        Raises:
            DeviceError: They do not fit (EINVAL).
        """
        if self._is_broken:
            self._refuse("take anything behind a record that it refused")
        while len(data):
            if self._place == self._end:
                missing = HEADER.size - len(self._header)
                self._header += data[:missing].tobytes()
                data = data[missing:]
                if len(self._header) == HEADER.size:
                    self._begin()
            else:
                piece = data[: self._end - self._place]
                self._state[self._place : self._place + len(piece)] = piece
                self._place += len(piece)
                data = data[len(piece) :]
                if self._place == self._end:
                    self._finish()

    def _begin(self) -> None:
        kind, offset, length = HEADER.unpack(self._header)
        if kind == Kind.START:
            self._start(offset, length)
            return
        if self._initial_bytes is None:
            self._refuse(f"take a record of kind {kind} before it knows the size of the state")
        self._check(kind, offset, length, self._initial_bytes)
        self._place, self._end = offset, offset + length

    def _start(self, state_bytes: int, initial_bytes: int) -> None:
        if state_bytes != len(self._state):
            self._refuse(f"take a state of {state_bytes} bytes, expected {len(self._state)}")
        if initial_bytes > state_bytes:
            self._refuse(
                f"take {initial_bytes} bytes of initial data, expected at most {state_bytes}"
            )
        self._initial_bytes = initial_bytes
        self._known_bytes = 0
        self._header.clear()
        self._on_start()
        if initial_bytes == 0:
            self._on_initial()

    def _check(self, kind: int, offset: int, length: int, initial_bytes: int) -> None:
        known_bytes = self._known_bytes
        if kind == Kind.INITIAL:
            is_in_order, limit = offset == known_bytes, initial_bytes
        else:
            is_in_order = kind == Kind.LATER and initial_bytes <= known_bytes >= offset
            limit = len(self._state)
        if not is_in_order or not 0 < length <= min(PAYLOAD_BYTES, limit - offset):
            self._refuse(
                f"take {length} bytes at offset {offset} by a record of kind {kind}, {known_bytes} "
                f"bytes of {len(self._state)} being there and {initial_bytes} initial data"
            )

    def _finish(self) -> None:
        was_initial = self._header[0] == Kind.INITIAL
        self._known_bytes = max(self._known_bytes, self._end)
        self._header.clear()
        if was_initial and self._known_bytes == self._initial_bytes:
            self._on_initial()

    def _refuse(self, step: str) -> NoReturn:
        self._is_broken = True
        self._header.clear()
        raise DeviceError(self._device, step, EINVAL)


def header(kind: Kind, offset: int, length: int) -> Bytes:
    """The header of a record."""
    return np.frombuffer(HEADER.pack(kind, offset, length), np.uint8)
