"""Commands in the stream. Page: docs/wire/command.md."""

from dataclasses import dataclass
from enum import IntEnum

from ..errors import StreamError
from ..model.section import SectionType
from .cursor import Cursor, u16, u32


class Command(IntEnum):
    """What a COMMAND section asks for (MIG_CMD_* in QEMU)."""

    OPEN_RETURN_PATH = 1
    PING = 2
    POSTCOPY_ADVISE = 3
    POSTCOPY_LISTEN = 4
    POSTCOPY_RUN = 5
    POSTCOPY_RAM_DISCARD = 6
    PACKAGED = 7
    ENABLE_COLO = 8
    POSTCOPY_RESUME = 9
    RECV_BITMAP = 10
    SWITCHOVER_START = 11


_SIZES = {
    Command.OPEN_RETURN_PATH: 0,
    Command.PING: 4,
    Command.POSTCOPY_LISTEN: 0,
    Command.POSTCOPY_RUN: 0,
    Command.PACKAGED: 4,
    Command.ENABLE_COLO: 0,
    Command.POSTCOPY_RESUME: 0,
    Command.SWITCHOVER_START: 0,
}
"""The commands whose payload has one size only, in bytes."""


@dataclass(frozen=True, slots=True)
class CommandMessage:
    """A command with its payload."""

    command: Command
    payload: bytes = b""


def encode_command(message: CommandMessage) -> bytes:
    """The whole section, its type byte included."""
    return b"".join(
        (
            bytes((SectionType.COMMAND,)),
            u16(message.command),
            u16(len(message.payload)),
            message.payload,
        )
    )


def decode_command(cursor: Cursor) -> CommandMessage:
    """What stands behind the type byte.

    Raises:
        StreamError: The command is unknown, or its payload has a wrong length.
    """
    what = "a command"
    offset = cursor.offset
    number = cursor.u16(what)
    try:
        command = Command(number)
    except ValueError:
        raise StreamError(
            "unknown command",
            offset=offset,
            expected=f"{min(Command)} to {max(Command)}",
            got=number,
        ) from None
    offset = cursor.offset
    size = cursor.u16(what)
    expected = _SIZES.get(command, size)
    if size != expected:
        raise StreamError(
            f"command {command.name} has a wrong length",
            offset=offset,
            expected=expected,
            got=size,
        )
    return CommandMessage(command, bytes(cursor.take(size, f"command {command.name}")))


def ping(value: int) -> CommandMessage:
    """A PING, which the destination answers with a PONG of the same value."""
    return CommandMessage(Command.PING, u32(value))


def ping_value(message: CommandMessage) -> int:
    """The number in a PING."""
    return int.from_bytes(message.payload, "big")
