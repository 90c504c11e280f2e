"""Commands: each one's number and length."""

import pytest
from tests.decoding import OFFSET, check_decoder, decode_error

from switchover.wire.command import (
    Command,
    CommandMessage,
    decode_command,
    encode_command,
    ping,
    ping_value,
)
from switchover.wire.cursor import Cursor

GOLDEN = [
    ("08 0001 0000", CommandMessage(Command.OPEN_RETURN_PATH)),
    ("08 0002 0004 00000001", ping(1)),
    ("08 000b 0000", CommandMessage(Command.SWITCHOVER_START)),
    ("08 0009 0000", CommandMessage(Command.POSTCOPY_RESUME)),
]
FIXED = {
    Command.OPEN_RETURN_PATH: 0,
    Command.PING: 4,
    Command.POSTCOPY_LISTEN: 0,
    Command.POSTCOPY_RUN: 0,
    Command.PACKAGED: 4,
    Command.ENABLE_COLO: 0,
    Command.POSTCOPY_RESUME: 0,
    Command.SWITCHOVER_START: 0,
}


@pytest.mark.parametrize(("data", "message"), GOLDEN)
def test_commands_are_those_that_qemu_writes(data: str, message: CommandMessage) -> None:
    assert encode_command(message) == bytes.fromhex(data)
    check_decoder(decode_command, bytes.fromhex(data)[1:], message)


@pytest.mark.parametrize("command", Command)
def test_each_command_comes_back(command: Command) -> None:
    message = CommandMessage(command, b"\x7e" * FIXED.get(command, 16))
    check_decoder(decode_command, encode_command(message)[1:], message)


@pytest.mark.parametrize("size", [0, 16, 65535])
def test_the_other_commands_have_any_length(size: int) -> None:
    message = CommandMessage(Command.POSTCOPY_ADVISE, bytes(size))
    data = encode_command(message)[1:]
    assert data[:4] == bytes((0, 3)) + size.to_bytes(2, "big")
    assert decode_command(Cursor(data)) == message


@pytest.mark.parametrize("number", [0, 12, 0x0100, 0xFFFF])
def test_an_unknown_command_is_refused(number: int) -> None:
    error = decode_error(decode_command, number.to_bytes(2, "big") + bytes(2))
    assert str(error) == f"unknown command: expected 1 to 11, got {number} at offset 0x1f40"


@pytest.mark.parametrize(("command", "size"), FIXED.items())
def test_a_wrong_length_is_refused_before_its_bytes_are_there(command: Command, size: int) -> None:
    for wrong in {size + 1, max(size - 1, 1), 0xFFFF} - {size}:
        data = command.to_bytes(2, "big") + wrong.to_bytes(2, "big")
        error = decode_error(decode_command, data)
        assert error.offset == OFFSET + 2
        assert (error.expected, error.got) == (size, wrong)
        assert f"command {command.name} has a wrong length" in str(error)


@pytest.mark.parametrize("value", [0, 1, 0xFFFFFFFF])
def test_a_ping_holds_a_number(value: int) -> None:
    assert ping(value).payload == value.to_bytes(4, "big")
    assert ping_value(ping(value)) == value
