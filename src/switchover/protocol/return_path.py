"""The two ends of the return path. Page: docs/wire/return-path.md."""

from enum import Enum

from ..errors import StreamError, TruncatedStream, UnsupportedStream, UsageError
from ..wire.cursor import u32
from ..wire.return_path import (
    LoadReport,
    PhaseReport,
    ReturnPathMessage,
    ReturnPathMessageType,
    decode_return_path,
    encode_load_report,
    encode_phase,
    encode_return_path,
)
from .buffer import ReceiveBuffer
from .event import NEED_DATA, NeedData

_CAPACITY = 64 << 10

_NOT_YET = {
    ReturnPathMessageType.REQ_PAGES_ID: "postcopy-ram",
    ReturnPathMessageType.REQ_PAGES: "postcopy-ram",
    ReturnPathMessageType.RECV_BITMAP: "postcopy-ram",
    ReturnPathMessageType.RESUME_ACK: "postcopy-ram",
}


class ReturnPathState(Enum):
    """How far a return path has come, seen from either end."""

    CLOSED = "closed"
    OPEN = "open"
    SHUT = "shut"


class ReturnPathDestination:
    """The end that writes. Every method gives the bytes to be sent.

    Attributes:
        state: CLOSED until the source opens it; then OPEN; SHUT behind the last message.
    """

    def __init__(self) -> None:
        self.state = ReturnPathState.CLOSED

    def open(self) -> None:
        """The source sent OPEN_RETURN_PATH; sending it again changes nothing, as in QEMU."""
        if self.state == ReturnPathState.CLOSED:
            self.state = ReturnPathState.OPEN

    def pong(self, value: int) -> bytes:
        """The answer to a PING."""
        return self._message(ReturnPathMessageType.PONG, u32(value))

    def switchover_ack(self) -> bytes:
        """The source may stop its machine."""
        return self._message(ReturnPathMessageType.SWITCHOVER_ACK)

    def load_report(self, report: LoadReport) -> bytes:
        """How far the destination is; only for a source that asked for it."""
        return self._message(ReturnPathMessageType.X_LOAD_REPORT, encode_load_report(report))

    def phase(self, report: PhaseReport) -> bytes:
        """What the destination did in the downtime; only for a source that asked for it."""
        return self._message(ReturnPathMessageType.X_PHASE, encode_phase(report))

    def shut(self) -> bytes:
        """The last message: all is well, and the guest is ours."""
        message = self._message(ReturnPathMessageType.SHUT, u32(0))
        self.state = ReturnPathState.SHUT
        return message

    def _message(self, message_type: ReturnPathMessageType, payload: bytes = b"") -> bytes:
        if self.state != ReturnPathState.OPEN:
            raise UsageError(f"{message_type.name} cannot be sent: return path {self.state.value}")
        return encode_return_path(ReturnPathMessage(message_type, payload))


class ReturnPathSource:
    """The end that reads.

    Args:
        takes_reports: Whether our own messages are asked for.

    Attributes:
        state: OPEN until the destination's SHUT.
        buffer: Where received bytes are to be put.
    """

    def __init__(self, *, takes_reports: bool = False) -> None:
        self.state = ReturnPathState.OPEN
        self.buffer = ReceiveBuffer(_CAPACITY)
        self._takes_reports = takes_reports

    def next_message(self) -> ReturnPathMessage | NeedData:
        """The next SHUT, PONG, SWITCHOVER_ACK or report; NEED_DATA while it is not whole.

        Raises:
            StreamError: The destination sent something else.
        """
        cursor = self.buffer.cursor()
        if self.state == ReturnPathState.SHUT and cursor.remaining:
            raise StreamError(
                "the return path goes on behind SHUT",
                offset=cursor.offset,
                expected="nothing",
                got=f"{cursor.remaining} bytes",
            )
        offset = cursor.offset
        try:
            message = decode_return_path(cursor, takes_reports=self._takes_reports)
        except TruncatedStream:
            return NEED_DATA
        self.buffer.consume(cursor.position)
        if message.type in _NOT_YET:
            raise UnsupportedStream(
                f"return path message {message.type.name} belongs to capability "
                f"'{_NOT_YET[message.type]}', which is not supported yet",
                offset=offset,
            )
        if message.type == ReturnPathMessageType.SHUT:
            self.state = ReturnPathState.SHUT
        return message
