"""Reading: every bound checked, nothing moved by a read that fails. Writing: the way back."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.decoding import OFFSET, check_decoder, decode_error
from tests.fuzzing import stable

from switchover.errors import TruncatedStream
from switchover.wire.cursor import Cursor, counted_string, u16, u32, u64

READS: list[tuple[Callable[[Cursor], object], bytes, object]] = [
    (lambda cursor: cursor.u8("x"), b"\xfe", 0xFE),
    (lambda cursor: cursor.u16("x"), b"\x01\x02", 0x0102),
    (lambda cursor: cursor.u32("x"), b"\x51\x45\x56\x4d", 0x5145564D),
    (lambda cursor: cursor.u64("x"), b"\x80\0\0\0\0\0\0\x10", 0x8000000000000010),
    (lambda cursor: bytes(cursor.take(3, "x")), b"abc", b"abc"),
    (lambda cursor: cursor.text(4, "x"), b"none", "none"),
    (lambda cursor: cursor.text(0, "x"), b"", ""),
    (lambda cursor: cursor.counted_string("x"), b"\x06pc.ram", "pc.ram"),
    (lambda cursor: cursor.counted_string("x"), b"\0", ""),
    (lambda cursor: cursor.counted_string("x"), b"\xff" + b"a" * 255, "a" * 255),
]


@pytest.mark.parametrize(("read", "data", "value"), READS)
def test_values_are_read(read: Callable[[Cursor], object], data: bytes, value: object) -> None:
    check_decoder(read, data, value)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 100])
def test_a_read_that_fails_moves_nothing(size: int) -> None:
    cursor = Cursor(bytes(10 + size - 1), OFFSET)
    cursor.take(10, "the beginning")
    with pytest.raises(TruncatedStream) as caught:
        cursor.take(size, "the rest")
    assert (cursor.position, cursor.remaining, cursor.offset) == (10, size - 1, OFFSET + 10)
    assert caught.value.offset == OFFSET + 10
    assert str(caught.value) == (
        f"the stream ends inside the rest: expected {size} bytes, got {size - 1} at offset 0x1f4a"
    )


def test_a_look_ahead_moves_nothing() -> None:
    cursor = Cursor(b"\x07\x08", OFFSET)
    assert [cursor.peek_u8("x"), cursor.peek_u8("x"), cursor.u8("x"), cursor.u8("x")] == [
        7,
        7,
        7,
        8,
    ]
    with pytest.raises(TruncatedStream):
        cursor.peek_u8("x")
    assert cursor.position == 2


def test_bytes_are_taken_without_a_copy() -> None:
    memory = bytearray(b"abcdef")
    cursor = Cursor(memory)
    cursor.take(2, "x")
    view = cursor.take(3, "x")
    memory[2:5] = b"XYZ"
    assert bytes(view) == b"XYZ"


@pytest.mark.parametrize(
    "text", [b"pc\0ram", b"pc.\xe9", b"\x7f", b"line\n", b"\x1b[31m", b"\x80" * 60]
)
def test_a_name_that_is_no_printable_text_is_refused(text: bytes) -> None:
    behind_length = decode_error(
        lambda cursor: cursor.counted_string("a name"), bytes((len(text),)) + text
    )
    alone = decode_error(lambda cursor: cursor.text(len(text), "a name"), text)
    assert str(behind_length).startswith("a name is not printable text: got b'")
    assert str(alone) == str(behind_length)
    assert str(alone).isascii() and str(alone).isprintable() and len(str(alone)) < 250
    assert alone.offset == OFFSET


@stable(100)
@given(st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_numbers_come_back(short: int, middle: int, long: int) -> None:
    cursor = Cursor(u16(short) + u32(middle) + u64(long))
    assert (cursor.u16("x"), cursor.u32("x"), cursor.u64("x")) == (short, middle, long)
    assert cursor.remaining == 0


@stable(100)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=255))
def test_names_come_back(name: str) -> None:
    assert Cursor(counted_string(name)).counted_string("x") == name


@pytest.mark.parametrize("name", ["a" * 256, "é"])
def test_a_name_that_cannot_be_written_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"at most 255 bytes, this one 256|'ascii' codec"):
        counted_string(name)
