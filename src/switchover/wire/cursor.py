"""Reading values out of memory, with every bound checked, and writing them.

All numbers of a migration stream are big-endian. A cursor never reads past the memory it was
given: it raises TruncatedStream, and whoever has more bytes to come tries again with more.
"""

import struct

from ..errors import StreamError, TruncatedStream

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")

MAX_COUNTED_STRING = 255
"""A counted string has one byte of length."""


class Cursor:
    """A place in memory that moves on as values are read.

    Args:
        data: The memory.
        offset: Where in the stream `data` begins, for errors.
    """

    __slots__ = ("_start", "data", "position")

    def __init__(self, data: memoryview | bytes | bytearray, offset: int = 0) -> None:
        self.data = memoryview(data)
        self.position = 0
        self._start = offset

    @property
    def offset(self) -> int:
        """Where in the stream the next value begins."""
        return self._start + self.position

    @property
    def remaining(self) -> int:
        """Bytes that have not been read."""
        return len(self.data) - self.position

    def take(self, size: int, what: str) -> memoryview:
        """The next `size` bytes, as a view.

        Args:
            size: How many.
            what: What they are, for the error.

        Raises:
            TruncatedStream: Fewer are left; the cursor stays where it was.
        """
        if size > self.remaining:
            raise TruncatedStream(
                f"the stream ends inside {what}",
                offset=self.offset,
                expected=f"{size} bytes",
                got=self.remaining,
            )
        begin = self.position
        self.position += size
        return self.data[begin : self.position]

    def peek_u8(self, what: str) -> int:
        """The next byte, which stays unread."""
        value = self.take(1, what)[0]
        self.position -= 1
        return value

    def u8(self, what: str) -> int:
        """One byte."""
        return self.take(1, what)[0]

    def u16(self, what: str) -> int:
        """Two bytes, big-endian."""
        return int(_U16.unpack(self.take(2, what))[0])

    def u32(self, what: str) -> int:
        """Four bytes, big-endian."""
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        """Eight bytes, big-endian."""
        return int(_U64.unpack(self.take(8, what))[0])

    def counted_string(self, what: str) -> str:
        """A string behind one byte of length: printable ASCII, as all of QEMU's names are.

        Raises:
            StreamError: It holds something else.
        """
        offset = self.offset
        return self._text(self.u8(what), what, offset)

    def text(self, size: int, what: str) -> str:
        """A string of `size` bytes of printable ASCII.

        Raises:
            StreamError: It holds something else.
        """
        return self._text(size, what, self.offset)

    def _text(self, size: int, what: str, offset: int) -> str:
        raw = bytes(self.take(size, what))
        if not raw.isascii() or not raw.decode("ascii").isprintable():
            raise StreamError(f"{what} is not printable text", offset=offset, got=ascii(raw[:40]))
        return raw.decode("ascii")


def u16(value: int) -> bytes:
    """Two bytes, big-endian."""
    return _U16.pack(value)


def u32(value: int) -> bytes:
    """Four bytes, big-endian."""
    return _U32.pack(value)


def u64(value: int) -> bytes:
    """Eight bytes, big-endian."""
    return _U64.pack(value)


def counted_string(text: str) -> bytes:
    """A string behind one byte of length.

    Raises:
        ValueError: It is longer than 255 bytes, or not ASCII.
    """
    raw = text.encode("ascii")
    if len(raw) > MAX_COUNTED_STRING:
        raise ValueError(f"a name has at most {MAX_COUNTED_STRING} bytes, this one {len(raw)}")
    return bytes((len(raw),)) + raw
