"""Messages of the return path: each one's number, length and value."""

import pytest
from tests.decoding import OFFSET, check_decoder, decode_error

from switchover.errors import StreamError
from switchover.wire.return_path import (
    MAX_PAYLOAD,
    QEMU_MESSAGES,
    LoadReport,
    PhaseReport,
    ReturnPathMessage,
    ReturnPathMessageType,
    decode_load_report,
    decode_phase,
    decode_return_path,
    encode_load_report,
    encode_phase,
    encode_return_path,
)

Type = ReturnPathMessageType
FIXED = {
    Type.SHUT: 4,
    Type.PONG: 4,
    Type.REQ_PAGES: 12,
    Type.RESUME_ACK: 4,
    Type.SWITCHOVER_ACK: 0,
    Type.X_LOAD_REPORT: 20,
}
FREE = [Type.REQ_PAGES_ID, Type.RECV_BITMAP]


@pytest.mark.parametrize(
    ("data", "message", "value"),
    [
        ("0007 0000", ReturnPathMessage(Type.SWITCHOVER_ACK), 0),
        ("0002 0004 00000001", ReturnPathMessage(Type.PONG, b"\0\0\0\1"), 1),
        ("0001 0004 00000000", ReturnPathMessage(Type.SHUT, b"\0\0\0\0"), 0),
        ("0001 0004 ffffffff", ReturnPathMessage(Type.SHUT, b"\xff" * 4), 0xFFFFFFFF),
    ],
)
def test_messages_are_those_that_qemu_writes(
    data: str, message: ReturnPathMessage, value: int
) -> None:
    assert encode_return_path(message) == bytes.fromhex(data)
    check_decoder(decode_return_path, bytes.fromhex(data), message)
    assert message.value == value


@pytest.mark.parametrize("message_type", Type)
def test_each_message_comes_back(message_type: Type) -> None:
    message = ReturnPathMessage(message_type, b"\x07" * FIXED.get(message_type, 19))
    check_decoder(
        lambda cursor: decode_return_path(cursor, takes_reports=True),
        encode_return_path(message),
        message,
    )


def test_our_own_messages_are_far_from_qemus() -> None:
    assert max(QEMU_MESSAGES) == 7
    assert min(set(Type) - QEMU_MESSAGES) == 0xE001


@pytest.mark.parametrize("number", [0, 8, 0x0700, 0xE001, 0xE002, 0xFFFF])
def test_an_unknown_message_is_refused(number: int) -> None:
    error = decode_error(decode_return_path, number.to_bytes(2, "big"))
    assert str(error) == (
        f"unknown return path message: expected 1 to 7, got {number} at offset 0x1f40"
    )


@pytest.mark.parametrize(("message_type", "size"), FIXED.items())
def test_a_wrong_length_is_refused_before_its_bytes_are_there(
    message_type: Type, size: int
) -> None:
    for wrong in {size + 1, max(size - 1, 1), MAX_PAYLOAD + 1, 0xFFFF} - {size}:
        data = message_type.to_bytes(2, "big") + wrong.to_bytes(2, "big")
        error = decode_error(lambda cursor: decode_return_path(cursor, takes_reports=True), data)
        assert str(error) == (
            f"return path message {message_type.name} has a wrong length: "
            f"expected {size}, got {wrong} at offset {OFFSET + 2:#x}"
        )


@pytest.mark.parametrize("message_type", FREE)
def test_the_other_messages_have_a_limit(message_type: Type) -> None:
    longest = ReturnPathMessage(message_type, bytes(MAX_PAYLOAD))
    check_decoder(decode_return_path, encode_return_path(longest), longest)
    too_long = ReturnPathMessage(message_type, bytes(MAX_PAYLOAD + 1))
    error = decode_error(decode_return_path, encode_return_path(too_long)[:4])
    assert (error.expected, error.got) == ("at most 512", 513)


# Our own


def test_a_load_report_comes_back() -> None:
    report = LoadReport(consumed_bytes=1 << 40, section_id=3, ns_per_mib=2_000_000)
    payload = encode_load_report(report)
    assert len(payload) == FIXED[Type.X_LOAD_REPORT]
    assert decode_load_report(payload) == report


def test_a_phase_comes_back() -> None:
    report = PhaseReport("nic/vfio", 5_000, 3_000)
    assert decode_phase(encode_phase(report), OFFSET) == report


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        encode_phase(PhaseReport("ram", 5, 3))[:-1],
        encode_phase(PhaseReport("ram", 5, 3)) + b"x",
        encode_phase(PhaseReport("ram", 3, 5)),
        encode_phase(PhaseReport("", 5, 3))[:-1] + b"\x01\xff",
    ],
)
def test_a_phase_that_makes_no_sense_is_refused(payload: bytes) -> None:
    with pytest.raises(StreamError) as caught:
        decode_phase(payload, OFFSET)
    assert OFFSET <= caught.value.offset <= OFFSET + len(payload)
