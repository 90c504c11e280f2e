"""The serial port: lines and the time at which they ended."""

import pytest

from switchover.guest.serial import Serial, SerialLine


def write(serial: Serial, text: bytes, now: int = 0) -> None:
    """Prints a byte a nanosecond."""
    for now_of_byte, byte in enumerate(text, now):
        serial.write(byte, now_of_byte)


def test_a_line_is_there_when_it_has_ended() -> None:
    serial = Serial()
    write(serial, b"tick 1")
    assert serial.lines == []
    serial.write(ord("\n"), 77)
    assert serial.lines == [SerialLine(77, "tick 1")]


@pytest.mark.parametrize(
    ("printed", "lines"),
    [
        (b"", []),
        (b"a", []),
        (b"\n", [(10, "")]),
        (b"a\nb\nc", [(11, "a"), (13, "b")]),
        (b"\n\na\n", [(10, ""), (11, ""), (13, "a")]),
        (b"\x00\r\xff\n", [(13, "\x00\r\xff")]),
        (bytes(range(11, 256)) + b"\n", [(255, bytes(range(11, 256)).decode("latin-1"))]),
    ],
)
def test_lines_are_those_that_were_printed(printed: bytes, lines: list[tuple[int, str]]) -> None:
    serial = Serial()
    write(serial, printed, 10)
    assert serial.lines == [SerialLine(now, text) for now, text in lines]


def test_its_state_is_how_much_was_ever_printed() -> None:
    first, second = Serial(), Serial()
    assert first.save() == {"written_bytes": 0}
    write(first, b"tick 1\ntick 2\n")
    second.load(first.save())
    write(second, b"tick 3\n")
    assert second.save() == {"written_bytes": 21}
    assert [line.text for line in second.lines] == ["tick 3"]
