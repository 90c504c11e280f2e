"""The end of a stream: device sections without lengths, and the description that tells them apart.

The source keeps the connection open, so that no end of file says when it is done. Wherever an end
mark, a length and the beginning of a description stand, the stream may end; it does where the text
is whole JSON and its sizes tile the bytes before it exactly. Anything else is device state that
looks like one, and reading goes on.
"""

from ..errors import StreamError, TruncatedStream, UnsupportedStream
from ..model.device import DeviceState
from ..model.section import SectionType
from ..wire.description import (
    DESCRIPTION_STARTS,
    MAX_DESCRIPTION,
    decode_description,
    tile_devices,
)
from ..wire.stream import EOF, FOOTER_SIZE

MAX_DEVICES = 256 << 20
"""Bytes of device sections that are held undecoded: what is large travels as RAM or live."""
MAX_FALSE_BYTES = 8 * MAX_DESCRIPTION
"""Texts that look like the description and are not, in all: each costs the time to read it."""

_MARK = bytes((SectionType.EOF, SectionType.VMDESCRIPTION))
_PREFIX = len(_MARK) + 4


class DeviceTail:
    """Gathers what stands behind the live sections until it is whole.

    Args:
        offset: Where in the stream it begins.
        has_footers: Whether a footer stands behind each section.
    """

    def __init__(self, offset: int, *, has_footers: bool) -> None:
        self._offset = offset
        self._has_footers = has_footers
        self._data = bytearray()
        self._scanned = 0
        self._candidates: list[int] = []
        self._mismatch: StreamError | None = None
        self._false_bytes = 0

    def receive(self, data: memoryview) -> DeviceState | None:
        """Takes more bytes.

        Returns:
            The device state once it is whole, else None.

        Raises:
            StreamError: There are too many bytes, or some stand behind the end.
        """
        self._data += data
        if len(self._data) > MAX_DEVICES + MAX_DESCRIPTION:
            raise StreamError(
                "the device sections are too large",
                offset=self._offset,
                expected=f"at most {MAX_DEVICES} bytes and a VM description",
                got=f"{len(self._data)} and no end",
            )
        self._find_candidates()
        incomplete = []
        for candidate in self._candidates:
            if candidate + self._described_size(candidate) > len(self._data):
                incomplete.append(candidate)
            elif (state := self._try_candidate(candidate)) is not None:
                return state
        self._candidates = incomplete
        return None

    def _find_candidates(self) -> None:
        whole = _PREFIX + max(map(len, DESCRIPTION_STARTS))
        while (found := self._data.find(_MARK, self._scanned)) >= 0:
            if found + whole > len(self._data):
                self._scanned = found
                return
            text = found + _PREFIX
            size = self._described_size(found)
            if self._data.startswith(DESCRIPTION_STARTS, text) and size <= MAX_DESCRIPTION:
                self._candidates.append(found)
            self._scanned = found + 1
        self._scanned = max(self._scanned, len(self._data) - 1)

    def _described_size(self, candidate: int) -> int:
        """Bytes from a candidate's end mark to the end of its text."""
        size = self._data[candidate + len(_MARK) : candidate + _PREFIX]
        return _PREFIX + int.from_bytes(size, "big")

    def _try_candidate(self, candidate: int) -> DeviceState | None:
        end = candidate + self._described_size(candidate)
        text = bytes(self._data[candidate + _PREFIX : end])
        try:
            described = decode_description(text, self._offset + candidate + _PREFIX)
            with memoryview(self._data) as data:
                sections = tile_devices(
                    data[:candidate], described, self._offset, has_footers=self._has_footers
                )
        except StreamError as error:
            self._reject(error, len(text))
            return None
        if end < len(self._data):
            raise StreamError(
                "bytes behind the end of the stream",
                offset=self._offset + end,
                expected="nothing",
                got=f"{len(self._data) - end} bytes",
            )
        return DeviceState(bytes(self._data[:candidate]), text, sections)

    def _reject(self, mismatch: StreamError, size: int) -> None:
        # Without its traceback, which would hold on to the data while more of it comes.
        self._mismatch = mismatch.with_traceback(None)
        self._false_bytes += size
        if self._false_bytes > MAX_FALSE_BYTES:
            raise self._mismatch

    def failure(self) -> StreamError:
        """Why there is no end, when no more bytes will come."""
        end = self._offset + len(self._data)
        if self._mismatch is not None:
            return self._mismatch
        if self._ends_with_end_mark() and not self._candidates:
            return UnsupportedStream(
                "the stream ends without a VM description, as with the machine option "
                "suppress-vmdesc=on, which is not supported",
                offset=end,
            )
        return TruncatedStream(
            "the stream ends inside the device sections",
            offset=end,
            expected="device sections and a VM description",
            got=f"{len(self._data)} bytes",
        )

    def _ends_with_end_mark(self) -> bool:
        """Whether the last byte may be the end mark: with footers, one stands before it."""
        if not self._data.endswith(EOF):
            return False
        before = self._data[-len(EOF) - FOOTER_SIZE : -len(EOF)]
        return not before or not self._has_footers or before[0] == SectionType.FOOTER
