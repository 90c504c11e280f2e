"""Section types by their bytes, and the values that describe a section."""

import dataclasses

import pytest

from switchover.model.section import LiveParser, Parsed, SectionHeader, SectionType
from switchover.wire.prefixed import PrefixedParser


@pytest.mark.parametrize(
    ("byte", "name"),
    [
        (0x00, "EOF"),
        (0x01, "START"),
        (0x02, "PART"),
        (0x03, "END"),
        (0x04, "FULL"),
        (0x05, "SUBSECTION"),
        (0x06, "VMDESCRIPTION"),
        (0x07, "CONFIGURATION"),
        (0x08, "COMMAND"),
        (0x7E, "FOOTER"),
    ],
)
def test_section_types_are_those_of_qemu(byte: int, name: str) -> None:
    assert SectionType(byte).name == name


def test_no_other_byte_is_a_section_type() -> None:
    assert len(SectionType) == 10


def test_a_header_is_a_value() -> None:
    header = SectionHeader(1, "ram", 0, 4)
    assert header == SectionHeader(section_id=1, idstr="ram", instance_id=0, version_id=4)
    assert len({header, SectionHeader(1, "ram", 0, 4)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        header.version_id = 5  # type: ignore[misc]


def test_a_parser_is_whatever_has_its_shape() -> None:
    parser: LiveParser = PrefixedParser("mine", version_id=3)
    assert (parser.idstr, parser.version_id) == ("mine", 3)
    body = memoryview(b"\0\0\0\1x")
    assert parser.parse(SectionType.PART, body, 0) == Parsed(5, b"x", is_last=True)
