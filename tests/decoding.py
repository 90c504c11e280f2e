"""What every decoder is put through: its bytes whole, with a tail, and cut at each byte."""

from collections.abc import Callable
from typing import TypeVar

import pytest

from switchover.errors import StreamError, TruncatedStream
from switchover.model.section import LiveParser, Parsed, SectionType
from switchover.wire.cursor import Cursor

T = TypeVar("T")
Decode = Callable[[Cursor], T]

OFFSET = 0x1F40
"""Where in their stream the bytes of a test stand."""


def check_decoder(decode: Decode[T], data: bytes, value: T, *, following: bytes = b"") -> None:
    """The data, and nothing behind it, is that value; any less of it is TruncatedStream.

    Args:
        decode: Takes the value from a cursor.
        data: The bytes of the value.
        value: What they mean.
        following: Bytes behind them that the decoder looks at without using them.
    """
    for tail in (b"", b"\x05\x7e\x00", bytes(64), b"\xff" * 8):
        cursor = Cursor(data + following + tail, OFFSET)
        assert decode(cursor) == value
        assert cursor.position == len(data)
    check_truncations(decode, data + following)


def check_truncations(decode: Decode[T], data: bytes) -> None:
    """Each beginning of the data is TruncatedStream, which says where it ends."""
    for size in range(len(data)):
        cursor = Cursor(data[:size], OFFSET)
        with pytest.raises(TruncatedStream) as caught:
            decode(cursor)
        assert OFFSET <= caught.value.offset <= OFFSET + size, f"cut at {size}"


def parse_step(parser: LiveParser, section_type: SectionType, cursor: Cursor) -> Parsed:
    """One step of a live section's parser, as a decoder takes a value."""
    parsed = parser.parse(section_type, cursor.data[cursor.position :], cursor.offset)
    cursor.take(parsed.size, "the step")
    return parsed


def decode_error(decode: Decode[T], data: bytes) -> StreamError:
    """The error that the data gives, which is about what it holds and not about its end."""
    with pytest.raises(StreamError) as caught:
        decode(Cursor(data, OFFSET))
    assert not isinstance(caught.value, TruncatedStream)
    assert OFFSET <= caught.value.offset <= OFFSET + len(data)
    assert f"at offset {caught.value.offset:#x}" in str(caught.value)
    return caught.value
