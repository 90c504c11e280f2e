"""The body of the RAM section: records to runs of pages and back."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.decoding import OFFSET, check_decoder, decode_error, parse_step
from tests.fuzzing import memory_limit, stable

from switchover.errors import StreamError, TruncatedStream, UnsupportedStream
from switchover.model.ramblock import (
    TARGET_PAGE_SIZE,
    PageIndices,
    PageRun,
    RAMBlock,
    RAMBlocksListed,
    ZeroRun,
)
from switchover.model.section import Parsed, SectionType
from switchover.wire.cursor import Cursor, counted_string, u64
from switchover.wire.ram import (
    EMPTY_BODY,
    MAX_BLOCKS,
    MAX_RAM_BYTES,
    MAX_RUN,
    PageFlag,
    RAMEncoder,
    RAMParser,
)

START, PART, END = SectionType.START, SectionType.PART, SectionType.END
RAM = RAMBlock("pc.ram", 0x1000000)
BIOS = RAMBlock("pc.bios", 4 * TARGET_PAGE_SIZE)
BLOCKS = (RAM, BIOS)
LIST = RAMEncoder().block_list(BLOCKS)
ZERO, PAGE, CONTINUE = PageFlag.ZERO, PageFlag.PAGE, PageFlag.CONTINUE
FILL = b"\0"

Run = PageRun | ZeroRun
Page = tuple[str, int, bytes | None]
"""A page by its block and number, with its content; None for a zero page."""


def parse_body(parser: RAMParser, section_type: SectionType, body: bytes) -> Iterator[object]:
    """The items of a whole body."""
    position = 0
    while True:
        parsed = parser.parse(section_type, memoryview(body)[position:], OFFSET + position)
        position += parsed.size
        if parsed.item is not None:
            yield parsed.item
        if parsed.is_last:
            assert position == len(body)
            return


def listed_parser(blocks: Sequence[RAMBlock] = BLOCKS, current: bool = False) -> RAMParser:
    """A parser that has the block list; and `pc.ram` as the current block if asked to."""
    parser = RAMParser()
    body = RAMEncoder().block_list(blocks) + EMPTY_BODY
    assert list(parse_body(parser, START, body)) == [RAMBlocksListed(tuple(blocks))]
    if current:
        body = u64(ZERO) + counted_string("pc.ram") + FILL + EMPTY_BODY
        assert len(list(parse_body(parser, PART, body))) == 1
    return parser


def flatten(items: Sequence[object]) -> list[Page]:
    """Runs page by page."""
    pages: list[Page] = []
    for item in items:
        assert isinstance(item, PageRun | ZeroRun)
        contents = [row.tobytes() for row in item.pages] if isinstance(item, PageRun) else None
        pages += [
            (item.block.idstr, index, None if contents is None else contents[place])
            for place, index in enumerate(numbers(item.indices))
        ]
    return pages


def numbers(indices: PageIndices) -> list[int]:
    if isinstance(indices, slice):
        assert indices.step is None
        return list(range(indices.start, indices.stop))
    return [int(index) for index in indices]


def content(seed: int) -> bytes:
    return bytes((seed + 1,)) * TARGET_PAGE_SIZE


def page_run(block: RAMBlock, indices: Sequence[int]) -> PageRun:
    pages = np.frombuffer(b"".join(map(content, range(len(indices)))), np.uint8)
    return PageRun(block, np.array(indices, np.int64), pages.reshape(-1, TARGET_PAGE_SIZE))


def page_run_error(data: bytes, section_type: SectionType = PART) -> StreamError:
    """What is wrong with a record behind a zero page of `pc.ram`."""
    return decode_error(
        lambda cursor: parse_step(listed_parser(current=True), section_type, cursor), data
    )


# The block list


@pytest.mark.parametrize(
    ("data", "blocks"),
    [
        ("0000000000000004", ()),
        ("0000000001000004 03 72616d 0000000001000000", (RAMBlock("ram", 0x1000000),)),
        (
            "0000000001020004 06 70632e72616d 0000000001000000"
            "14 2f726f6d406574632f616370692f7461626c6573 0000000000020000",
            (RAM, RAMBlock("/rom@etc/acpi/tables", 0x20000)),
        ),
    ],
)
def test_block_lists_are_those_that_qemu_writes(data: str, blocks: tuple[RAMBlock, ...]) -> None:
    body = bytes.fromhex(data)
    assert RAMEncoder().block_list(blocks) == body
    assert list(parse_body(RAMParser(), START, body + EMPTY_BODY)) == [RAMBlocksListed(blocks)]


def test_a_block_list_comes_in_steps() -> None:
    first, last = 8, 8 + 1 + len("pc.ram") + 8
    steps = [
        (LIST[:first], Parsed(first, None, is_last=False)),
        (LIST[first:last], Parsed(last - first, None, is_last=False)),
        (LIST[last:], Parsed(len(LIST) - last, RAMBlocksListed(BLOCKS), is_last=False)),
        (EMPTY_BODY, Parsed(8, None, is_last=True)),
    ]
    for count, (data, parsed) in enumerate(steps):

        def decode(cursor: Cursor, before: int = count) -> Parsed:
            parser = RAMParser()
            for earlier, _ in steps[:before]:
                parser.parse(START, memoryview(earlier), 0)
            return parse_step(parser, START, cursor)

        check_decoder(decode, data, parsed)


def test_a_start_without_a_block_list_is_refused() -> None:
    error = decode_error(lambda cursor: parse_step(RAMParser(), START, cursor), EMPTY_BODY)
    assert str(error) == "the RAM section starts without a block list at offset 0x1f40"


@pytest.mark.parametrize("section_type", [START, PART, END])
def test_a_second_block_list_is_refused(section_type: SectionType) -> None:
    error = decode_error(lambda cursor: parse_step(listed_parser(), section_type, cursor), LIST)
    assert str(error) == "a second list of RAM blocks at offset 0x1f40"


@pytest.mark.parametrize("section_type", [PART, END])
def test_a_block_list_behind_the_start_is_refused(section_type: SectionType) -> None:
    error = decode_error(lambda cursor: parse_step(RAMParser(), section_type, cursor), LIST)
    assert "a second list of RAM blocks" in str(error)


@pytest.mark.parametrize(
    ("parser", "limit"),
    [(RAMParser(), MAX_RAM_BYTES), (RAMParser(16 << 20), 16 << 20)],
)
def test_more_ram_than_is_allowed_is_refused_by_its_number_alone(
    parser: RAMParser, limit: int
) -> None:
    for total in (limit + TARGET_PAGE_SIZE, 1 << 60):
        error = decode_error(
            lambda cursor: parse_step(parser, START, cursor), u64(total | PageFlag.MEM_SIZE)
        )
        assert (error.expected, error.got) == (f"at most {limit} bytes", total)


def test_as_much_ram_as_is_allowed_is_taken() -> None:
    block = RAMBlock("pc.ram", 16 << 20)
    body = RAMEncoder().block_list([block]) + EMPTY_BODY
    items = list(parse_body(RAMParser(16 << 20), START, body))
    assert items == [RAMBlocksListed((block,))]


def block_list_error(total: int, *entries: tuple[str, int]) -> StreamError:
    body = u64(total | PageFlag.MEM_SIZE)
    body += b"".join(counted_string(name) + u64(length) for name, length in entries)
    with pytest.raises(StreamError) as caught:
        list(parse_body(RAMParser(), START, body + EMPTY_BODY))
    return caught.value


@pytest.mark.parametrize("length", [0, 1, 4095, 4097, 0x3000, 1 << 63])
def test_a_block_of_a_wrong_length_is_refused(length: int) -> None:
    error = block_list_error(0x2000, ("a", length))
    assert str(error) == (
        "RAM block 'a' has a wrong length: expected a multiple of 4096, at most 8192, "
        f"got {length} at offset {OFFSET + 10:#x}"
    )


def test_a_block_must_fit_into_what_is_left_of_the_total() -> None:
    error = block_list_error(0x3000, ("a", 0x2000), ("b", 0x2000))
    assert (error.expected, error.got) == ("a multiple of 4096, at most 4096", 0x2000)


def test_a_block_that_is_listed_twice_is_refused() -> None:
    error = block_list_error(0x2000, ("a", 0x1000), ("a", 0x1000))
    assert str(error) == f"RAM block 'a' is listed twice at offset {OFFSET + 18:#x}"


def test_a_block_without_a_printable_name_is_refused() -> None:
    with pytest.raises(StreamError, match="not printable"):
        list(parse_body(RAMParser(), START, u64(0x1004) + b"\x01\n" + u64(0x1000)))


def test_too_many_blocks_are_refused() -> None:
    names = [(f"block{number}", 0x1000) for number in range(MAX_BLOCKS + 1)]
    error = block_list_error(0x1000 * (MAX_BLOCKS + 1), *names)
    assert (error.what, error.expected) == ("the source lists too many RAM blocks", MAX_BLOCKS)
    most = [RAMBlock(name, length) for name, length in names[:-1]]
    body = RAMEncoder().block_list(most) + EMPTY_BODY
    assert list(parse_body(RAMParser(), START, body)) == [RAMBlocksListed(tuple(most))]


def test_a_huge_block_costs_its_name() -> None:
    huge = RAMBlock("pc.ram", 1 << 60)
    parser = RAMParser(1 << 62)
    body = RAMEncoder().block_list([huge]) + EMPTY_BODY
    with memory_limit(50_000):
        assert list(parse_body(parser, START, body)) == [RAMBlocksListed((huge,))]
        record = u64((1 << 60) - 4096 | ZERO) + counted_string("pc.ram") + FILL
        (run,) = parse_body(parser, PART, record + EMPTY_BODY)
    assert flatten([run]) == [("pc.ram", (1 << 48) - 1, None)]


# Pages


def test_records_are_those_that_qemu_writes() -> None:
    block = RAMBlock("pc.ram", 0x80000000)
    named = bytes.fromhex("0000000070000002 06 70632e72616d 00")
    continuing = bytes.fromhex("0000000070001022 00")
    parser = listed_parser([block])
    items = list(parse_body(parser, PART, named + continuing + EMPTY_BODY))
    assert flatten(items) == [("pc.ram", 0x70000, None), ("pc.ram", 0x70001, None)]
    encoder = RAMEncoder()
    written = encoder.zeros(ZeroRun(block, slice(0x70000, 0x70002)))
    assert b"".join(written) == named + continuing


@pytest.mark.parametrize("kind", [ZERO, PAGE])
def test_a_named_record_is_one_step(kind: PageFlag) -> None:
    payload = content(6) if kind is PAGE else FILL

    parser = listed_parser()

    def decode(cursor: Cursor) -> list[Page]:
        return flatten([parse_step(parser, PART, cursor).item])

    page = ("pc.bios", 2, payload if kind is PAGE else None)
    check_decoder(decode, u64(0x2000 | kind) + counted_string("pc.bios") + payload, [page])


@pytest.mark.parametrize("kind", [ZERO, PAGE])
def test_a_continuing_record_is_one_step(kind: PageFlag) -> None:
    payload = content(6) if kind is PAGE else FILL

    parser = listed_parser(current=True)

    def decode(cursor: Cursor) -> list[Page]:
        return flatten([parse_step(parser, PART, cursor).item])

    page = ("pc.ram", 2, payload if kind is PAGE else None)
    check_decoder(decode, u64(0x2000 | kind | CONTINUE) + payload, [page])


@pytest.mark.parametrize("section_type", [START, PART, END])
def test_an_empty_body_is_one_step(section_type: SectionType) -> None:
    check_decoder(
        lambda cursor: parse_step(listed_parser(), section_type, cursor),
        EMPTY_BODY,
        Parsed(8, None, is_last=True),
    )


def test_pages_are_handed_on_without_a_copy() -> None:
    memory = bytearray(u64(0x2000 | PAGE | CONTINUE) + content(0))
    run = listed_parser(current=True).parse(PART, memoryview(memory), 0).item
    assert isinstance(run, PageRun)
    memory[-1] = 0xAB
    assert run.pages[0, -1] == 0xAB


@pytest.mark.parametrize(
    ("indices", "is_slice"),
    [
        ([7], True),
        ([0, 1, 2, 3], True),
        ([4095], True),
        ([1, 2, 4], False),
        ([1, 3, 3], False),
        ([3, 2, 1], False),
        ([5, 5], False),
        ([2, 4, 3, 5], False),
    ],
)
def test_consecutive_pages_are_a_slice(indices: list[int], is_slice: bool) -> None:
    body = b"".join(u64(index << 12 | ZERO | CONTINUE) + FILL for index in indices)
    (run,) = parse_body(listed_parser(current=True), PART, body + EMPTY_BODY)
    assert isinstance(run, ZeroRun)
    assert isinstance(run.indices, slice) is is_slice
    assert numbers(run.indices) == indices


@pytest.mark.parametrize("kind", [ZERO, PAGE])
@pytest.mark.parametrize(
    ("count", "lengths"),
    [
        (2, [2]),
        (MAX_RUN - 1, [MAX_RUN - 1]),
        (MAX_RUN, [MAX_RUN]),
        (MAX_RUN + 1, [MAX_RUN, 1]),
        (2 * MAX_RUN + 2, [MAX_RUN, MAX_RUN, 2]),
    ],
)
def test_a_run_has_a_limit(kind: PageFlag, count: int, lengths: list[int]) -> None:
    payload = FILL if kind is ZERO else bytes(TARGET_PAGE_SIZE)
    body = b"".join(u64(index << 12 | kind | CONTINUE) + payload for index in range(count))
    runs = list(parse_body(listed_parser(current=True), PART, body + EMPTY_BODY))
    assert [len(run) for run in runs if isinstance(run, PageRun | ZeroRun)] == lengths
    assert [index for _, index, _ in flatten(runs)] == list(range(count))


NAMED_ZERO = u64(0x1000 | ZERO) + counted_string("pc.bios") + FILL
NAMED_PAGE = u64(0x1000 | PAGE) + counted_string("pc.bios") + content(7)
NEXT_ZERO = u64(0x2000 | ZERO | CONTINUE) + FILL
NEXT_PAGE = u64(0x2000 | PAGE | CONTINUE) + content(8)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (first, second)
        for first in (NEXT_ZERO, NEXT_ZERO * 3, NEXT_PAGE, NEXT_PAGE * 3)
        for second in (NAMED_ZERO, NAMED_PAGE, NEXT_ZERO, NEXT_PAGE, NEXT_ZERO * 2 + NEXT_PAGE)
    ],
)
def test_a_run_ends_where_other_records_begin(first: bytes, second: bytes) -> None:
    whole = list(parse_body(listed_parser(current=True), PART, first + second + EMPTY_BODY))
    pages = flatten(whole)
    parser = listed_parser(current=True)
    items = [
        item for body in (first, second) for item in parse_body(parser, PART, body + EMPTY_BODY)
    ]
    assert pages == flatten(items)
    assert {type(run) for run in whole} == {
        ZeroRun if content is None else PageRun for _, _, content in pages
    }


def test_the_current_block_outlives_a_section() -> None:
    parser = listed_parser()
    list(parse_body(parser, PART, NAMED_ZERO + EMPTY_BODY))
    list(parse_body(parser, PART, EMPTY_BODY))
    items = list(parse_body(parser, END, NEXT_ZERO + EMPTY_BODY))
    assert flatten(items) == [("pc.bios", 2, None)]


def test_pages_may_stand_in_the_start_section() -> None:
    items = list(parse_body(RAMParser(), START, LIST + NAMED_ZERO + EMPTY_BODY))
    assert items[0] == RAMBlocksListed(BLOCKS)
    assert flatten(items[1:]) == [("pc.bios", 1, None)]


def test_every_beginning_of_a_body_gives_the_same_pages_in_the_end() -> None:
    tail = NEXT_ZERO * 5 + NEXT_PAGE * 2 + NAMED_ZERO + NEXT_PAGE + NEXT_ZERO + EMPTY_BODY
    whole = list(parse_body(RAMParser(), START, LIST + NAMED_PAGE + tail))
    body = memoryview(LIST + NAMED_PAGE + tail)
    parser, items, position = RAMParser(), [], 0
    for end in range(len(body) + 1):
        while True:
            try:
                parsed = parser.parse(START, body[position:end], position)
            except TruncatedStream:
                break
            position += parsed.size
            if parsed.item is not None:
                items.append(parsed.item)
            if parsed.is_last:
                break
    assert position == len(body)
    assert items[0] == whole[0]
    assert flatten(items[1:]) == flatten(whole[1:])


# Records that are wrong


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        (PageFlag.XBZRLE, "xbzrle"),
        (PageFlag.HOOK, "RDMA"),
        (PageFlag.COMPRESS_PAGE, "compress"),
        (PageFlag.MULTIFD_FLUSH, "multifd"),
    ],
)
@pytest.mark.parametrize("also", [0, CONTINUE])
def test_what_is_not_supported_is_refused_by_name(flag: PageFlag, also: int, name: str) -> None:
    error = page_run_error(u64(0x1000 | flag | also))
    assert isinstance(error, UnsupportedStream)
    assert name in str(error)


def test_any_other_flags_mean_nothing() -> None:
    known = {ZERO, PAGE, PageFlag.MEM_SIZE, PageFlag.EOS, *_not_supported()}
    unknown = set(range(0x1000)) - {flag | also for flag in known for also in (0, CONTINUE)}
    assert len(unknown) > 4000
    parser = listed_parser(current=True)
    for flags in unknown:
        with pytest.raises(StreamError, match="flags that mean nothing") as caught:
            parser.parse(PART, memoryview(u64(0x1000 | flags)), 0)
        assert caught.value.got == f"{0x1000 | flags:#x}"


def _not_supported() -> set[PageFlag]:
    return {flag for flag in PageFlag if flag > CONTINUE}


@pytest.mark.parametrize(
    "word",
    [
        PageFlag.EOS | CONTINUE,
        PageFlag.EOS | 0x1000,
        PageFlag.MEM_SIZE | CONTINUE,
    ],
)
def test_the_end_and_the_list_take_no_other_bits(word: int) -> None:
    error = page_run_error(u64(word))
    assert "flags that mean nothing" in str(error)
    assert error.got == f"{word:#x}"


@pytest.mark.parametrize("record", [NEXT_ZERO, NEXT_PAGE])
def test_a_page_that_continues_nothing_is_refused(record: bytes) -> None:
    error = decode_error(lambda cursor: parse_step(listed_parser(), PART, cursor), record)
    assert str(error) == "a page that continues no RAM block at offset 0x1f40"


@pytest.mark.parametrize(
    ("parser", "expected"), [(listed_parser(), "pc.ram, pc.bios"), (RAMParser(), "none")]
)
def test_a_page_of_an_unknown_block_is_refused(parser: RAMParser, expected: str) -> None:
    record = u64(ZERO) + counted_string("pc.rom")
    error = decode_error(lambda cursor: parse_step(parser, PART, cursor), record)
    assert str(error) == (
        f"a page of an unknown RAM block: expected {expected}, got 'pc.rom' "
        f"at offset {OFFSET + 8:#x}"
    )


@pytest.mark.parametrize("address", [0x4000, 1 << 52, (1 << 64) - 0x1000])
@pytest.mark.parametrize("kind", [ZERO, PAGE])
def test_a_page_outside_of_its_block_is_refused(kind: PageFlag, address: int) -> None:
    payload = FILL if kind is ZERO else content(1)
    record = u64(address | kind) + counted_string("pc.bios") + payload
    error = page_run_error(record)
    assert str(error) == (
        "a page outside of RAM block 'pc.bios': expected an offset below 0x4000, "
        f"got {address:#x} at offset 0x1f40"
    )


@pytest.mark.parametrize(("kind", "stride"), [(ZERO, 9), (PAGE, 4104)])
def test_a_page_outside_of_its_block_is_found_in_a_run(kind: PageFlag, stride: int) -> None:
    payload = FILL if kind is ZERO else content(1)
    numbers = (0, 4095, 4096, 0)
    body = b"".join(u64(number << 12 | kind | CONTINUE) + payload for number in numbers)
    error = page_run_error(body)
    assert (error.offset, error.got) == (OFFSET + 2 * stride, "0x1000000")


def test_a_zero_page_with_something_in_it_is_refused() -> None:
    error = page_run_error(u64(ZERO) + counted_string("pc.ram") + b"\x01")
    assert str(error) == (
        "a zero page of RAM block 'pc.ram' with something in it: "
        "expected fill byte 0, got 1 at offset 0x1f40"
    )
    record = u64(ZERO | CONTINUE)
    error = page_run_error(record + FILL + record + FILL + record + b"\xff" + record + b"\x01")
    assert (error.offset, error.got) == (OFFSET + 18, 255)


# Writing


def encode(encoder: RAMEncoder, run: Run) -> bytes:
    buffers = encoder.pages(run) if isinstance(run, PageRun) else encoder.zeros(run)
    return b"".join(buffers)


def test_the_encoder_names_a_block_once() -> None:
    encoder = RAMEncoder()
    runs: list[Run] = [
        ZeroRun(RAM, slice(3, 4)),
        page_run(RAM, [5, 9]),
        ZeroRun(RAM, np.array([1, 7], np.int64)),
        page_run(BIOS, [2]),
    ]
    written = [encode(encoder, run) for run in runs]
    assert written == [
        u64(0x3002) + b"\x06pc.ram" + FILL,
        u64(0x5028) + content(0) + u64(0x9028) + content(1),
        u64(0x1022) + FILL + u64(0x7022) + FILL,
        u64(0x2008) + b"\x07pc.bios" + content(0),
    ]


def test_a_long_run_is_written_in_one_piece() -> None:
    run = ZeroRun(RAM, slice(0, MAX_RUN))
    encoder = RAMEncoder()
    encoder.zeros(run)
    (again,) = encoder.zeros(run)
    assert len(again) == 9 * MAX_RUN


RUNS = st.lists(
    st.tuples(
        st.sampled_from([ZERO, PAGE]),
        st.sampled_from(BLOCKS),
        st.lists(st.integers(0, 3), min_size=1, max_size=6),
    ),
    max_size=6,
)


@stable(60)
@given(RUNS)
def test_what_is_written_is_read(runs: list[tuple[PageFlag, RAMBlock, list[int]]]) -> None:
    encoder, body, written = RAMEncoder(), b"", list[Page]()
    for kind, block, indices in runs:
        pages = page_run(block, indices)
        run: Run = pages if kind is PAGE else ZeroRun(block, pages.indices)
        written += flatten([run])
        body += encode(encoder, run)
    assert flatten(list(parse_body(listed_parser(), PART, body + EMPTY_BODY))) == written


@stable(200)
@given(
    st.sampled_from([START, PART, END]),
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.builds(
                lambda flags, number: u64(number << 12 | flags),
                st.sampled_from([*PageFlag, ZERO | CONTINUE, PAGE | CONTINUE, 0x1, 0x18]),
                st.sampled_from([0, 1, 4, 1 << 24, (1 << 52) - 1]),
            ),
            st.sampled_from([NAMED_ZERO, NEXT_ZERO, NEXT_PAGE, LIST, EMPTY_BODY, FILL, content(0)]),
        ),
        max_size=8,
    ).map(b"".join),
)
def test_any_bytes_are_pages_or_a_stream_error(section_type: SectionType, body: bytes) -> None:
    for parser in (RAMParser(), listed_parser(), listed_parser(current=True)):
        position, is_last = 0, False
        while not is_last:
            try:
                parsed = parser.parse(section_type, memoryview(body)[position:], OFFSET + position)
            except StreamError as error:
                assert OFFSET <= error.offset <= OFFSET + len(body)
                break
            assert 0 < parsed.size <= len(body) - position
            position, is_last = position + parsed.size, parsed.is_last
