"""The body of the RAM section, decoded and encoded in runs of pages. Page: docs/wire/ram.md.

A record of a page is a word (offset in the block, flags in its low bits), the block's name unless
the page belongs to the same block as the one before, and the page. Behind a record with CONTINUE
the next one therefore stands at a known distance, so that the words of many records can be looked
at in one step, and their pages handed on as one strided view.
"""

from collections.abc import Sequence
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from ..errors import StreamError, TruncatedStream, UnsupportedStream
from ..model.ramblock import (
    TARGET_PAGE_BITS,
    TARGET_PAGE_SIZE,
    Bytes,
    PageIndices,
    PageRun,
    RAMBlock,
    RAMBlocksListed,
    ZeroRun,
    page_indices,
)
from ..model.section import Parsed, SectionType
from .cursor import Cursor, counted_string, u64

RAM_IDSTR = "ram"
RAM_VERSION = 4

MAX_BLOCKS = 4096
"""A machine has a few dozen; each costs a name and a table."""
MAX_RAM_BYTES = 1 << 48
"""More than one x86 machine can address today."""
MAX_RUN = 1024
"""Pages in one run: enough to forget the cost of a run, little enough to stay in the cache."""


class PageFlag(IntFlag):
    """The low bits of a record's word (RAM_SAVE_FLAG_* in QEMU)."""

    ZERO = 0x02
    MEM_SIZE = 0x04
    PAGE = 0x08
    EOS = 0x10
    CONTINUE = 0x20
    XBZRLE = 0x40
    HOOK = 0x80
    COMPRESS_PAGE = 0x100
    MULTIFD_FLUSH = 0x200


_FLAG_MASK = TARGET_PAGE_SIZE - 1
_WORD = 8
_PAGE_RECORD = _WORD + TARGET_PAGE_SIZE
_ZERO_RECORD = _WORD + 1
_NOT_YET = {
    PageFlag.XBZRLE: "a page in XBZRLE, and capability 'xbzrle' is not supported yet",
    PageFlag.HOOK: "a record for RDMA, which is not supported",
    PageFlag.COMPRESS_PAGE: "a compressed page, and capability 'compress' is not supported",
    PageFlag.MULTIFD_FLUSH: "a sync of multifd, and capability 'multifd' is not supported yet",
}
EMPTY_BODY = u64(PageFlag.EOS)
"""The body of a section in which nothing was sent."""


class RAMParser:
    """Takes the body of the RAM section apart.

    Gives RAMBlocksListed once, then PageRun and ZeroRun.

    Args:
        max_ram_bytes: A source that announces more is refused.
    """

    idstr = RAM_IDSTR
    version_id = RAM_VERSION

    def __init__(self, max_ram_bytes: int = MAX_RAM_BYTES) -> None:
        self._max_ram_bytes = max_ram_bytes
        self._blocks: dict[str, RAMBlock] = {}
        self._is_listed = False
        self._unlisted_bytes = 0
        self._block: RAMBlock | None = None

    def parse(self, section_type: SectionType, body: memoryview, offset: int) -> Parsed:
        """Takes one step; see `switchover.model.section.LiveParser`."""
        if self._unlisted_bytes:
            return self._parse_block(Cursor(body, offset))
        word = Cursor(body, offset).u64("a RAM record")
        flags = word & _FLAG_MASK
        kind = flags & ~int(PageFlag.CONTINUE)  # the flag's own inverse drops unknown bits
        if kind in (PageFlag.PAGE, PageFlag.ZERO):
            if flags & PageFlag.CONTINUE:
                return self._parse_run(kind, body, offset)
            return self._parse_named(kind, word, body, offset)
        if word == PageFlag.EOS:
            if section_type == SectionType.START and not self._is_listed:
                raise StreamError("the RAM section starts without a block list", offset=offset)
            return Parsed(_WORD, None, is_last=True)
        if flags == PageFlag.MEM_SIZE:
            return self._parse_total(section_type, word - flags, offset)
        if kind in _NOT_YET:
            raise UnsupportedStream(_NOT_YET[PageFlag(kind)], offset=offset)
        raise StreamError(
            "a RAM record with flags that mean nothing",
            offset=offset,
            expected="a page, a zero page or the end",
            got=f"{word:#x}",
        )

    def _parse_total(self, section_type: SectionType, total: int, offset: int) -> Parsed:
        if self._is_listed or section_type != SectionType.START:
            raise StreamError("a second list of RAM blocks", offset=offset)
        if total > self._max_ram_bytes:
            raise StreamError(
                "the source announces more RAM than is allowed here",
                offset=offset,
                expected=f"at most {self._max_ram_bytes} bytes",
                got=total,
            )
        self._is_listed = True
        self._unlisted_bytes = total
        return Parsed(_WORD, None if total else RAMBlocksListed(()), is_last=False)

    def _parse_block(self, cursor: Cursor) -> Parsed:
        offset = cursor.offset
        idstr = cursor.counted_string("the name of a RAM block")
        length_offset = cursor.offset
        used_length = cursor.u64(f"the length of RAM block '{idstr}'")
        if idstr in self._blocks:
            raise StreamError(f"RAM block '{idstr}' is listed twice", offset=offset)
        if not 0 < used_length <= self._unlisted_bytes or used_length % TARGET_PAGE_SIZE:
            raise StreamError(
                f"RAM block '{idstr}' has a wrong length",
                offset=length_offset,
                expected=f"a multiple of {TARGET_PAGE_SIZE}, at most {self._unlisted_bytes}",
                got=used_length,
            )
        if len(self._blocks) == MAX_BLOCKS:
            raise StreamError(
                "the source lists too many RAM blocks", offset=offset, expected=MAX_BLOCKS
            )
        self._blocks[idstr] = RAMBlock(idstr, used_length)
        self._unlisted_bytes -= used_length
        item = None if self._unlisted_bytes else RAMBlocksListed(tuple(self._blocks.values()))
        return Parsed(cursor.position, item, is_last=False)

    def _parse_named(self, kind: int, word: int, body: memoryview, offset: int) -> Parsed:
        """A record that names its block: the first of the stream, and each change of block."""
        cursor = Cursor(body[_WORD:], offset + _WORD)
        name_offset = cursor.offset
        idstr = cursor.counted_string("the name of a page's RAM block")
        block = self._blocks.get(idstr)
        if block is None:
            raise StreamError(
                "a page of an unknown RAM block",
                offset=name_offset,
                expected=", ".join(self._blocks) or "none",
                got=f"'{idstr}'",
            )
        payload = cursor.take(TARGET_PAGE_SIZE if kind == PageFlag.PAGE else 1, "a page")
        words = np.array([word], np.uint64)
        rows = np.frombuffer(payload, np.uint8).reshape(1, -1)
        item = _run(kind, block, words, rows, offset, 0)
        self._block = block
        return Parsed(_WORD + cursor.position, item, is_last=False)

    def _parse_run(self, kind: int, body: memoryview, offset: int) -> Parsed:
        """Records that all belong to the block of the page before."""
        if self._block is None:
            raise StreamError("a page that continues no RAM block", offset=offset)
        stride = _PAGE_RECORD if kind == PageFlag.PAGE else _ZERO_RECORD
        count = min(len(body) // stride, MAX_RUN)
        if count == 0:
            raise TruncatedStream(
                f"the stream ends inside a page of RAM block '{self._block.idstr}'",
                offset=offset,
                expected=f"{stride} bytes",
                got=len(body),
            )
        # A plain number: numpy looks for attributes of an enum's member, in Python code, and an
        # interrupt that falls into that search is lost.
        flags = int(kind | PageFlag.CONTINUE)
        if count > 1 and not _has_flags(body, stride, flags):
            count = 1
        records = np.frombuffer(body, np.uint8, count * stride).reshape(count, stride)
        words = np.ascontiguousarray(records[:, :_WORD]).view(">u8").ravel().astype(np.uint64)
        alike = (words & np.uint64(_FLAG_MASK)) == flags
        if not alike.all():
            count = int(alike.argmin())
        item = _run(kind, self._block, words[:count], records[:count, _WORD:], offset, stride)
        return Parsed(count * stride, item, is_last=False)


def _has_flags(body: memoryview, position: int, flags: int) -> bool:
    """Whether the word at a position has those flags and no others."""
    return (body[position + 6] << 8 | body[position + 7]) & _FLAG_MASK == flags


def _run(
    kind: int,
    block: RAMBlock,
    words: NDArray[np.uint64],
    rows: Bytes,
    offset: int,
    stride: int,
) -> PageRun | ZeroRun:
    """The run of `words`, whose payloads are `rows`, with every offset checked.

    The first word stands at `offset` in the stream, each next one `stride` bytes further on.
    """
    indices = (words >> np.uint64(TARGET_PAGE_BITS)).astype(np.int64)
    outside = indices >= block.page_count
    if outside.any():
        position = int(outside.argmax())
        raise StreamError(
            f"a page outside of RAM block '{block.idstr}'",
            offset=offset + position * stride,
            expected=f"an offset below {block.used_length:#x}",
            got=f"{int(indices[position]) << TARGET_PAGE_BITS:#x}",
        )
    where = page_indices(indices)
    if kind == PageFlag.PAGE:
        return PageRun(block, where, rows)
    fill = rows.ravel()
    if fill.any():
        position = int(fill.argmax())
        raise StreamError(
            f"a zero page of RAM block '{block.idstr}' with something in it",
            offset=offset + position * stride,
            expected="fill byte 0",
            got=int(fill[position]),
        )
    return ZeroRun(block, where)


class RAMEncoder:
    """Writes the body of the RAM section.

    It remembers the block of the last page, as the destination does, over all sections of a stream.
    The buffers that it returns are valid until its next call.
    """

    def __init__(self) -> None:
        self._block: RAMBlock | None = None
        self._page_records = np.empty((MAX_RUN, _PAGE_RECORD), np.uint8)
        self._zero_records = np.zeros((MAX_RUN, _ZERO_RECORD), np.uint8)

    def block_list(self, blocks: Sequence[RAMBlock]) -> bytes:
        """The list of blocks, which stands at the beginning of the START section."""
        total = sum(block.used_length for block in blocks)
        return b"".join(
            (
                u64(total | PageFlag.MEM_SIZE),
                *(counted_string(block.idstr) + u64(block.used_length) for block in blocks),
            )
        )

    def pages(self, run: PageRun) -> list[memoryview]:
        """Records of at most MAX_RUN pages with their content."""
        records = self._page_records[: len(run)]
        # The one copy on the way out: a write of one large buffer is faster than one that gathers
        # a word and a page at a time.
        records[:, _WORD:] = run.pages
        return self._records(records, run.block, run.indices, PageFlag.PAGE)

    def zeros(self, run: ZeroRun) -> list[memoryview]:
        """Records of at most MAX_RUN zero pages."""
        records = self._zero_records[: len(run)]
        return self._records(records, run.block, run.indices, PageFlag.ZERO)

    def _records(
        self, records: Bytes, block: RAMBlock, indices: PageIndices, kind: PageFlag
    ) -> list[memoryview]:
        if isinstance(indices, slice):
            indices = np.arange(indices.start, indices.stop, dtype=np.int64)
        words = (indices.astype(np.uint64) << np.uint64(TARGET_PAGE_BITS)) | np.uint64(
            int(kind | PageFlag.CONTINUE)
        )
        records[:, :_WORD] = words.astype(">u8").view(np.uint8).reshape(-1, _WORD)
        flat = records.reshape(-1).data
        if block == self._block:
            return [flat]
        self._block = block
        first_word = u64(int(indices[0]) << TARGET_PAGE_BITS | kind)
        return [memoryview(first_word + counted_string(block.idstr)), flat[_WORD:]]
