"""Messages of the return path, from the destination to the source.

Page: docs/wire/return-path.md. Two of them are our own: a destination sends them only to a source
that asked for them by a PING that no QEMU sends.
"""

from dataclasses import dataclass
from enum import IntEnum

from ..errors import StreamError
from .cursor import Cursor, counted_string, u16, u32, u64


class ReturnPathMessageType(IntEnum):
    """What a message says (MIG_RP_MSG_* in QEMU)."""

    SHUT = 1
    PONG = 2
    REQ_PAGES_ID = 3
    REQ_PAGES = 4
    RECV_BITMAP = 5
    RESUME_ACK = 6
    SWITCHOVER_ACK = 7
    X_LOAD_REPORT = 0xE001
    X_PHASE = 0xE002


QEMU_MESSAGES = frozenset(ReturnPathMessageType) - {
    ReturnPathMessageType.X_LOAD_REPORT,
    ReturnPathMessageType.X_PHASE,
}
X_REPORT_PING = 0x786C6F61
"""The PING by which a source asks for our own messages; another destination answers it as any."""

_SIZES = {
    ReturnPathMessageType.SHUT: 4,
    ReturnPathMessageType.PONG: 4,
    ReturnPathMessageType.REQ_PAGES: 12,
    ReturnPathMessageType.RESUME_ACK: 4,
    ReturnPathMessageType.SWITCHOVER_ACK: 0,
    ReturnPathMessageType.X_LOAD_REPORT: 20,
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


def decode_return_path(cursor: Cursor, *, takes_reports: bool = False) -> ReturnPathMessage:
    """One message.

    Args:
        cursor: Where it stands.
        takes_reports: Whether our own messages were asked for.

    Raises:
        StreamError: The message is unknown, or its payload has a wrong length.
    """
    what = "a return path message"
    offset = cursor.offset
    number = cursor.u16(what)
    known = ReturnPathMessageType if takes_reports else QEMU_MESSAGES
    if number not in set(known):
        raise StreamError(
            "unknown return path message",
            offset=offset,
            expected=f"{min(QEMU_MESSAGES)} to {max(QEMU_MESSAGES)}",
            got=number,
        )
    message_type = ReturnPathMessageType(number)
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


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How far a destination has come with the stream, and how fast one of its devices is.

    Attributes:
        consumed_bytes: Bytes of the stream that it has dealt with.
        section_id: The device's section; 0 where it has none to tell of.
        ns_per_mib: How long the device takes for a MiB, in nanoseconds; 0 where that is not known.
    """

    consumed_bytes: int
    section_id: int
    ns_per_mib: int


def encode_load_report(report: LoadReport) -> bytes:
    """The payload of an X_LOAD_REPORT."""
    return u64(report.consumed_bytes) + u32(report.section_id) + u64(report.ns_per_mib)


def decode_load_report(payload: bytes) -> LoadReport:
    """What an X_LOAD_REPORT, whose length was checked, says."""
    cursor = Cursor(payload)
    what = "a load report"
    return LoadReport(cursor.u64(what), cursor.u32(what), cursor.u64(what))


@dataclass(frozen=True, slots=True)
class PhaseReport:
    """What a destination did when the machine was stopped.

    Attributes:
        name: What.
        began_ns: How long ago it began when the message was sent, in nanoseconds.
        ended_ns: How long ago it ended.
    """

    name: str
    began_ns: int
    ended_ns: int


def encode_phase(report: PhaseReport) -> bytes:
    """The payload of an X_PHASE."""
    return u64(report.began_ns) + u64(report.ended_ns) + counted_string(report.name)


def decode_phase(payload: bytes, offset: int) -> PhaseReport:
    """What an X_PHASE says.

    Raises:
        StreamError: It makes no sense.
    """
    cursor = Cursor(payload, offset)
    what = "a phase of the destination"
    began_ns, ended_ns = cursor.u64(what), cursor.u64(what)
    name = cursor.counted_string(what)
    if cursor.remaining or ended_ns > began_ns:
        raise StreamError(f"{what} makes no sense", offset=offset)
    return PhaseReport(name, began_ns, ended_ns)
