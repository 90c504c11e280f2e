"""The simulated device, from one instance into another by hand."""

import numpy as np
import pytest

from switchover.errors import GuestError
from switchover.guest.vfio_sim import PIECE_BYTES, VfioSim

SIZES = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 7]


class Pair:
    """A device at the source and at the destination, which do not have the same state yet."""

    def __init__(self, state_bytes: int, allocate_ns: int = 0) -> None:
        self.source = VfioSim("vf0", state_bytes, 0)
        self.destination = VfioSim("vf0", state_bytes, allocate_ns)
        self.source.state = np.random.default_rng(state_bytes).integers(
            0, 256, state_bytes, np.uint8
        )
        self.ready = 0

    def setup(self) -> None:
        self.destination.load_setup()
        self.take(self.source.save_setup())

    def take(self, piece: bytes) -> None:
        """Loads a piece as an engine does: no empty ones."""
        if piece:
            self.destination.load(piece, self.on_ready)

    def on_ready(self) -> None:
        assert self.destination.allocated_ns is not None
        self.ready += 1

    def iterate(self, times: int | None = None) -> int:
        """Moves so many pieces, or all there are, and returns how many there were."""
        moved = 0
        while moved != times and (piece := self.source.save_iterate()):
            pending = self.source.pending_bytes()
            self.take(piece)
            moved += 1
            assert self.source.pending_bytes() == pending
        return moved

    def complete(self) -> int:
        """Moves what is left, and returns in how many pieces."""
        moved = 0
        while piece := self.source.save_complete():
            self.take(piece)
            moved += 1
        self.destination.load_complete()
        assert np.array_equal(self.destination.state, self.source.state)
        return moved


@pytest.mark.parametrize("state_bytes", SIZES)
def test_the_state_arrives_while_the_guest_runs(state_bytes: int) -> None:
    pair = Pair(state_bytes)
    pair.setup()
    assert pair.source.pending_bytes() == state_bytes + 1
    pieces = pair.iterate()
    assert pieces == -(-state_bytes // PIECE_BYTES) + 1
    assert pair.source.pending_bytes() == 0
    assert pair.ready == 1
    allocated_ns = pair.destination.allocated_ns
    assert pair.complete() == 0
    # It is not allocated a second time.
    assert pair.destination.allocated_ns == allocated_ns
    assert pair.ready == 1


def test_what_is_pending_goes_down_with_each_piece() -> None:
    pair = Pair(2 * PIECE_BYTES + 5)
    pair.setup()
    pending = []
    while pair.iterate(1):
        pending.append(pair.source.pending_bytes())
    assert pending == [PIECE_BYTES + 5 + 1, 5 + 1, 1, 0]


@pytest.mark.parametrize("pieces", [0, 1, 3, 4])
def test_a_source_that_does_not_wait_sends_the_rest_in_the_end(pieces: int) -> None:
    pair = Pair(3 * PIECE_BYTES + 7)
    pair.setup()
    assert pair.iterate(pieces) == pieces
    assert pair.destination.allocated_ns is None
    assert pair.complete() == 4 - pieces
    # Nobody is told, but what has to be allocated is.
    assert pair.destination.allocated_ns is not None
    assert pair.ready == 0
    assert pair.source.save_complete() == b""


@pytest.mark.parametrize("pieces", [2, 5])
def test_a_second_migration_starts_over(pieces: int) -> None:
    pair = Pair(3 * PIECE_BYTES + 7)
    pair.setup()
    pair.iterate(pieces)
    pair.ready = 0
    # The first one was cancelled, or failed, and the state has changed since.
    pair.source.state += np.uint8(1)
    pair.setup()
    assert pair.destination.allocated_ns is None
    assert pair.source.pending_bytes() == 3 * PIECE_BYTES + 8
    assert pair.iterate() == 5
    assert pair.ready == 1
    pair.complete()


def test_the_destination_can_be_a_source_next() -> None:
    first = Pair(PIECE_BYTES + 1)
    first.setup()
    first.iterate()
    first.complete()
    second = Pair(PIECE_BYTES + 1)
    second.source = first.destination
    second.setup()
    second.iterate()
    second.complete()
    assert second.ready == 1
    assert np.array_equal(second.destination.state, first.source.state)


def test_the_allocation_takes_its_time() -> None:
    pair = Pair(5, allocate_ns=3_000_000)
    pair.setup()
    pair.iterate(1)
    assert pair.ready == 0
    pair.iterate()
    assert pair.ready == 1


@pytest.mark.parametrize(("state_bytes", "received"), [(0, 1), (10, 11), (10, 4096)])
def test_too_many_bytes_are_refused(state_bytes: int, received: int) -> None:
    pair = Pair(state_bytes)
    pair.setup()
    before = pair.destination.state.copy()
    with pytest.raises(GuestError) as caught:
        pair.take(b"\0" + b"x" * received)
    expected = f"'vf0/vfio-sim' takes at most {state_bytes} bytes of state, got {received}"
    assert str(caught.value) == expected
    assert np.array_equal(pair.destination.state, before)


def test_too_many_bytes_are_refused_piece_by_piece() -> None:
    pair = Pair(10)
    pair.setup()
    pair.take(b"\0" + b"x" * 6)
    with pytest.raises(GuestError, match="takes at most 10 bytes of state, got 11"):
        pair.take(b"\0" + b"x" * 5)
    pair.take(b"\0" + b"y" * 4)
    assert pair.destination.state.tobytes() == b"xxxxxxyyyy"


@pytest.mark.parametrize("piece", [b"\2", b"\2abc", b"\xff", b"\1\0"])
def test_unknown_pieces_are_refused(piece: bytes) -> None:
    pair = Pair(10)
    pair.setup()
    with pytest.raises(GuestError) as caught:
        pair.take(piece)
    assert str(caught.value) == (
        f"'vf0/vfio-sim' does not take a piece of kind {piece[:1].hex()} with {len(piece)} bytes "
        "at this point"
    )
    assert pair.ready == 0


def test_the_initial_data_ends_once() -> None:
    pair = Pair(10)
    pair.setup()
    pair.iterate()
    with pytest.raises(GuestError, match="does not take a piece of kind 01 with 1 bytes"):
        pair.take(b"\1")
    assert pair.ready == 1


@pytest.mark.parametrize("received", [0, 1, 9])
def test_a_state_that_is_not_whole_is_refused(received: int) -> None:
    pair = Pair(10)
    pair.setup()
    if received:
        pair.take(b"\0" + b"x" * received)
    with pytest.raises(GuestError) as caught:
        pair.destination.load_complete()
    expected = f"'vf0/vfio-sim' has {received} bytes of its state, expected 10"
    assert str(caught.value) == expected


def test_it_asks_that_the_source_waits() -> None:
    device = VfioSim("vf7", 3, 0)
    assert device.idstr == "vf7/vfio-sim"
    assert device.wants_switchover_ack
