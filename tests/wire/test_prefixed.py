"""Bodies that say their own length."""

import pytest
from tests.decoding import check_decoder, decode_error, parse_step

from switchover.model.section import Parsed, SectionType
from switchover.wire.cursor import u32
from switchover.wire.prefixed import MAX_PREFIXED_BODY, PrefixedParser, encode_prefixed


@pytest.mark.parametrize("section_type", [SectionType.START, SectionType.PART, SectionType.END])
@pytest.mark.parametrize("data", [b"", b"x", b"\x7e\0\0\0\1", bytes(300)])
def test_a_body_comes_back(section_type: SectionType, data: bytes) -> None:
    parser = PrefixedParser("mine")
    body = encode_prefixed(data)
    check_decoder(
        lambda cursor: parse_step(parser, section_type, cursor),
        body,
        Parsed(len(body), data, is_last=True),
    )


def test_the_layout_is_a_length_and_its_bytes() -> None:
    assert encode_prefixed(b"abc") == b"\0\0\0\x03abc"


def test_a_body_outlives_the_memory_it_came_in() -> None:
    memory = bytearray(encode_prefixed(b"abc"))
    parsed = PrefixedParser("mine").parse(SectionType.PART, memoryview(memory), 0)
    memory[:] = bytes(len(memory))
    assert parsed.item == b"abc"


def test_a_parser_is_named_by_its_owner() -> None:
    parser = PrefixedParser("mine", version_id=7)
    assert (parser.idstr, parser.version_id) == ("mine", 7)


@pytest.mark.parametrize(
    ("parser", "limit"),
    [(PrefixedParser("mine"), MAX_PREFIXED_BODY), (PrefixedParser("mine", max_bytes=8), 8)],
)
def test_a_body_that_is_too_long_is_refused_by_its_length_alone(
    parser: PrefixedParser, limit: int
) -> None:
    for size in (limit + 1, 2**32 - 1):
        error = decode_error(lambda cursor: parse_step(parser, SectionType.PART, cursor), u32(size))
        assert str(error) == (
            f"section 'mine' is too long: expected at most {limit} bytes, got {size} "
            "at offset 0x1f40"
        )


def test_the_longest_body_is_read() -> None:
    longest = memoryview(encode_prefixed(bytes(MAX_PREFIXED_BODY)))
    parsed = PrefixedParser("mine").parse(SectionType.PART, longest, 0)
    assert parsed == Parsed(4 + MAX_PREFIXED_BODY, bytes(MAX_PREFIXED_BODY), is_last=True)
