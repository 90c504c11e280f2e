"""A simulated device that is read while it runs: what it gives, and that its sizes are exact."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.vfio.invented import MIB, PAGE, Pair

from switchover.model.vfio import PrecopyInfo, VfioState
from switchover.vfio.records import HEADER, PAYLOAD_BYTES, RECORD_BYTES, Kind

SECOND = 10**9


def described(pieces: list[bytes]) -> list[tuple[Kind, int, int]]:
    """The records in whole reads."""
    found = []
    for piece in pieces:
        kind, offset, length = HEADER.unpack(piece[: HEADER.size])
        assert len(piece) == HEADER.size + (0 if kind == Kind.START else length)
        found.append((Kind(kind), offset, length))
    return found


def test_initial_data_goes_while_it_runs_and_the_rest_once_it_is_stopped() -> None:
    pair = Pair(3 * PAYLOAD_BYTES, PAYLOAD_BYTES + 10)
    assert described(pair.drain()) == [
        (Kind.START, 3 * PAYLOAD_BYTES, PAYLOAD_BYTES + 10),
        (Kind.INITIAL, 0, PAYLOAD_BYTES),
        (Kind.INITIAL, PAYLOAD_BYTES, 10),
    ]
    assert pair.read() is None
    pair.source.set_state(VfioState.STOP_COPY)
    assert described(pair.drain()) == [
        (Kind.LATER, PAYLOAD_BYTES + 10, PAYLOAD_BYTES),
        (Kind.LATER, 2 * PAYLOAD_BYTES + 10, PAYLOAD_BYTES - 10),
    ]
    assert [pair.read(), pair.read(5)] == [b"", b""]


@pytest.mark.parametrize("goal", [VfioState.PRE_COPY, VfioState.STOP_COPY])
@pytest.mark.parametrize("initial", [0, 1, PAGE, 2 * MIB])
@pytest.mark.parametrize("state_bytes", [2 * MIB, 2 * MIB + 1, 2 * PAYLOAD_BYTES])
def test_all_arrives(state_bytes: int, initial: int, goal: VfioState) -> None:
    pair = Pair(state_bytes, min(initial, state_bytes), goal=goal)
    pair.end()


def test_no_state_at_all_arrives() -> None:
    pair = Pair(0, dirty_rate=MIB)
    assert pair.move() == HEADER.size
    pair.time.now_ns += SECOND
    assert pair.source.precopy_info() == PrecopyInfo(0, 0)
    pair.end()


def test_initial_data_that_was_not_read_before_the_stop_goes_behind_it() -> None:
    pair = Pair(3 * PAYLOAD_BYTES, 2 * PAYLOAD_BYTES)
    first = [pair.read() or b"", pair.read() or b"", pair.read(HEADER.size + 5) or b""]
    pair.source.set_state(VfioState.STOP_COPY)
    rest = pair.drain()
    assert len(rest[0]) == PAYLOAD_BYTES - 5
    assert described(rest[1:]) == [(Kind.LATER, 2 * PAYLOAD_BYTES, PAYLOAD_BYTES)]
    for piece in first + rest:
        pair.destination.write(memoryview(piece))
    pair.end()


def test_nothing_is_rewritten_before_it_was_read() -> None:
    pair = Pair(dirty_rate=1 << 40)
    before = pair.source.digest()
    pair.time.now_ns += 10 * SECOND
    info = pair.source.precopy_info()
    assert (info.dirty_bytes, pair.source.digest()) == (0, before)


def test_the_rate_says_how_much_is_rewritten() -> None:
    pair = Pair(100 * PAGE, dirty_rate=10 * PAGE)
    pair.move()
    sizes = []
    for _ in range(5):
        pair.time.now_ns += 25 * SECOND // 100
        sizes.append(pair.source.precopy_info().dirty_bytes)
    # Halves of pages add up.
    assert sizes == [n * PAGE + HEADER.size for n in (2, 5, 7, 10, 12)]
    assert described(pair.drain()) == [(Kind.LATER, 0, 12 * PAGE)]
    pair.time.now_ns += SECOND
    # It goes on behind that, and not once more from the beginning.
    assert described(pair.drain()) == [(Kind.LATER, 12 * PAGE, 10 * PAGE)]


def test_it_goes_round() -> None:
    pair = Pair(10 * PAGE, dirty_rate=8 * PAGE)
    pair.move()
    pair.time.now_ns += SECOND
    assert pair.move() == 8 * PAGE + HEADER.size
    pair.time.now_ns += SECOND
    expected = 8 * PAGE + 2 * HEADER.size
    assert pair.source.precopy_info().dirty_bytes == expected
    assert described(pair.drain()) == [(Kind.LATER, 0, 6 * PAGE), (Kind.LATER, 8 * PAGE, 2 * PAGE)]
    pair.time.now_ns += 100 * SECOND
    # The hand is where it would be had somebody asked in between: at 16 + 800 pages.
    assert pair.source.precopy_info().dirty_bytes == 10 * PAGE + HEADER.size
    pair.drain()
    pair.time.now_ns += SECOND // 8
    assert described(pair.drain()) == [(Kind.LATER, 6 * PAGE, PAGE)]


def test_what_is_rewritten_has_changed_each_time() -> None:
    pair = Pair(10 * PAGE, dirty_rate=10 * PAGE)
    pair.move()
    for _ in range(3):
        before = pair.source.memory.copy().reshape(10, PAGE)
        pair.time.now_ns += SECOND
        pair.source.precopy_info()
        after = pair.source.memory.reshape(10, PAGE)
        assert (before != after).any(axis=1).all()


def test_a_stopped_device_rewrites_nothing() -> None:
    pair = Pair(dirty_rate=MIB)
    pair.move()
    pair.time.now_ns += SECOND
    pair.source.set_state(VfioState.STOP_COPY)
    left, digest = pair.source.stop_copy_bytes(), pair.source.digest()
    assert left == MIB + 2 * HEADER.size
    pair.time.now_ns += SECOND
    assert (pair.source.stop_copy_bytes(), pair.source.digest()) == (left, digest)
    pair.end()


def test_the_last_page_may_be_a_part_of_one() -> None:
    pair = Pair(PAGE + 3, dirty_rate=1 << 30)
    pair.move()
    pair.time.now_ns += SECOND
    assert pair.source.precopy_info().dirty_bytes == PAGE + 3 + HEADER.size
    pair.end()


def test_a_page_at_the_end_of_the_initial_data_goes_as_far_as_it_is_known() -> None:
    pair = Pair(3 * PAGE, PAGE + 3, dirty_rate=1 << 30)
    pair.move()
    pair.time.now_ns += SECOND
    assert pair.source.precopy_info() == PrecopyInfo(0, PAGE + 3 + HEADER.size)
    # Once it is stopped what was never read goes first, and then the page is known as a whole.
    left = pair.source.stop_copy_bytes()
    assert left == (2 * PAGE - 3 + HEADER.size) + (2 * PAGE + HEADER.size)
    pair.end()


def test_initial_data_that_is_new_goes_again() -> None:
    pair = Pair(2 * MIB, MIB, dirty_rate=MIB, reinit_ns=(SECOND, 3 * SECOND))
    initial_size = pair.source.precopy_info().initial_bytes
    pair.time.now_ns += SECOND - 1
    assert pair.move() == initial_size
    assert pair.source.precopy_info() == PrecopyInfo(0, 0)
    before = pair.source.digest()
    pair.time.now_ns += 1
    assert pair.source.precopy_info() == PrecopyInfo(initial_size, 0, True)
    assert pair.source.precopy_info() == PrecopyInfo(initial_size, 0)
    assert pair.source.digest() != before
    allocated_ns = pair.destination.allocated_ns
    piece = pair.read() or b""
    pair.destination.write(memoryview(piece))
    assert pair.destination.allocated_ns is None
    assert pair.move() == initial_size - len(piece)
    assert pair.destination.allocated_ns not in (None, allocated_ns)
    # Once more, and nobody is told before it is stopped.
    pair.time.now_ns += 2 * SECOND
    pair.source.set_state(VfioState.STOP_COPY)
    assert pair.source.stop_copy_bytes() == initial_size + MIB + 2 * HEADER.size
    pair.end()


def test_several_times_that_have_passed_are_one() -> None:
    pair = Pair(MIB, reinit_ns=(1, 2))
    pair.move()
    pair.time.now_ns += 5
    assert pair.source.precopy_info().is_reinit
    pair.time.now_ns += 5
    assert not pair.source.precopy_info().is_reinit


@pytest.mark.parametrize("is_later", [False, True])
def test_the_rest_of_a_record_stands_before_new_initial_data(is_later: bool) -> None:
    pair = Pair(MIB, dirty_rate=MIB, reinit_ns=(2 * SECOND,))
    whole = pair.source.precopy_info().initial_bytes
    if is_later:
        pair.move()
        pair.time.now_ns += SECOND
    else:
        pair.destination.write(memoryview(pair.read() or b""))
    half = pair.read(1000) or b""
    pair.destination.write(memoryview(half))
    pair.time.now_ns += 2 * SECOND
    info = pair.source.precopy_info()
    assert info == PrecopyInfo(whole + RECORD_BYTES - PAGE + HEADER.size - 1000, 0, True)
    assert pair.move() == info.initial_bytes
    pair.end()


def test_a_session_begins_from_the_beginning() -> None:
    pair = Pair(2 * MIB, MIB, dirty_rate=MIB, reinit_ns=(10 * SECOND,))
    info = pair.source.precopy_info()
    pair.drain(1000)
    pair.time.now_ns += 9 * SECOND
    pair.source.set_state(VfioState.RUNNING)
    pair.time.now_ns += 9 * SECOND
    pair.source.set_state(VfioState.PRE_COPY)
    assert pair.source.precopy_info() == info
    pair.end()


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_happens_all_arrives_and_sizes_are_exact(data: st.DataObject) -> None:
    state_bytes = data.draw(st.integers(0, 5 * PAYLOAD_BYTES // 2))
    pair = Pair(
        state_bytes,
        data.draw(st.integers(0, state_bytes)),
        dirty_rate=data.draw(st.sampled_from([0, PAGE, MIB, 1 << 33])),
        reinit_ns=tuple(sorted(data.draw(st.lists(st.integers(0, 4 * SECOND), max_size=2)))),
        goal=data.draw(st.sampled_from([VfioState.PRE_COPY, VfioState.STOP_COPY])),
    )
    sizes = st.one_of(st.integers(1, 60), st.integers(1, 3 * MIB))
    stream = bytearray()
    initial_left: int | None = None
    for _ in range(data.draw(st.integers(0, 30))):
        is_running = pair.source.state != VfioState.STOP_COPY
        action = data.draw(st.sampled_from(["read", "read", "read", "wait", "p2p", "stop"]))
        if action == "wait":
            pair.time.now_ns += data.draw(st.integers(0, SECOND))
        elif action == "p2p" and is_running:
            pair.source.set_state(VfioState.PRE_COPY_P2P)
        elif action == "stop" and data.draw(st.booleans()):
            pair.source.set_state(VfioState.STOP_COPY)
        elif action == "read":
            total = pair.source.stop_copy_bytes()
            info = pair.source.precopy_info() if is_running else None
            if info is not None:
                if info.is_reinit:
                    initial_left = None
                assert initial_left in (None, info.initial_bytes)
            piece = pair.read(data.draw(sizes))
            stream += piece or b""
            if info is None:
                assert piece is not None
                assert pair.source.stop_copy_bytes() == total - len(piece)
                assert bool(piece) is (total > 0)
                continue
            left = pair.source.precopy_info()
            assert not left.is_reinit
            if piece is None:
                assert (info.initial_bytes, info.dirty_bytes) == (0, 0)
            elif info.initial_bytes:
                # Never across the border.
                assert 0 < len(piece) <= info.initial_bytes
                assert left.initial_bytes == info.initial_bytes - len(piece)
                assert left.dirty_bytes == info.dirty_bytes
            else:
                assert left == PrecopyInfo(0, info.dirty_bytes - len(piece))
            initial_left = left.initial_bytes
    if pair.source.state != VfioState.STOP_COPY:
        pair.source.set_state(VfioState.STOP_COPY)
    left_size = pair.source.stop_copy_bytes()
    rest = b"".join(pair.drain())
    assert len(rest) == left_size
    stream += rest
    place = 0
    while place < len(stream):
        size = data.draw(sizes)
        pair.destination.write(memoryview(stream)[place : place + size])
        place += size
    pair.destination.set_state(VfioState.STOP)
    assert np.array_equal(pair.destination.memory, pair.source.memory)
    assert pair.destination.allocated_ns is not None
