"""The frame of a stream, by bytes that a QEMU 10.0 wrote."""

import pytest
from tests.decoding import OFFSET, check_decoder, decode_error

from switchover.errors import UnsupportedStream
from switchover.model.section import SectionHeader, SectionType
from switchover.wire.cursor import Cursor
from switchover.wire.stream import (
    EOF,
    FOOTER_SIZE,
    decode_footer,
    decode_header,
    decode_section_header,
    decode_section_id,
    decode_section_type,
    encode_footer,
    encode_header,
    encode_section_continuation,
    encode_section_start,
)

HEADER = bytes.fromhex("5145564d 00000003")
RAM = SectionHeader(1, "ram", 0, 4)
RAM_BYTES = bytes.fromhex("00000001 03 72616d 00000000 00000004")
AHCI = SectionHeader(31, "0000:00:1f.2/ich9_ahci", 0xFFFFFFFF, 1)


def test_every_stream_begins_alike() -> None:
    assert encode_header() == HEADER
    check_decoder(decode_header, HEADER, None)


@pytest.mark.parametrize(
    ("data", "sentence", "offset"),
    [
        (
            "00000000 00000003",
            "not a migration stream: expected magic 0x5145564d, got 0x00000000",
            0,
        ),
        (
            "4d564551 00000003",
            "not a migration stream: expected magic 0x5145564d, got 0x4d564551",
            0,
        ),
        ("5145564d 00000002", "a migration stream of the obsolete version: expected 3, got 2", 4),
        ("5145564d 00000004", "a migration stream of an unknown version: expected 3, got 4", 4),
    ],
)
def test_another_beginning_is_refused(data: str, sentence: str, offset: int) -> None:
    error = decode_error(decode_header, bytes.fromhex(data))
    assert str(error) == f"{sentence} at offset {OFFSET + offset:#x}"


def test_a_multifd_channel_is_told_by_its_mark() -> None:
    error = decode_error(decode_header, bytes.fromhex("11223344 00000001"))
    assert isinstance(error, UnsupportedStream)
    assert "capability 'multifd'" in str(error)


@pytest.mark.parametrize("section_type", SectionType)
def test_a_section_type_is_one_byte(section_type: SectionType) -> None:
    check_decoder(decode_section_type, bytes((section_type,)), section_type)


def test_any_other_byte_opens_no_section() -> None:
    for byte in set(range(256)) - set(SectionType):
        error = decode_error(decode_section_type, bytes((byte,)))
        assert str(error) == (
            f"unknown section type: expected a section, a command or the end, got {byte:#04x} "
            "at offset 0x1f40"
        )


def test_the_end_mark_is_a_section_type() -> None:
    check_decoder(decode_section_type, EOF, SectionType.EOF)


@pytest.mark.parametrize("section_type", [SectionType.START, SectionType.FULL])
def test_a_section_starts_with_its_header(section_type: SectionType) -> None:
    assert encode_section_start(section_type, RAM) == bytes((section_type,)) + RAM_BYTES
    check_decoder(decode_section_header, RAM_BYTES, RAM)
    check_decoder(decode_section_header, encode_section_start(section_type, AHCI)[1:], AHCI)


@pytest.mark.parametrize("section_type", [SectionType.PART, SectionType.END])
def test_a_section_goes_on_with_its_id(section_type: SectionType) -> None:
    data = encode_section_continuation(section_type, 0x01020304)
    assert data == bytes((section_type, 1, 2, 3, 4))
    check_decoder(decode_section_id, data[1:], 0x01020304)


def test_a_section_ends_with_its_footer() -> None:
    data = bytes.fromhex("7e 00000001")
    assert encode_footer(1) == data
    assert len(data) == FOOTER_SIZE
    check_decoder(lambda cursor: decode_footer(cursor, RAM), data, None)


@pytest.mark.parametrize(
    ("data", "sentence", "offset"),
    [
        ("02 00000001", "section footer of 'ram' is missing: expected 0x7e, got 0x02", 0),
        ("00 00000001", "section footer of 'ram' is missing: expected 0x7e, got 0x00", 0),
        ("7e 00000002", "section footer of 'ram': expected id 1, got 2", 1),
    ],
)
def test_another_footer_is_refused(data: str, sentence: str, offset: int) -> None:
    def decode(cursor: Cursor) -> None:
        decode_footer(cursor, RAM)

    error = decode_error(decode, bytes.fromhex(data))
    assert str(error) == f"{sentence} at offset {OFFSET + offset:#x}"
