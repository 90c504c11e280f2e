"""The end of a stream: found where it is, and not where device state looks like one."""

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.decoding import OFFSET
from tests.fuzzing import memory_limit, mutated, stable
from tests.streams import device_sections, end

from switchover.errors import StreamError, TruncatedStream, UnsupportedStream
from switchover.model.device import DeviceState
from switchover.model.section import SectionHeader, SectionType
from switchover.protocol import tail as tail_module
from switchover.protocol.tail import DeviceTail
from switchover.wire.description import MAX_DESCRIPTION
from switchover.wire.stream import encode_footer, encode_section_start

DATA, DESCRIPTION = device_sections()
TAIL = DATA + end(DESCRIPTION)
HEADER = SectionHeader(4, "serial", 0, 3)
EMPTY_MACHINE = b'{"configuration": {}, "page_size": 4096, "devices": []}'
OLD_MACHINE = b'{"page_size": 4096, "devices": []}'


def receive(
    chunks: Iterable[bytes], *, has_footers: bool = True
) -> tuple[DeviceTail, DeviceState | None]:
    """Feeds a tail; whatever it gives must come with the last chunk."""
    tail, state = DeviceTail(OFFSET, has_footers=has_footers), None
    for chunk in chunks:
        assert state is None
        state = tail.receive(memoryview(chunk))
    return tail, state


def bytewise(data: bytes) -> Iterable[bytes]:
    return (data[place : place + 1] for place in range(len(data)))


def device_with(content: bytes, *, has_footers: bool = True) -> tuple[bytes, bytes]:
    """The section of a device whose buffer holds that, and its description."""
    field = {"name": "buffer", "type": "buffer", "size": len(content)}
    described = {"name": "serial", "instance_id": 0, "version": 3, "fields": [field]}
    text = json.dumps({"configuration": {}, "page_size": 4096, "devices": [described]}).encode()
    footer = encode_footer(HEADER.section_id) if has_footers else b""
    return encode_section_start(SectionType.FULL, HEADER) + content + footer, text


def failure(chunks: Iterable[bytes], *, has_footers: bool = True) -> StreamError:
    tail, state = receive(chunks, has_footers=has_footers)
    assert state is None
    return tail.failure()


@pytest.mark.parametrize("has_footers", [True, False])
def test_the_tail_is_whole_at_its_last_byte(has_footers: bool) -> None:
    data, description = device_sections(has_footers=has_footers)
    whole = data + end(description)
    _, state = receive([whole], has_footers=has_footers)
    assert state is not None
    assert (state.data, state.description) == (data, description)
    assert [section.header.idstr for section in state.sections] == ["timer", "0000:00:1f.2/device"]
    _, again = receive(bytewise(whole), has_footers=has_footers)
    assert again == state


def test_the_tail_may_come_in_two_pieces() -> None:
    for split in range(1, len(TAIL)):
        _, state = receive([TAIL[:split], TAIL[split:]])
        assert state is not None, f"cut at {split}"
        assert state.data == DATA


@pytest.mark.parametrize("text", [EMPTY_MACHINE, OLD_MACHINE])
def test_a_machine_without_devices_has_a_tail_too(text: bytes) -> None:
    _, state = receive(bytewise(end(text)))
    assert state == DeviceState(b"", text, ())


# Device state that looks like an end


FAKES = {
    "a whole description": end(EMPTY_MACHINE),
    "an old description": end(OLD_MACHINE),
    "several": end(EMPTY_MACHINE) * 3,
    "one that is cut short": end(EMPTY_MACHINE)[:-1],
    "one that never ends": b"\x00\x06\x00\xff\xff\xff" + EMPTY_MACHINE,
    "one of the largest size": b"\x00\x06\x01\x00\x00\x00" + EMPTY_MACHINE,
    "one that is too long": b"\x00\x06\xff\xff\xff\xff" + EMPTY_MACHINE,
    "one inside another": b"\x00\x06\x00\x00\x01\x00" + EMPTY_MACHINE + end(EMPTY_MACHINE),
    "no JSON": end(b'{"configuration"' + b"x" * 40),
    "other JSON": end(b'{"configuration": 1, "devices": [{}]}'),
    "the beginning only": b"\x00\x06\x00\x00\x00\x10" + b'{"configuration"',
    "the mark only": b"\x00\x06",
    "many marks": b"\x00\x06" * 100,
    "marks and zeros": b"\x00\x00\x06\x00\x06\x00\x00\x06" * 10,
    "a description of another device": end(device_with(b"abc")[1]),
    "sections and their description": TAIL,
}


@pytest.mark.parametrize("content", FAKES.values(), ids=FAKES)
@pytest.mark.parametrize("has_footers", [True, False])
def test_a_false_end_inside_a_device_is_none(content: bytes, has_footers: bool) -> None:
    data, description = device_with(content, has_footers=has_footers)
    whole = data + end(description)
    _, state = receive([whole], has_footers=has_footers)
    assert state is not None
    assert (state.data, state.description) == (data, description)
    assert state.data[state.sections[0].start :][: state.sections[0].size] == content
    _, again = receive(bytewise(whole), has_footers=has_footers)
    assert again == state


def test_a_false_end_that_is_never_whole_does_not_hide_why_there_is_none() -> None:
    error = failure([device_with(b"\x00\x06\x00\xff\xff\xff" + EMPTY_MACHINE)[0]])
    assert isinstance(error, TruncatedStream)


# Tails that never end


def test_a_tail_that_is_cut_is_never_whole() -> None:
    for size in range(len(TAIL)):
        error = failure([TAIL[:size]])
        assert error.offset == OFFSET + size
        assert isinstance(error, TruncatedStream) or size == len(DATA) + 1
        assert f"at offset {OFFSET + size:#x}" in str(error)


def test_what_is_missing_is_named() -> None:
    assert str(failure([DATA])) == (
        "the stream ends inside the device sections: expected device sections and a VM "
        f"description, got {len(DATA)} bytes at offset {OFFSET + len(DATA):#x}"
    )


SUPPRESSED = "the stream ends without a VM description, as with the machine option suppress-vmdesc"


@pytest.mark.parametrize(
    ("data", "has_footers"),
    [(DATA, True), (b"", True), (b"", False), (device_sections(has_footers=False)[0], False)],
)
def test_a_stream_without_a_description_is_told_why(data: bytes, has_footers: bool) -> None:
    error = failure(bytewise(data + b"\0"), has_footers=has_footers)
    assert isinstance(error, UnsupportedStream)
    assert str(error).startswith(SUPPRESSED)
    assert error.offset == OFFSET + len(data) + 1


@pytest.mark.parametrize("rest", [b"", b"\x04\0\0", b"\x7e\0\0\0\0", bytes(4), bytes(40)])
def test_a_zero_that_is_no_end_mark_is_not_taken_for_one(rest: bytes) -> None:
    assert isinstance(failure([DATA + rest]), TruncatedStream)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (end(DESCRIPTION), "the stream ends inside a section type"),
        (DATA + end(EMPTY_MACHINE), "the VM description does not cover all device sections"),
        (b"\x02" + DATA + end(DESCRIPTION), "the section of device 'timer'"),
        (DATA + DATA + end(DESCRIPTION), "the VM description does not cover all device sections"),
        (DATA + end(DESCRIPTION[:-1]), "the VM description makes no sense"),
        (DATA[:-1] + b"\1" + end(DESCRIPTION), "section footer of '0000:00:1f.2/device'"),
    ],
)
def test_a_description_that_does_not_fit_is_no_end(data: bytes, sentence: str) -> None:
    for chunks in ([data], bytewise(data)):
        assert failure(chunks).what.startswith(sentence)


@pytest.mark.parametrize("rest", [b"\0", b"\x04", TAIL])
def test_bytes_behind_the_end_are_refused(rest: bytes) -> None:
    with pytest.raises(StreamError) as caught:
        receive([TAIL + rest])
    assert str(caught.value) == (
        f"bytes behind the end of the stream: expected nothing, got {len(rest)} bytes "
        f"at offset {OFFSET + len(TAIL):#x}"
    )


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "MAX_DEVICES", 1000)
    monkeypatch.setattr(tail_module, "MAX_DESCRIPTION", 500)
    tail = DeviceTail(OFFSET, has_footers=True)
    assert tail.receive(memoryview(bytes(1500))) is None
    with pytest.raises(StreamError) as caught:
        tail.receive(memoryview(b"\0"))
    assert str(caught.value) == (
        "the device sections are too large: expected at most 1000 bytes and a VM description, "
        "got 1501 and no end at offset 0x1f40"
    )


@pytest.mark.parametrize(("size", "is_whole"), [(len(DESCRIPTION), True), (MAX_DESCRIPTION, False)])
def test_the_length_in_front_of_the_text_counts(size: int, is_whole: bool) -> None:
    tail = DATA + b"\x00\x06" + size.to_bytes(4, "big") + DESCRIPTION
    _, state = receive([tail])
    assert (state is not None) is is_whole


def test_many_false_ends_cost_little_more_than_their_bytes() -> None:
    content = (b"\x00\x06\x00\x00\x00\x10" + b'{"configuration"') * 5_000
    data, description = device_with(content)
    whole = data + end(description)
    with memory_limit(6 * len(whole)):
        _, state = receive([whole[:1000], whole[1000:]])
    assert state is not None
    assert state.sections[0].size == len(content)


def test_false_ends_are_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    false_end = b"\x00\x06\x00\x00\x00\x10" + b'{"configuration"'
    monkeypatch.setattr(tail_module, "MAX_FALSE_BYTES", 2 * 16)
    data, description = device_with(2 * false_end)
    _, state = receive([data + end(description)])
    assert state is not None
    with pytest.raises(StreamError, match="the VM description makes no sense"):
        receive([3 * false_end])


@stable(200)
@given(
    st.one_of(
        st.binary(max_size=100),
        mutated(TAIL),
        st.lists(st.sampled_from([DATA, TAIL, end(DESCRIPTION), *FAKES.values()])).map(b"".join),
    ),
    st.integers(1, 2000),
    st.booleans(),
)
def test_any_bytes_are_a_tail_or_a_stream_error(data: bytes, size: int, has_footers: bool) -> None:
    tail, state = DeviceTail(OFFSET, has_footers=has_footers), None
    for begin in range(0, len(data), size):
        try:
            state = tail.receive(memoryview(data)[begin : begin + size])
        except StreamError as error:
            assert OFFSET <= error.offset <= OFFSET + len(data)
            return
        if state is not None:
            assert data.startswith(state.data + end(state.description))
            return
    assert OFFSET <= tail.failure().offset <= OFFSET + len(data)
