"""The records of a simulated device, as its destination takes them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchover.errors import DeviceError
from switchover.vfio.records import (
    HEADER,
    PAYLOAD_BYTES,
    RECORD_BYTES,
    Kind,
    RecordReader,
    header,
    size_in_records,
    whole_size,
)

STATE = bytes(range(1, 11))
INITIAL_BYTES = 6


class Destination:
    def __init__(self, state_bytes: int = len(STATE)) -> None:
        self.state = np.zeros(state_bytes, np.uint8)
        self.events: list[str] = []
        self.reader = RecordReader(
            "vf0",
            self.state,
            lambda: self.events.append("start"),
            lambda: self.events.append("initial"),
        )

    def write(self, data: bytes) -> None:
        self.reader.write(np.frombuffer(data, np.uint8))

    def refusal(self, data: bytes) -> str:
        with pytest.raises(DeviceError) as caught:
            self.write(data)
        assert (caught.value.device, caught.value.errno) == ("vf0", 22)
        return caught.value.step


def start(state_bytes: int = len(STATE), initial_bytes: int = INITIAL_BYTES) -> bytes:
    return HEADER.pack(Kind.START, state_bytes, initial_bytes)


def record(kind: int, first: int, end: int) -> bytes:
    return HEADER.pack(kind, first, end - first) + STATE[first:end]


WHOLE = (
    start()
    + record(Kind.INITIAL, 0, 4)
    + record(Kind.INITIAL, 4, 6)
    + record(Kind.LATER, 6, 10)
    + record(Kind.LATER, 2, 8)
)


def test_bytes_of_a_header() -> None:
    assert header(Kind.LATER, 0x1234, 5).tobytes() == bytes.fromhex(
        "0300000000000000 3412000000000000 0500000000000000"
    )


@pytest.mark.parametrize(
    ("state_bytes", "size"),
    [
        (0, 0),
        (1, 25),
        (PAYLOAD_BYTES, PAYLOAD_BYTES + 24),
        (PAYLOAD_BYTES + 1, PAYLOAD_BYTES + 1 + 48),
    ],
)
def test_size_in_records(state_bytes: int, size: int) -> None:
    assert size_in_records(state_bytes) == size
    assert HEADER.size + PAYLOAD_BYTES <= RECORD_BYTES


def test_size_of_all() -> None:
    assert whole_size(10, 6) == 24 + 24 + 6 + 24 + 4
    assert whole_size(0, 0) == 24


@given(st.sets(st.integers(1, len(WHOLE) - 1), max_size=12))
def test_any_cut_gives_the_same(cuts: set[int]) -> None:
    destination = Destination()
    for first, end in pairwise([0, *sorted(cuts), len(WHOLE)]):
        assert destination.reader.is_whole is (first == len(WHOLE) - 30)
        destination.write(WHOLE[first:end])
    assert destination.state.tobytes() == STATE
    assert destination.reader.is_whole
    assert destination.events == ["start", "initial"]


def test_byte_by_byte_and_cut_off() -> None:
    destination = Destination()
    complete_at = [len(WHOLE) - 30, len(WHOLE)]
    for place in range(len(WHOLE)):
        assert destination.reader.is_whole is (place in complete_at)
        destination.write(WHOLE[place : place + 1])
    assert destination.reader.is_whole
    destination.write(b"")
    assert destination.events == ["start", "initial"]


def test_initial_data_may_be_all_or_nothing() -> None:
    destination = Destination()
    destination.write(start(initial_bytes=0))
    assert destination.events == ["start", "initial"]
    destination.write(record(Kind.LATER, 0, 10))
    assert destination.reader.is_whole
    destination.write(start(initial_bytes=10) + record(Kind.INITIAL, 0, 9))
    assert not destination.reader.is_whole
    destination.write(record(Kind.INITIAL, 9, 10))
    assert destination.reader.is_whole
    assert destination.events == ["start", "initial"] * 2
    empty = Destination(0)
    assert not empty.reader.is_whole
    empty.write(start(0, 0))
    assert empty.reader.is_whole


AT_BEGINNING = start()
HALF = start() + record(Kind.INITIAL, 0, 4)
INITIAL = start() + record(Kind.INITIAL, 0, 6)


@pytest.mark.parametrize(
    ("before", "data", "step"),
    [
        (b"", start(11), "take a state of 11 bytes, expected 10"),
        (b"", start(10, 11), "take 11 bytes of initial data, expected at most 10"),
        (
            b"",
            record(Kind.INITIAL, 0, 4),
            "take a record of kind 2 before it knows the size of the state",
        ),
        *(
            (
                before,
                HEADER.pack(kind, offset, length),
                f"take {length} bytes at offset {offset} by a record of kind {kind}, {there} bytes "
                "of 10 being there and 6 initial data",
            )
            for before, there, kind, offset, length in [
                (AT_BEGINNING, 0, 0, 0, 1),
                (AT_BEGINNING, 0, 4, 0, 1),
                (AT_BEGINNING, 0, 2**64 - 1, 2**64 - 1, 2**64 - 1),
                (AT_BEGINNING, 0, 2, 0, 0),
                (AT_BEGINNING, 0, 2, 0, 7),
                (AT_BEGINNING, 0, 2, 1, 1),
                (AT_BEGINNING, 0, 2, 2**64 - 1, 1),
                (AT_BEGINNING, 0, 3, 0, 1),
                (HALF, 4, 2, 0, 4),
                (HALF, 4, 2, 4, 3),
                (HALF, 4, 3, 0, 4),
                (INITIAL, 6, 2, 6, 1),
                (INITIAL, 6, 3, 7, 1),
                (INITIAL, 6, 3, 6, 0),
                (INITIAL, 6, 3, 6, 5),
                (INITIAL, 6, 3, 6, 2**64 - 1),
                (INITIAL, 6, 4, 6, 1),
            ]
        ),
    ],
)
def test_what_does_not_fit_is_refused_for_good(before: bytes, data: bytes, step: str) -> None:
    destination = Destination()
    destination.write(before)
    state = destination.state.copy()
    # It is known with the header.
    assert destination.refusal(data[: HEADER.size]) == step
    for further in (b"x", WHOLE, start()):
        assert destination.refusal(further) == "take anything behind a record that it refused"
    assert not destination.reader.is_whole
    assert np.array_equal(destination.state, state)


def test_a_record_has_its_largest_size() -> None:
    destination = Destination(2 * PAYLOAD_BYTES)
    destination.write(start(2 * PAYLOAD_BYTES, 0))
    assert destination.refusal(HEADER.pack(Kind.LATER, 0, PAYLOAD_BYTES + 1)).startswith("take")


@given(st.binary(max_size=80), st.integers(0, len(WHOLE)))
def test_garbage_is_refused_or_fits(garbage: bytes, place: int) -> None:
    destination = Destination()
    destination.write(WHOLE[:place])
    try:
        destination.write(garbage)
    except DeviceError as error:
        assert error.errno == 22
