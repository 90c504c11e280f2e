"""The two ends of the return path, alone and joined."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzzing import memory_limit, mutated, stable

from switchover.errors import StreamError, UnsupportedStream, UsageError
from switchover.protocol.event import NEED_DATA
from switchover.protocol.return_path import (
    ReturnPathDestination,
    ReturnPathSource,
    ReturnPathState,
)
from switchover.wire.return_path import (
    LoadReport,
    PhaseReport,
    ReturnPathMessage,
    ReturnPathMessageType,
    encode_return_path,
)

Type = ReturnPathMessageType
Send = Callable[[ReturnPathDestination], bytes]

GOLDEN = [
    (ReturnPathDestination.switchover_ack, "0007 0000"),
    (lambda end: end.pong(1), "0002 0004 00000001"),
    (ReturnPathDestination.shut, "0001 0004 00000000"),
]
OWN: list[Send] = [
    lambda end: end.load_report(LoadReport(5, 2, 3)),
    lambda end: end.phase(PhaseReport("ram", 7, 6)),
]
CONVERSATION = bytes.fromhex("00070000 0002000400000001 0001000400000000")
SENDS: list[Send] = [*(send for send, _ in GOLDEN), *OWN]


def opened() -> ReturnPathDestination:
    destination = ReturnPathDestination()
    destination.open()
    return destination


def receive(source: ReturnPathSource, data: bytes) -> list[ReturnPathMessage]:
    source.buffer.writable()[: len(data)] = data
    source.buffer.commit(len(data))
    messages = []
    while (message := source.next_message()) is not NEED_DATA:
        messages.append(message)
    return messages


# The end that writes


@pytest.mark.parametrize(("send", "data"), GOLDEN)
def test_messages_are_those_that_qemu_writes(send: Send, data: str) -> None:
    assert send(opened()) == bytes.fromhex(data)


@pytest.mark.parametrize("send", SENDS)
def test_nothing_is_sent_before_the_source_opens_it(send: Send) -> None:
    destination = ReturnPathDestination()
    with pytest.raises(UsageError, match="cannot be sent: return path closed"):
        send(destination)
    assert destination.state is ReturnPathState.CLOSED


@pytest.mark.parametrize("send", SENDS)
def test_nothing_is_sent_behind_shut(send: Send) -> None:
    destination = opened()
    destination.shut()
    with pytest.raises(UsageError, match="cannot be sent: return path shut"):
        send(destination)


def test_opening_it_again_changes_nothing() -> None:
    destination = opened()
    states = []
    for change in (destination.open, destination.shut, destination.open):
        change()
        states.append(destination.state)
    assert states == [ReturnPathState.OPEN, ReturnPathState.SHUT, ReturnPathState.SHUT]


# The end that reads


def test_messages_are_read_until_shut() -> None:
    source = ReturnPathSource()
    messages = receive(source, CONVERSATION)
    assert [(message.type, message.value) for message in messages] == [
        (Type.SWITCHOVER_ACK, 0),
        (Type.PONG, 1),
        (Type.SHUT, 0),
    ]
    assert source.state is ReturnPathState.SHUT
    assert source.next_message() is NEED_DATA


def test_a_shut_with_an_error_is_a_message_too() -> None:
    source = ReturnPathSource()
    (message,) = receive(source, bytes.fromhex("0001 0004 00000001"))
    assert message.value == 1
    assert source.state is ReturnPathState.SHUT


@pytest.mark.parametrize("size", range(len(CONVERSATION)))
def test_a_message_that_is_not_whole_is_waited_for(size: int) -> None:
    source = ReturnPathSource()
    first = receive(source, CONVERSATION[:size])
    assert source.state is ReturnPathState.OPEN
    rest = receive(source, CONVERSATION[size:])
    assert first + rest == receive(ReturnPathSource(), CONVERSATION)


def test_bytes_behind_shut_are_refused() -> None:
    source = ReturnPathSource()
    with pytest.raises(StreamError) as caught:
        receive(source, CONVERSATION + b"\0\x07")
    assert str(caught.value) == (
        "the return path goes on behind SHUT: expected nothing, got 2 bytes at offset 0x14"
    )


@pytest.mark.parametrize(
    "message_type", [Type.REQ_PAGES_ID, Type.REQ_PAGES, Type.RECV_BITMAP, Type.RESUME_ACK]
)
def test_what_is_not_supported_is_refused_by_name(message_type: Type) -> None:
    payload = bytes({Type.REQ_PAGES: 12, Type.RESUME_ACK: 4}.get(message_type, 9))
    data = encode_return_path(ReturnPathMessage(message_type, payload))
    source = ReturnPathSource()
    with pytest.raises(UnsupportedStream) as caught:
        receive(source, bytes.fromhex("00070000") + data)
    assert str(caught.value) == (
        f"return path message {message_type.name} belongs to capability 'postcopy-ram', "
        "which is not supported yet at offset 0x4"
    )


def test_a_message_that_is_none_is_refused_again_and_again() -> None:
    source = ReturnPathSource()
    with pytest.raises(StreamError) as first:
        receive(source, bytes.fromhex("00070000 0008 0000"))
    with pytest.raises(StreamError) as second:
        source.next_message()
    assert str(first.value) == str(second.value)
    assert (first.value.what, first.value.offset) == ("unknown return path message", 4)


# Both


@stable(100)
@given(st.lists(st.one_of(st.none(), st.integers(0, 2**32 - 1)), max_size=30), st.data())
def test_the_two_ends_understand_each_other(sent: list[int | None], data: st.DataObject) -> None:
    destination, source = opened(), ReturnPathSource()
    written = b"".join(
        destination.switchover_ack() if value is None else destination.pong(value) for value in sent
    )
    written += destination.shut()
    received = []
    while written:
        size = data.draw(st.integers(1, len(written)))
        received += receive(source, written[:size])
        written = written[size:]
    assert [None if m.type == Type.SWITCHOVER_ACK else m.value for m in received] == [*sent, 0]
    assert received[-1].type == Type.SHUT
    assert source.state is destination.state is ReturnPathState.SHUT


@stable(200)
@given(st.one_of(st.binary(max_size=64), mutated(CONVERSATION)))
def test_any_bytes_are_messages_or_a_stream_error(data: bytes) -> None:
    source = ReturnPathSource()
    try:
        messages = receive(source, data)
    except StreamError as error:
        assert 0 <= error.offset <= len(data)
    else:
        written = b"".join(map(encode_return_path, messages))
        assert data == written + bytes(source.buffer.waiting())


def test_a_flood_of_messages_costs_no_memory() -> None:
    source = ReturnPathSource()
    with memory_limit(1_000_000):
        for _ in range(10):
            assert len(receive(source, bytes.fromhex("00070000") * 1000)) == 1000


def test_our_own_messages_are_for_a_source_that_asked_for_them() -> None:
    reports = b"".join(send(opened()) for send in OWN)
    first, second = receive(ReturnPathSource(takes_reports=True), reports)
    assert (first.type, second.type) == (Type.X_LOAD_REPORT, Type.X_PHASE)
    with pytest.raises(StreamError, match="unknown return path message"):
        receive(ReturnPathSource(), reports)
