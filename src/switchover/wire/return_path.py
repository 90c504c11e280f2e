"""Messages of the return path, from the destination to the source.

Page: docs/wire/return-path.md.
"""

from dataclasses import dataclass
from enum import IntEnum

from ..errors import StreamError
from .cursor import Cursor, u16


class ReturnPathMessageType(IntEnum):
    """What a message says (MIG_RP_MSG_* in QEMU)."""

    SHUT = 1
    PONG = 2
    REQ_PAGES_ID = 3
    REQ_PAGES = 4
    RECV_BITMAP = 5
    RESUME_ACK = 6
    SWITCHOVER_ACK = 7


_SIZES = {
    ReturnPathMessageType.SHUT: 4,
    ReturnPathMessageType.PONG: 4,
    ReturnPathMessageType.REQ_PAGES: 12,
    ReturnPathMessageType.RESUME_ACK: 4,
    ReturnPathMessageType.SWITCHOVER_ACK: 0,
}
"""The messages whose payload has one size only, in bytes."""

MAX_PAYLOAD = 512
"""QEMU's own limit, in bytes."""


@dataclass(frozen=True, slots=True)
class ReturnPathMessage:
    """A message with its payload."""

    type: ReturnPathMessageType
    payload: bytes = b""

    @property
    def value(self) -> int:
        """The number in a SHUT (0: all is well), a PONG or a RESUME_ACK."""
        return int.from_bytes(self.payload, "big")


def encode_return_path(message: ReturnPathMessage) -> bytes:
    """The bytes of one message."""
    return u16(message.type) + u16(len(message.payload)) + message.payload


def decode_return_path(cursor: Cursor) -> ReturnPathMessage:
    """One message.

    Raises:
        StreamError: The message is unknown, or its payload has a wrong length.
    """
    what = "a return path message"
    offset = cursor.offset
    number = cursor.u16(what)
    try:
        message_type = ReturnPathMessageType(number)
    except ValueError:
        raise StreamError(
            "unknown return path message",
            offset=offset,
            expected=f"{min(ReturnPathMessageType)} to {max(ReturnPathMessageType)}",
            got=number,
        ) from None
    offset = cursor.offset
    size = cursor.u16(what)
    expected = _SIZES.get(message_type, min(size, MAX_PAYLOAD))
    if size != expected:
        raise StreamError(
            f"return path message {message_type.name} has a wrong length",
            offset=offset,
            expected=expected if message_type in _SIZES else f"at most {MAX_PAYLOAD}",
            got=size,
        )
    payload = cursor.take(size, f"return path message {message_type.name}")
    return ReturnPathMessage(message_type, bytes(payload))
