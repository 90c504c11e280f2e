"""Reading a stream: whole, in pieces, cut, out of order, unsupported, and hostile."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzzing import memory_limit, mutated, stable
from tests.streams import (
    BLOCKS,
    DEVICE_HEADER,
    LIVE_HEADER,
    MACHINE,
    RAM_HEADER,
    TIMER_HEADER,
    Received,
    device_sections,
    drain,
    end,
    feed,
    live_sections,
    parsers,
    small_stream,
    whole_stream,
)

from switchover.errors import StreamError, TruncatedStream, UnsupportedStream, UsageError
from switchover.model.configuration import Configuration
from switchover.model.ramblock import TARGET_PAGE_SIZE, RAMBlock, RAMBlocksListed
from switchover.model.section import Parsed, SectionHeader, SectionType
from switchover.protocol.buffer import ReceiveBuffer
from switchover.protocol.event import (
    NEED_DATA,
    Configured,
    LiveSectionsEnded,
    Pinged,
    ReturnPathOpened,
    SectionEnding,
    SectionItem,
    SectionStarted,
    StreamEnded,
    SwitchoverStarted,
)
from switchover.protocol.grammar import MOVES, StreamState
from switchover.protocol.loadvm import LoadVM
from switchover.protocol.return_path import (
    ReturnPathDestination,
    ReturnPathSource,
    ReturnPathState,
)
from switchover.wire.command import Command, CommandMessage, encode_command, ping
from switchover.wire.configuration import encode_configuration
from switchover.wire.cursor import counted_string, u32, u64
from switchover.wire.prefixed import PrefixedParser, encode_prefixed
from switchover.wire.ram import EMPTY_BODY, RAMEncoder, RAMParser
from switchover.wire.return_path import ReturnPathMessageType
from switchover.wire.stream import (
    EOF,
    encode_footer,
    encode_header,
    encode_section_continuation,
    encode_section_start,
)

WHOLE = whole_stream()
SMALL = small_stream()
OPEN_RETURN_PATH = encode_command(CommandMessage(Command.OPEN_RETURN_PATH))
EMPTY_MACHINE = b'{"configuration": {}, "page_size": 4096, "devices": []}'


def read(data: bytes) -> Received:
    return feed(LoadVM(parsers()), [data])


def reading_error(data: bytes) -> StreamError:
    """What is wrong with a stream; it stays the same however often it is asked for."""
    load = LoadVM(parsers())
    with pytest.raises(StreamError) as caught:
        feed(load, [data])
    with pytest.raises(StreamError) as again:
        load.next_event()
    assert again.value is caught.value
    assert not load.is_whole
    assert 0 <= caught.value.offset <= len(data)
    return caught.value


def start(header: SectionHeader, body: bytes) -> bytes:
    return encode_section_start(SectionType.START, header) + body + encode_footer(header.section_id)


def following(section_type: SectionType, section_id: int, body: bytes) -> bytes:
    return encode_section_continuation(section_type, section_id) + body + encode_footer(section_id)


BEGIN = encode_header() + encode_configuration(MACHINE)
START_RAM = start(RAM_HEADER, RAMEncoder().block_list(BLOCKS) + EMPTY_BODY)
EMPTY_PART = following(SectionType.PART, 1, EMPTY_BODY)
END_RAM = following(SectionType.END, 1, EMPTY_BODY)
START_LIVE = start(LIVE_HEADER, encode_prefixed(b""))


# A whole stream


def test_the_golden_stream_of_a_machine_without_anything() -> None:
    golden = bytes.fromhex(
        "5145564d 00000003 07 00000004 6e6f6e65"
        "08 0001 0000"
        "08 0002 0004 00000001"
        "01 00000001 03 72616d 00000000 00000004 0000000000000004 0000000000000010 7e 00000001"
        "08 000b 0000"
        "03 00000001 0000000000000010 7e 00000001"
        "04 00000000 05 74696d6572 00000000 00000002" + "00" * 24 + "7e 00000000"
        "04 00000003 0b 676c6f62616c7374617465 00000000 00000001" + "00" * 104 + "7e 00000003"
    )
    description = (
        b'{"configuration": {"vmsd_name": "configuration", "version": 1, "fields": []}, '
        b'"page_size": 4096, "devices": [{"name": "timer", "instance_id": 0, "version": 2, '
        b'"fields": [{"name": "x", "array_len": 3, "type": "int64", "size": 8}]}, '
        b'{"name": "globalstate", "instance_id": 0, "version": 1, '
        b'"fields": [{"name": "y", "type": "buffer", "size": 104}]}]}'
    )
    received = read(golden + end(description))
    header = SectionHeader(1, "ram", 0, 4)
    *events, ended = received.events
    assert events == [
        Configured(Configuration("none")),
        ReturnPathOpened(),
        Pinged(1),
        SectionItem(header, RAMBlocksListed(())),
        SectionStarted(header, has_footers=True),
        SwitchoverStarted(),
        SectionEnding(header),
        LiveSectionsEnded(),
    ]
    assert isinstance(ended, StreamEnded)
    assert [section.size for section in ended.devices.sections] == [24, 104]


def test_everything_in_a_stream_comes_out_of_it() -> None:
    received = read(WHOLE)
    items = [event.item for event in received.events if isinstance(event, SectionItem)]
    assert items == [
        RAMBlocksListed(BLOCKS),
        b"setup",
        *(b"\x7e" * number for number in range(7)),
        b"done",
    ]
    assert [event for event in received.events if not isinstance(event, SectionItem)][:-1] == [
        Configured(MACHINE),
        ReturnPathOpened(),
        Pinged(1),
        SectionStarted(RAM_HEADER, has_footers=True),
        SectionStarted(LIVE_HEADER, has_footers=True),
        SwitchoverStarted(),
        SectionEnding(RAM_HEADER),
        SectionEnding(LIVE_HEADER),
        LiveSectionsEnded(),
    ]
    assert received.devices is not None
    assert (received.devices.data, received.devices.description) == device_sections()
    headers = [section.header for section in received.devices.sections]
    assert headers == [TIMER_HEADER, DEVICE_HEADER]


def test_the_last_content_of_a_page_counts() -> None:
    received = read(WHOLE)
    indices = [index for idstr, index, _ in received.pages if idstr == "pc.ram"]
    assert indices == [*range(40), 60, 40, 50, 45, 41, 41, 2, 63, 1]
    ram = received.ram()
    page = [ram["pc.ram"][index * 4096 :][:4096] for index in range(64)]
    populated = [index for index in range(64) if any(page[index])]
    assert populated == [0, 2, 3, 41, 45, 63]
    assert page[2] == next(
        content for _, index, content in reversed(received.pages) if index == 2 and content
    )
    twice = [content for _, index, content in received.pages if index == 41]
    assert page[41] == twice[1] != twice[0]
    assert any(ram["pc.bios"][3 * 4096 :]) and not any(ram["pc.bios"][: 3 * 4096])


def test_pieces_make_the_same_guest_as_the_whole() -> None:
    whole = read(WHOLE)
    bytewise = feed(LoadVM(parsers()), (WHOLE[at : at + 1] for at in range(len(WHOLE))))
    assert bytewise == whole
    assert bytewise.ram() == whole.ram()


@stable(40)
@given(st.lists(st.integers(1, len(WHOLE)), max_size=40))
def test_splits_do_not_matter(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    pieces = [WHOLE[begin:stop] for begin, stop in pairwise(edges)]
    assert feed(LoadVM(parsers()), pieces) == read(WHOLE)


@pytest.mark.parametrize("configuration", [None, MACHINE])
@pytest.mark.parametrize("has_footers", [True, False])
@pytest.mark.parametrize("size", [13, len(WHOLE)])
def test_old_machines_are_read_too(
    configuration: Configuration | None, has_footers: bool, size: int
) -> None:
    data = whole_stream(configuration, has_footers=has_footers)
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    received = feed(LoadVM(parsers()), pieces)
    assert received.events[0] == Configured(configuration)
    assert SectionStarted(RAM_HEADER, has_footers) in received.events
    assert received.ram() == read(WHOLE).ram()


def test_a_stream_that_is_cut_is_never_whole() -> None:
    assert read(SMALL).devices is not None
    for size in range(len(SMALL)):
        load = LoadVM(parsers())
        load.buffer = ReceiveBuffer(2 * len(SMALL))
        received = Received()
        load.receive_data(SMALL[:size])
        drain(load, received)
        assert not load.is_whole
        assert received.devices is None
        load.receive_end()
        with pytest.raises(StreamError) as caught:
            load.next_event()
        assert caught.value.offset <= size
        assert f"at offset {caught.value.offset:#x}" in str(caught.value)


def test_a_stream_goes_on_no_further_than_its_end() -> None:
    load = LoadVM(parsers())
    load.receive_data(WHOLE)
    drain(load, Received())
    assert load.is_whole
    assert load.next_event() is NEED_DATA
    load.receive_data(b"\0")
    for _ in range(2):
        with pytest.raises(StreamError) as caught:
            load.next_event()
        assert str(caught.value) == (
            "bytes behind the end of the stream: expected nothing, got 1 bytes "
            f"at offset {len(WHOLE):#x}"
        )


# Order: every state, every section


class Writer:
    """Writes sections in any order, right or wrong, keeping the books that LoadVM keeps.

    The states are those of the grammar; `one ended` is COMPLETE with a live section left.
    """

    STATES = (
        "header",
        "setup",
        "iterate",
        "one ended",
        "complete",
        "devices",
        "description",
        "end",
    )

    def __init__(self, state: str) -> None:
        self.live: list[int] = []
        self.started = 0
        self.devices = 0
        self.data = encode_header()
        path = {
            "header": [],
            "setup": [SectionType.CONFIGURATION],
            "iterate": [SectionType.START, SectionType.START],
            "one ended": [SectionType.END],
            "complete": [SectionType.END],
            "devices": [SectionType.FULL],
            "description": [SectionType.EOF],
            "end": [SectionType.VMDESCRIPTION],
        }
        for name in self.STATES:
            for section_type in path[name]:
                self.write(section_type)
            if name == state:
                return

    def write(self, section_type: SectionType) -> None:
        self.data += bytes((section_type,)) + self.body(section_type)

    def body(self, section_type: SectionType) -> bytes:
        match section_type:
            case SectionType.CONFIGURATION:
                return encode_configuration(MACHINE)[1:]
            case SectionType.COMMAND:
                return encode_command(CommandMessage(Command.SWITCHOVER_START))[1:]
            case SectionType.START:
                self.started += 1
                self.live.append(self.started)
                header = SectionHeader(self.started, f"live{self.started}", 0, 1)
                return start(header, encode_prefixed(b"x"))[1:]
            case SectionType.PART | SectionType.END:
                section_id = self.live[0] if self.live else 1
                if section_type == SectionType.END:
                    self.live = self.live[1:]
                return following(section_type, section_id, encode_prefixed(b"x"))[1:]
            case SectionType.FULL:
                self.devices += 1
                return encode_section_start(section_type, TIMER_HEADER)[1:] + encode_footer(0)
            case SectionType.VMDESCRIPTION:
                device = b'{"name": "timer", "instance_id": 0, "version": 2, "fields": []}'
                devices = b", ".join([device] * self.devices)
                return end(b'{"page_size": 4096, "devices": [' + devices + b"]}")[2:]
            case SectionType.SUBSECTION:
                return counted_string("configuration/more") + u32(1)
            case SectionType.FOOTER:
                return u32(1)
            case SectionType.EOF:
                return b""

    def finish(self, state: StreamState) -> None:
        """Writes what is missing from a state to the end."""
        if state in (StreamState.HEADER, StreamState.SETUP):
            self.write(SectionType.START)
        if state is StreamState.END:
            return
        while self.live:
            self.write(SectionType.END)
        if state is not StreamState.DESCRIPTION:
            self.write(SectionType.EOF)
        self.write(SectionType.VMDESCRIPTION)


STATES = dict(
    zip(
        Writer.STATES,
        [
            StreamState.HEADER,
            StreamState.SETUP,
            StreamState.ITERATE,
            StreamState.COMPLETE,
            StreamState.COMPLETE,
            StreamState.DEVICES,
            StreamState.DESCRIPTION,
            StreamState.END,
        ],
        strict=True,
    )
)


def may_come(name: str, section_type: SectionType) -> bool:
    """What the table says, and that device sections wait for the last live one."""
    if name == "one ended":
        return section_type == SectionType.END
    if name == "complete" and section_type == SectionType.END:
        return False
    return section_type in MOVES[STATES[name]]


def new_load() -> LoadVM:
    load = LoadVM([PrefixedParser(f"live{number}") for number in range(1, 5)])
    load.buffer = ReceiveBuffer(1 << 12)
    return load


@pytest.mark.parametrize("name", Writer.STATES)
def test_each_state_leads_to_a_whole_stream(name: str) -> None:
    writer = Writer(name)
    writer.finish(STATES[name])
    load = new_load()
    feed(load, [writer.data])
    assert load.is_whole


@pytest.mark.parametrize("section_type", SectionType)
@pytest.mark.parametrize("name", Writer.STATES)
@pytest.mark.parametrize("size", [1, 100_000])
def test_only_what_the_table_allows_is_read(
    name: str, section_type: SectionType, size: int
) -> None:
    writer, state = Writer(name), STATES[name]
    before = len(writer.data)
    writer.write(section_type)
    accepted = may_come(name, section_type)
    writer.finish(MOVES[state][section_type] if accepted else state)
    load = new_load()
    pieces = (writer.data[at : at + size] for at in range(0, len(writer.data), size))
    if accepted:
        feed(load, pieces)
        assert load.is_whole
    else:
        with pytest.raises(StreamError) as caught:
            feed(load, pieces)
        if name in ("header", "setup", "iterate", "one ended"):
            inside = section_type == SectionType.SUBSECTION and name == "setup"
            assert caught.value.offset == before + inside


def test_every_row_of_the_table_is_walked() -> None:
    walked = {
        (STATES[name], section_type)
        for name in Writer.STATES
        for section_type in SectionType
        if may_come(name, section_type)
    }
    assert walked == {(state, section_type) for state in MOVES for section_type in MOVES[state]}


def test_the_state_shows_how_far_a_stream_has_come() -> None:
    load, received = new_load(), Received()
    shown = []
    for name in ("header", "setup", "iterate", "one ended", "end"):
        data = Writer(name).data
        load.receive_data(data[load.buffer.received_bytes :])
        drain(load, received)
        shown.append(load.state)
    assert shown == [STATES[name] for name in ("header", "setup", "iterate", "one ended", "end")]


@pytest.mark.parametrize(
    ("name", "section_type", "sentence"),
    [
        ("header", SectionType.PART, "expected CONFIGURATION, COMMAND, START, got PART"),
        ("setup", SectionType.CONFIGURATION, "expected COMMAND, START, got CONFIGURATION"),
        ("iterate", SectionType.EOF, "expected COMMAND, START, PART, END, got EOF"),
        ("one ended", SectionType.EOF, "expected END, got EOF"),
        ("one ended", SectionType.START, "expected END, got START"),
    ],
)
def test_a_section_out_of_order_is_named(
    name: str, section_type: SectionType, sentence: str
) -> None:
    writer = Writer(name)
    offset = len(writer.data)
    writer.write(section_type)
    with pytest.raises(StreamError) as caught:
        feed(new_load(), [writer.data])
    assert str(caught.value) == f"a section out of order: {sentence} at offset {offset:#x}"


@pytest.mark.parametrize("name", ["header", "setup", "iterate", "one ended"])
def test_a_device_section_before_the_end_of_ram_is_not_supported(name: str) -> None:
    writer = Writer(name)
    writer.write(SectionType.FULL)
    with pytest.raises(UnsupportedStream, match="a device section before the end of RAM"):
        feed(new_load(), [writer.data])


# What is not supported


CAPABILITIES = {
    Command.POSTCOPY_ADVISE: "capability 'postcopy-ram' or 'dirty-bitmaps'",
    Command.ENABLE_COLO: "capability 'x-colo'",
}
SIZES = {Command.PING: 4, Command.PACKAGED: 4, Command.POSTCOPY_ADVISE: 16}
SUPPORTED = {Command.OPEN_RETURN_PATH, Command.PING, Command.SWITCHOVER_START}


@pytest.mark.parametrize("command", sorted(set(Command) - SUPPORTED))
def test_a_command_that_is_not_supported_is_named(command: Command) -> None:
    message = CommandMessage(command, bytes(SIZES.get(command, 0)))
    error = reading_error(BEGIN + encode_command(message))
    assert isinstance(error, UnsupportedStream)
    assert str(error) == (
        f"command {command.name} belongs to "
        f"{CAPABILITIES.get(command, 'capability ' + repr('postcopy-ram'))}, "
        f"which is not supported yet at offset {len(BEGIN) + 1:#x}"
    )


def test_a_ping_needs_the_return_path() -> None:
    error = reading_error(BEGIN + encode_command(ping(1)))
    assert str(error) == (
        "a PING before the return path is open: expected OPEN_RETURN_PATH first "
        f"at offset {len(BEGIN) + 1:#x}"
    )


def test_the_return_path_may_be_opened_again() -> None:
    load = LoadVM(parsers())
    load.receive_data(BEGIN + OPEN_RETURN_PATH * 2 + encode_command(ping(7)))
    received = Received()
    drain(load, received)
    assert received.events[1:] == [ReturnPathOpened(), ReturnPathOpened(), Pinged(7)]


@pytest.mark.parametrize("capability", ["x-ignore-shared", "mapped-ram"])
def test_a_capability_in_the_stream_is_not_supported(capability: str) -> None:
    configuration = Configuration("none", capabilities=(capability,))
    error = reading_error(encode_header() + encode_configuration(configuration) + b"\x08")
    assert isinstance(error, UnsupportedStream)
    assert f"capability '{capability}' is not supported yet" in str(error)


def test_an_unknown_capability_in_the_stream_is_refused() -> None:
    configuration = Configuration("none", capabilities=("multifd",))
    error = reading_error(encode_header() + encode_configuration(configuration) + b"\x08")
    assert not isinstance(error, UnsupportedStream)
    assert "expected mapped-ram or x-ignore-shared, got 'multifd'" in str(error)


def test_another_page_size_is_not_supported() -> None:
    configuration = Configuration("none", target_page_bits=16)
    error = reading_error(encode_header() + encode_configuration(configuration) + b"\x08")
    assert isinstance(error, UnsupportedStream)
    assert (error.expected, error.got) == ("12 bits", 16)
    same = Configuration("none", target_page_bits=12)
    load, received = LoadVM(parsers()), Received()
    load.receive_data(encode_header() + encode_configuration(same) + b"\x08")
    drain(load, received)
    assert received.events == [Configured(same)]


# Live sections


def test_an_unknown_live_section_is_not_supported() -> None:
    error = reading_error(BEGIN + start(SectionHeader(1, "dirty-bitmap", 0, 1), b""))
    assert isinstance(error, UnsupportedStream)
    assert str(error) == (
        "live section 'dirty-bitmap' is not supported: expected 'ram' or 'mine' "
        f"at offset {len(BEGIN) + 1:#x}"
    )


@pytest.mark.parametrize("version", [0, 3, 5])
def test_another_version_of_a_live_section_is_refused(version: int) -> None:
    error = reading_error(BEGIN + start(SectionHeader(1, "ram", 0, version), EMPTY_BODY))
    assert error.what == "live section 'ram'"
    assert (error.expected, error.got) == ("version 4", version)


@pytest.mark.parametrize(
    "header", [RAM_HEADER, SectionHeader(2, "ram", 1, 4), SectionHeader(1, "mine", 0, 1)]
)
def test_a_live_section_starts_once(header: SectionHeader) -> None:
    error = reading_error(BEGIN + START_RAM + start(header, EMPTY_BODY))
    assert str(error).startswith(
        f"live section '{header.idstr}' with id {header.section_id} starts twice"
    )


@pytest.mark.parametrize("section_type", [SectionType.PART, SectionType.END])
def test_a_section_that_has_not_started_is_refused(section_type: SectionType) -> None:
    data = BEGIN + START_RAM + START_LIVE
    error = reading_error(data + following(section_type, 3, EMPTY_BODY))
    assert str(error) == (
        "a part of a section that has not started, or has ended: expected section id 1 or 70, "
        f"got 3 at offset {len(data) + 1:#x}"
    )


def test_a_section_that_has_ended_is_refused() -> None:
    error = reading_error(BEGIN + START_RAM + START_LIVE + END_RAM * 2)
    assert (error.expected, error.got) == ("section id 70", 1)


@pytest.mark.parametrize(
    ("footer", "sentence"),
    [
        (b"\x02", "section footer of 'ram' is missing: expected 0x7e, got 0x02"),
        (encode_footer(2), "section footer of 'ram': expected id 1, got 2"),
    ],
)
def test_a_footer_that_is_wrong_is_refused(footer: bytes, sentence: str) -> None:
    error = reading_error(BEGIN + START_RAM + EMPTY_PART[:-5] + footer)
    assert sentence in str(error)


def test_where_the_start_has_no_footer_none_has() -> None:
    error = reading_error(BEGIN + START_RAM[:-5] + EMPTY_PART)
    assert (error.what, error.got) == ("a section out of order", "FOOTER")


class CountingParser:
    """A live section whose body is one byte for each step: 0 ends it, others say nothing."""

    idstr = "counting"
    version_id = 1

    def __init__(self) -> None:
        self.steps = 0

    def parse(self, section_type: SectionType, body: memoryview, offset: int) -> Parsed:
        if not body:
            raise TruncatedStream("the stream ends inside a step", offset=offset)
        self.steps += 1
        return Parsed(1, None, is_last=body[0] == 0)


@pytest.mark.parametrize("has_footers", [True, False])
def test_parts_that_repeat_and_say_nothing_are_skipped(has_footers: bool) -> None:
    parser = CountingParser()
    load = LoadVM([parser])
    header = SectionHeader(1, "counting", 0, 1)
    footer = encode_footer(1) if has_footers else b""
    part = encode_section_continuation(SectionType.PART, 1) + b"\x01\x02\x00" + footer
    load.receive_data(BEGIN + encode_section_start(SectionType.START, header) + b"\0" + footer)
    load.receive_data(part * 1000 + part[:4])
    drain(load, Received())
    assert load.section_count == 1 + 1000
    assert parser.steps == 1 + 3
    load.receive_data(part[4:])
    other = part.replace(b"\x01\x02\x00", b"\x02\x01\x00")
    load.receive_data(part + other + part * 2 + b"\x03")
    drain(load, Received())
    assert load.section_count == 1 + 1000 + 1 + 1 + 1 + 2
    assert parser.steps == 4 + 3 + 3 + 3


def test_empty_parts_of_ram_bring_no_event_each() -> None:
    load, received = LoadVM(parsers()), Received()
    load.receive_data(BEGIN + OPEN_RETURN_PATH + START_RAM)
    drain(load, received)
    before = len(received.events)
    flood = EMPTY_PART * 100_000
    for at in range(0, len(flood), 999_999):
        load.receive_data(flood[at : at + 999_999])
        assert load.next_event() is NEED_DATA
    assert load.section_count == 1 + 100_000
    load.receive_data(END_RAM)
    drain(load, received)
    ending, ended = received.events[before:]
    assert isinstance(ending, SectionEnding)
    assert ended == LiveSectionsEnded()
    assert load.section_count == 1 + 100_000 + 1


def test_parts_that_say_something_are_not_skipped() -> None:
    load, received = LoadVM(parsers()), Received()
    part = following(SectionType.PART, 70, encode_prefixed(b""))
    load.receive_data(BEGIN + START_LIVE + part * 50)
    drain(load, received)
    items = [event.item for event in received.events if isinstance(event, SectionItem)]
    assert items == [b""] * 51
    assert load.section_count == 51


def test_a_body_larger_than_the_buffer_is_read() -> None:
    load, received = LoadVM([PrefixedParser("mine")]), Received()
    body = bytes(range(256)) * (9 << 12)
    data = (
        BEGIN
        + start(LIVE_HEADER, encode_prefixed(body))
        + following(SectionType.END, 70, encode_prefixed(b""))
    )
    while data:
        size = len(load.buffer.writable())
        load.receive_data(data[:size])
        data = data[size:]
        drain(load, received)
    items = [event.item for event in received.events if isinstance(event, SectionItem)]
    assert items == [body, b""]


# Feeding


def test_more_than_the_buffer_takes_is_the_callers_mistake() -> None:
    load = LoadVM(parsers())
    size = len(load.buffer.writable())
    with pytest.raises(UsageError, match=f"{size + 1} bytes at once, expected at most {size}"):
        load.receive_data(bytes(size + 1))
    load.receive_data(memoryview(BEGIN))
    assert load.buffer.received_bytes == len(BEGIN)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("header", "CONFIGURATION, COMMAND, START"),
        ("iterate", "COMMAND, START, PART, END"),
        ("one ended", "END, FULL, EOF"),
    ],
)
def test_a_stream_that_stops_is_told_where(name: str, expected: str) -> None:
    data = Writer(name).data
    load = new_load()
    load.receive_data(data)
    drain(load, Received())
    assert str(load.stall()) == (
        f"the stream stops: expected {expected}, got nothing at offset {len(data):#x}"
    )


def test_a_stream_that_stops_in_its_tail_is_told_why() -> None:
    live = b"".join(live_sections())
    load = LoadVM(parsers())
    load.receive_data(live)
    drain(load, Received())
    assert load.stall().what == "the stream ends inside the device sections"
    load.receive_data(device_sections()[0] + EOF)
    drain(load, Received())
    assert isinstance(load.stall(), UnsupportedStream)
    assert "suppress-vmdesc" in str(load.stall())


def test_a_description_that_does_not_fit_is_told_at_the_end() -> None:
    error = reading_error(b"".join(live_sections()) + device_sections()[0] + end(EMPTY_MACHINE))
    assert error.what == "the VM description does not cover all device sections"


# Both ends, joined


def test_the_return_path_answers_the_stream() -> None:
    load, destination, source = LoadVM(parsers()), ReturnPathDestination(), ReturnPathSource()
    sent = b""
    load.receive_data(WHOLE)
    while (event := load.next_event()) is not NEED_DATA:
        match event:
            case ReturnPathOpened():
                destination.open()
                sent += destination.switchover_ack()
            case Pinged(value=value):
                sent += destination.pong(value)
            case StreamEnded():
                sent += destination.shut()
    source.buffer.writable()[: len(sent)] = sent
    source.buffer.commit(len(sent))
    received = []
    while (message := source.next_message()) is not NEED_DATA:
        received.append((message.type, message.value))
    assert received == [
        (ReturnPathMessageType.SWITCHOVER_ACK, 0),
        (ReturnPathMessageType.PONG, 1),
        (ReturnPathMessageType.SHUT, 0),
    ]
    assert source.state is ReturnPathState.SHUT


# Any bytes


def survive(data: bytes, size: int) -> None:
    """Reads anything at all: it is whole, or a StreamError that says where."""
    load = LoadVM([RAMParser(1 << 62), PrefixedParser("mine")])
    load.buffer = ReceiveBuffer(2 * max(size, len(data)))
    received = Received()
    try:
        for at in range(0, len(data), size):
            load.receive_data(data[at : at + size])
            drain(load, received)
        load.receive_end()
        drain(load, received)
    except StreamError as error:
        assert 0 <= error.offset <= len(data)
        if received.devices is not None:
            assert error.what == "bytes behind the end of the stream"
    else:
        assert load.is_whole
        assert received.devices is not None


def sections() -> Iterator[bytes]:
    yield from live_sections()
    yield device_sections()[0]
    yield end(device_sections()[1])
    yield from (START_RAM, START_LIVE, EMPTY_PART, END_RAM, OPEN_RETURN_PATH, EOF)
    yield end(EMPTY_MACHINE)


SIZES_OF_READS = st.sampled_from([1, 13, 1000, 1 << 20])


@stable(150)
@given(
    st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(BEGIN.__add__)), SIZES_OF_READS
)
def test_any_bytes_are_a_stream_or_a_stream_error(data: bytes, size: int) -> None:
    survive(data, size)


@stable(150)
@given(mutated(SMALL), SIZES_OF_READS)
def test_a_mutated_stream_is_a_stream_or_a_stream_error(data: bytes, size: int) -> None:
    survive(data, max(size, 13))


@stable(150)
@given(mutated(BEGIN + OPEN_RETURN_PATH + START_RAM + START_LIVE + EMPTY_PART), SIZES_OF_READS)
def test_a_mutated_beginning_is_a_stream_error(data: bytes, size: int) -> None:
    survive(data, size)


@stable(150)
@given(st.lists(st.sampled_from(list(sections())), max_size=12), st.booleans())
def test_sections_in_any_order_are_a_stream_or_a_stream_error(
    parts: list[bytes], has_header: bool
) -> None:
    survive(b"".join([BEGIN] * has_header + parts), 1 << 20)


HUGE = 1 << 60
HUGE_BLOCK = RAMEncoder().block_list([RAMBlock("pc.ram", HUGE)])
TAIL = BEGIN + START_RAM + END_RAM


@pytest.mark.parametrize(
    "data",
    [
        BEGIN + start(RAM_HEADER, HUGE_BLOCK + EMPTY_BODY) + EMPTY_PART,
        BEGIN
        + start(RAM_HEADER, HUGE_BLOCK + EMPTY_BODY)
        + following(
            SectionType.PART,
            1,
            b"".join(
                u64(HUGE - TARGET_PAGE_SIZE * (place + 1) | flags) + name + b"\0"
                for place, (flags, name) in enumerate(
                    [(0x02, b"\x06pc.ram")] + [(0x22, b"")] * 5000
                )
            )
            + EMPTY_BODY,
        ),
        encode_header() + b"\x07" + u32(0xFFFFFFFF) + bytes(100),
        BEGIN + b"\x08" + b"\x00\x06\xff\xff" + bytes(60_000),
        BEGIN + start(LIVE_HEADER, u32(16 << 20) + bytes(100)),
        TAIL + b"\x04" + u32(0) + b"\xff" * 100,
        TAIL + end(b'{"configuration": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        TAIL + end(b'{"configuration": ' + b"9" * 100_000 + b', "devices": []}'),
        TAIL
        + end(
            b'{"configuration": {}, "devices": [{"name": "a", "instance_id": 0, "fields": '
            b'[{"size": 4294967295, "array_len": 4294967295}]}]}'
        ),
        TAIL + b"\x00\x06\x00\xff\xff\xff" + b'{"configuration"' + bytes(100_000),
    ],
)
def test_a_hostile_stream_costs_little(data: bytes) -> None:
    load = LoadVM([RAMParser(1 << 62), PrefixedParser("mine")])
    with memory_limit(8_000_000), pytest.raises(StreamError):
        for at in range(0, len(data), 4096):
            load.receive_data(data[at : at + 4096])
            while load.next_event() is not NEED_DATA:
                pass
        load.receive_end()
        load.next_event()
