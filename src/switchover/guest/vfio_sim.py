"""A SIMULATED device that must allocate resources at the destination before it can take its state.

It stands for a VFIO device with precopy support, such as a network card's virtual function: while
the guest runs it sends its initial data, from which the destination learns what to allocate; the
allocation takes time, in which a real device's driver does not return from the write. Nothing here
touches hardware. What is real: the bytes travel, the destination's memory is allocated and
touched, and the stream is not read meanwhile. What is simulated: the rest of the time, which is an
input.
"""

import time
from collections.abc import Callable

import numpy as np

from ..errors import GuestError
from ..model.ramblock import Bytes
from .base import LiveDevice

PIECE_BYTES = 1 << 20
"""As much as QEMU reads from a VFIO device at once."""

_DATA, _INITIAL_DATA_SENT = b"\0", b"\1"
_PATTERN = 251
"""A prime, so that no piece looks like its neighbour."""


class VfioSim(LiveDevice):
    """The simulated device.

    Args:
        name: Its name in the stream.
        state_bytes: Its state, all of which is initial data.
        allocate_ns: How long the destination takes to allocate.

    Attributes:
        state: Its state at the source, and at the destination once it is there.
        allocated_ns: When the destination had allocated, monotonic; None before.
    """

    def __init__(self, name: str, state_bytes: int, allocate_ns: int) -> None:
        self.idstr = f"{name}/vfio-sim"
        self.wants_switchover_ack = True
        self.state: Bytes = np.resize(np.arange(_PATTERN, dtype=np.uint8), state_bytes)
        self.allocated_ns: int | None = None
        self._allocate_ns = allocate_ns
        self._sent_bytes = 0
        self._has_said_so = False
        self._received_bytes = 0
        self._resources: Bytes | None = None

    # Source

    def save_setup(self) -> bytes:
        """Nothing; but a new migration begins from the first byte."""
        self._sent_bytes = 0
        self._has_said_so = False
        return b""

    def pending_bytes(self) -> int:
        """What is left of the initial data; a byte for saying that it is all."""
        return len(self.state) - self._sent_bytes + (not self._has_said_so)

    def save_iterate(self) -> bytes:
        """The next MiB, and once that this was all."""
        if piece := self.save_complete():
            return piece
        if not self._has_said_so:
            self._has_said_so = True
            return _INITIAL_DATA_SENT
        return b""

    def save_complete(self) -> bytes:
        """The next MiB of what a source that did not wait has not sent yet."""
        piece = self.state[self._sent_bytes : self._sent_bytes + PIECE_BYTES]
        self._sent_bytes += len(piece)
        return _DATA + piece.tobytes() if len(piece) else b""

    # Destination

    def load_setup(self) -> None:
        """Nothing is there yet."""
        self._received_bytes = 0
        self._resources = None
        self.allocated_ns = None

    def load(self, piece: bytes, ready: Callable[[], None]) -> None:
        """Takes a piece; the one that ends the initial data is when the time is spent."""
        kind = piece[:1]
        if piece == _INITIAL_DATA_SENT and self.allocated_ns is None:
            self._allocate()
            ready()
        elif kind == _DATA:
            self._take(np.frombuffer(piece, np.uint8)[1:])
        else:
            raise GuestError(
                f"'{self.idstr}' does not take a piece of kind {kind.hex() or 'none'} with "
                f"{len(piece)} bytes at this point"
            )

    def _take(self, data: Bytes) -> None:
        received_bytes = self._received_bytes + len(data)
        if received_bytes > len(self.state):
            raise GuestError(
                f"'{self.idstr}' takes at most {len(self.state)} bytes of state, got "
                f"{received_bytes}"
            )
        self.state[self._received_bytes : received_bytes] = data
        self._received_bytes = received_bytes

    def load_complete(self) -> None:
        """The state is there; what was not allocated before is allocated now."""
        if self._received_bytes != len(self.state):
            raise GuestError(
                f"'{self.idstr}' has {self._received_bytes} bytes of its state, expected "
                f"{len(self.state)}"
            )
        if self.allocated_ns is None:
            self._allocate()

    def _allocate(self) -> None:
        began = time.monotonic_ns()
        self._resources = np.ones(len(self.state), np.uint8)
        left_ns = self._allocate_ns - (time.monotonic_ns() - began)
        if left_ns > 0:
            time.sleep(left_ns / 1e9)  # the simulated part
        self.allocated_ns = time.monotonic_ns()
