"""Where received bytes wait: nothing is lost, nothing moves under a view without warning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzzing import stable

from switchover.protocol.buffer import CAPACITY, ReceiveBuffer


def put(buffer: ReceiveBuffer, data: bytes) -> None:
    buffer.writable()[: len(data)] = data
    buffer.commit(len(data))


def test_an_empty_buffer_has_room_and_nothing_else() -> None:
    buffer = ReceiveBuffer()
    assert len(buffer.writable()) == CAPACITY
    assert (len(buffer), bytes(buffer.waiting())) == (0, b"")
    assert (buffer.offset, buffer.received_bytes) == (0, 0)


def test_bytes_wait_until_they_are_used() -> None:
    buffer = ReceiveBuffer(64)
    put(buffer, b"abcdef")
    buffer.consume(2)
    assert bytes(buffer.waiting()) == b"cdef"
    assert (len(buffer), buffer.offset, buffer.received_bytes) == (4, 2, 6)
    cursor = buffer.cursor()
    assert (cursor.offset, bytes(cursor.take(4, "x"))) == (2, b"cdef")
    assert len(buffer) == 4


def test_an_empty_buffer_begins_again_at_its_beginning() -> None:
    buffer = ReceiveBuffer(64)
    put(buffer, bytes(40))
    buffer.consume(40)
    assert len(buffer.writable()) == 64
    assert (buffer.offset, buffer.received_bytes) == (40, 40)


def test_the_rest_moves_to_the_beginning_when_the_end_is_near() -> None:
    buffer = ReceiveBuffer(64)
    put(buffer, b"x" * 30 + b"rest")
    buffer.consume(30)
    assert len(buffer.writable()) == 60
    assert bytes(buffer.waiting()) == b"rest"
    assert buffer.offset == 30


def test_the_rest_stays_where_it_is_while_there_is_room() -> None:
    buffer = ReceiveBuffer(64)
    put(buffer, b"x" * 28 + b"rest")
    view = buffer.waiting()
    buffer.consume(28)
    assert len(buffer.writable()) == 32
    assert bytes(view[28:]) == b"rest"


@pytest.mark.parametrize("capacity", [2, 64])
def test_what_does_not_fit_makes_the_memory_grow(capacity: int) -> None:
    buffer = ReceiveBuffer(capacity)
    data = bytes(range(256)) * 40
    for position in range(0, len(data), 7):
        put(buffer, data[position : position + 1])
        for byte in data[position + 1 : position + 7]:
            put(buffer, bytes((byte,)))
    assert bytes(buffer.waiting()) == data
    assert len(buffer.writable()) <= 4 * len(data)


@stable(200)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), max_size=40))
def test_bytes_come_out_as_they_went_in(steps: list[tuple[int, int]]) -> None:
    buffer, put_in, taken = ReceiveBuffer(16), bytearray(), bytearray()
    for size, use in steps:
        writable = buffer.writable()
        assert len(writable) > 0
        size = min(size, len(writable))
        data = bytes((len(put_in) + place) & 0xFF for place in range(size))
        writable[:size] = data
        buffer.commit(size)
        put_in += data
        use = min(use, len(buffer))
        taken += buffer.waiting()[:use]
        buffer.consume(use)
        assert (buffer.offset, buffer.received_bytes) == (len(taken), len(put_in))
    assert taken + buffer.waiting() == put_in
