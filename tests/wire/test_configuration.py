"""The CONFIGURATION section and its three subsections."""

from itertools import product
from uuid import UUID

import pytest
from tests.decoding import OFFSET, check_decoder, decode_error

from switchover.errors import TruncatedStream
from switchover.model.configuration import Configuration
from switchover.wire.configuration import (
    MAX_CAPABILITIES,
    MAX_MACHINE_NAME,
    decode_configuration,
    encode_configuration,
)
from switchover.wire.cursor import Cursor, counted_string, u32

ID = UUID("11223344-5566-7788-99aa-bbccddeeff00")
SMALL = bytes.fromhex("00000004 6e6f6e65")
NEXT = b"\x08"
"""What stands behind a configuration: it ends where no subsection begins."""


def subsection(name: str, body: bytes, version: int = 1) -> bytes:
    return b"\x05" + counted_string(f"configuration/{name}") + u32(version) + body


PAGE_BITS = subsection("target-page-bits", u32(12))
CAPABILITIES = subsection("capabilities", u32(1) + counted_string("mapped-ram"))
UUID_BYTES = subsection("uuid", ID.bytes)


@pytest.mark.parametrize(
    ("data", "configuration"),
    [
        ("07 00000004 6e6f6e65", Configuration("none")),
        (
            "07 0000000b 70632d7133352d31302e30"
            "05 12 636f6e66696775726174696f6e2f75756964 00000001"
            "112233445566778899aabbccddeeff00",
            Configuration("pc-q35-10.0", uuid=ID),
        ),
        (
            "07 00000004 6e6f6e65"
            "05 1a 636f6e66696775726174696f6e2f6361706162696c6974696573 00000001"
            "00000001 0a 6d61707065642d72616d",
            Configuration("none", capabilities=("mapped-ram",)),
        ),
    ],
)
def test_configurations_are_those_that_qemu_writes(data: str, configuration: Configuration) -> None:
    raw = bytes.fromhex(data)
    assert encode_configuration(configuration) == raw
    check_decoder(decode_configuration, raw[1:], configuration, following=NEXT)


@pytest.mark.parametrize(
    ("page_bits", "capabilities", "uuid"),
    list(
        product(
            [None, 12], [(), ("x-ignore-shared",), ("mapped-ram", "x-ignore-shared")], [None, ID]
        )
    ),
)
def test_each_set_of_subsections_comes_back(
    page_bits: int | None, capabilities: tuple[str, ...], uuid: UUID | None
) -> None:
    configuration = Configuration("pc-q35-10.0", page_bits, capabilities, uuid)
    raw = encode_configuration(configuration)
    check_decoder(decode_configuration, raw[1:], configuration, following=NEXT)


def test_the_end_shows_in_the_next_byte_only() -> None:
    with pytest.raises(TruncatedStream):
        decode_configuration(Cursor(SMALL))


@pytest.mark.parametrize("size", [0, MAX_MACHINE_NAME + 1, 2**32 - 1])
def test_a_name_of_a_wrong_length_is_refused_by_its_length_alone(size: int) -> None:
    error = decode_error(decode_configuration, u32(size))
    assert str(error) == (
        "the machine type's name has a wrong length: expected 1 to 255, "
        f"got {size} at offset 0x1f40"
    )


def test_the_longest_name_is_read() -> None:
    configuration = Configuration("q" * MAX_MACHINE_NAME)
    raw = encode_configuration(configuration)
    check_decoder(decode_configuration, raw[1:], configuration, following=NEXT)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (UUID_BYTES + UUID_BYTES, "none"),
        (UUID_BYTES + CAPABILITIES, "none"),
        (CAPABILITIES + PAGE_BITS, "configuration/uuid"),
        (PAGE_BITS + PAGE_BITS, "configuration/capabilities or configuration/uuid"),
        (
            subsection("more", b""),
            "configuration/target-page-bits or configuration/capabilities or configuration/uuid",
        ),
    ],
)
def test_a_subsection_out_of_place_is_refused(data: bytes, expected: str) -> None:
    error = decode_error(decode_configuration, SMALL + data + NEXT)
    assert "a subsection of the configuration that does not belong there" in str(error)
    assert error.expected == expected


def test_a_subsection_of_another_version_is_refused() -> None:
    data = SMALL + subsection("uuid", ID.bytes, version=2) + NEXT
    error = decode_error(decode_configuration, data)
    assert str(error) == (
        "subsection 'configuration/uuid': expected version 1, got 2 "
        f"at offset {OFFSET + len(SMALL) + 20:#x}"
    )


def test_too_many_capabilities_are_refused_by_their_number_alone() -> None:
    names = tuple(f"x-{number}" for number in range(MAX_CAPABILITIES))
    most = encode_configuration(Configuration("none", capabilities=names))
    assert decode_configuration(Cursor(most[1:] + NEXT)).capabilities == names
    for count in (MAX_CAPABILITIES + 1, 2**32 - 1):
        error = decode_error(decode_configuration, SMALL + subsection("capabilities", u32(count)))
        assert (error.expected, error.got) == (f"at most {MAX_CAPABILITIES}", count)
