"""Writing a stream: the order, walked through the whole table, and the bytes."""

from collections.abc import Callable

import pytest
from tests.streams import RAM_HEADER, TIMER_HEADER

from switchover.errors import UsageError
from switchover.model.configuration import Configuration
from switchover.model.section import SectionHeader, SectionType
from switchover.protocol.grammar import MOVES, StreamState
from switchover.protocol.savevm import Buffers, SaveVM
from switchover.wire.command import Command, CommandMessage, ping

MACHINE = Configuration("none")
OTHER = SectionHeader(5, "mine", 0, 1)
THIRD = SectionHeader(6, "more", 0, 1)
EOS = bytes.fromhex("0000000000000010")

Call = Callable[[SaveVM], Buffers]


def at(state: str) -> SaveVM:
    """A stream in a state; `one ended` has ended one of its two live sections."""
    save = SaveVM()
    calls: dict[str, Call] = {
        "header": lambda save: save.header(None),
        "setup": lambda save: save.header(MACHINE),
        "first": lambda save: save.start_section(RAM_HEADER, [EOS]),
        "iterate": lambda save: save.start_section(OTHER, [EOS]),
        "one ended": lambda save: save.end_section(RAM_HEADER, [EOS]),
        "complete": lambda save: save.end_section(OTHER, [EOS]),
        "devices": lambda save: save.full_section(TIMER_HEADER, bytes(24)),
        "end": lambda save: save.end(b"{}"),
    }
    for name, call in calls.items():
        call(save)
        if name == state:
            return save
    raise KeyError(state)


CALLS: dict[SectionType, list[Call]] = {
    SectionType.CONFIGURATION: [lambda save: save.header(MACHINE)],
    SectionType.COMMAND: [lambda save: save.command(ping(1))],
    SectionType.START: [lambda save: save.start_section(THIRD, [])],
    SectionType.PART: [
        lambda save: save.part_section(RAM_HEADER, []),
        lambda save: save.part_section(OTHER, []),
    ],
    SectionType.END: [lambda save: save.end_section(OTHER, [])],
    SectionType.FULL: [
        lambda save: save.full_section(TIMER_HEADER, b""),
        lambda save: save.device_sections(b"\x04"),
    ],
    SectionType.EOF: [lambda save: save.end(b"{}")],
}
STATES = {
    "header": StreamState.HEADER,
    "setup": StreamState.SETUP,
    "iterate": StreamState.ITERATE,
    "one ended": StreamState.COMPLETE,
    "complete": StreamState.COMPLETE,
    "devices": StreamState.DEVICES,
    "end": StreamState.END,
}


def may_come(name: str, section_type: SectionType) -> bool:
    """What the table says, and that device sections wait for the last live one."""
    if name == "one ended":
        return section_type == SectionType.END
    if name == "complete" and section_type == SectionType.END:
        return False
    return section_type in MOVES[STATES[name]]


@pytest.mark.parametrize("section_type", CALLS)
@pytest.mark.parametrize("name", STATES)
def test_only_what_the_table_allows_is_written(name: str, section_type: SectionType) -> None:
    for call in CALLS[section_type]:
        save = at(name)
        state = STATES[name]
        assert save.state is state
        if may_come(name, section_type):
            written = b"".join(call(save))
            assert written.startswith(b"QEVM") or written[0] == section_type
            moved = MOVES[state][section_type]
            assert save.state is (StreamState.END if section_type == SectionType.EOF else moved)
        else:
            with pytest.raises(UsageError):
                call(save)
            assert save.state is state


def test_every_row_of_the_table_is_walked() -> None:
    walked = {
        (STATES[name], section_type)
        for name in STATES
        for section_type in CALLS
        if may_come(name, section_type)
    }
    rows = {(state, section_type) for state in MOVES for section_type in MOVES[state]}
    assert rows - walked == {(StreamState.DESCRIPTION, SectionType.VMDESCRIPTION)}


def test_what_is_refused_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        at("complete").command(ping(1))
    assert str(caught.value) == ("a COMMAND section cannot be written now, expected END, FULL, EOF")
    with pytest.raises(UsageError) as caught:
        at("one ended").end(b"{}")
    assert str(caught.value) == "a EOF section comes behind the END of every live section"


def test_a_live_section_starts_once() -> None:
    save = at("iterate")
    with pytest.raises(UsageError, match="section 'ram' starts twice"):
        save.start_section(RAM_HEADER, [])


@pytest.mark.parametrize("write", [SaveVM.part_section, SaveVM.end_section])
def test_a_live_section_starts_before_it_goes_on(
    write: Callable[[SaveVM, SectionHeader, Buffers], Buffers],
) -> None:
    save = at("iterate")
    with pytest.raises(UsageError, match="section 'more' has not started, or has ended"):
        write(save, THIRD, [])
    save.end_section(RAM_HEADER, [])
    with pytest.raises(UsageError, match="section 'ram' has not started, or has ended"):
        write(save, RAM_HEADER, [])


def test_a_stream_is_the_one_that_qemu_writes() -> None:
    save = SaveVM()
    header = SectionHeader(1, "ram", 0, 4)
    globalstate = SectionHeader(3, "globalstate", 0, 1)
    written = [
        save.header(MACHINE),
        save.command(CommandMessage(Command.OPEN_RETURN_PATH)),
        save.command(ping(1)),
        save.start_section(header, [bytes.fromhex("0000000000000004"), EOS]),
        save.command(CommandMessage(Command.SWITCHOVER_START)),
        save.end_section(header, [EOS]),
        save.full_section(TIMER_HEADER, bytes(24)),
        save.full_section(globalstate, bytes(104)),
        save.end(bytes(0x337)),
    ]
    assert b"".join(b"".join(buffers) for buffers in written) == bytes.fromhex(
        "5145564d 00000003 07 00000004 6e6f6e65"
        "08 0001 0000"
        "08 0002 0004 00000001"
        "01 00000001 03 72616d 00000000 00000004 0000000000000004 0000000000000010 7e 00000001"
        "08 000b 0000"
        "03 00000001 0000000000000010 7e 00000001"
        "04 00000000 05 74696d6572 00000000 00000002" + "00" * 24 + "7e 00000000"
        "04 00000003 0b 676c6f62616c7374617465 00000000 00000001" + "00" * 104 + "7e 00000003"
        "00 06 00000337" + "00" * 0x337
    )


def test_old_machines_have_neither_configuration_nor_footers() -> None:
    save = SaveVM(has_footers=False)
    written = [
        save.header(None),
        save.start_section(RAM_HEADER, [EOS]),
        save.part_section(RAM_HEADER, [EOS]),
        save.end_section(RAM_HEADER, [EOS]),
        save.full_section(TIMER_HEADER, b"body"),
        save.end(b"{}"),
    ]
    assert b"".join(b"".join(buffers) for buffers in written) == bytes.fromhex(
        "5145564d 00000003"
        "01 00000001 03 72616d 00000000 00000004 0000000000000010"
        "02 00000001 0000000000000010"
        "03 00000001 0000000000000010"
        "04 00000000 05 74696d6572 00000000 00000002 626f6479"
        "00 06 00000002 7b7d"
    )


def test_bodies_are_handed_on_without_a_copy() -> None:
    page = memoryview(bytearray(4096))
    save = at("iterate")
    assert any(buffer is page for buffer in save.part_section(RAM_HEADER, [page, EOS]))


@pytest.mark.parametrize("has_footers", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_section_in_pieces_is_the_same_section(has_footers: bool, count: int) -> None:
    whole, pieces = (SaveVM(has_footers=has_footers) for _ in range(2))
    for save in (whole, pieces):
        save.header(None)
        save.start_section(RAM_HEADER, [])
    bodies: list[Buffers] = [[b"%d" % number, b"!"] for number in range(count)]
    written = list(pieces.end_section_pieces(RAM_HEADER, bodies))
    expected = whole.end_section(RAM_HEADER, [part for body in bodies for part in body])
    assert b"".join(part for buffers in written for part in buffers) == b"".join(expected)
    assert whole.state == pieces.state == StreamState.COMPLETE
    assert all(written)
