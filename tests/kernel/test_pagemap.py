"""PAGEMAP_SCAN: the numbers are those of include/uapi/linux/fs.h, and it finds what was written."""

import ctypes
import errno
import mmap
import os
import socket
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tests.kernel.headers import Header, header
from tests.kernel.needed import needs_written_pages

from switchover.errors import KernelError
from switchover.kernel import pagemap
from switchover.kernel.pagemap import PAGEMAP_SCAN, Pagemap
from switchover.kernel.userfaultfd import WriteProtection
from switchover.model.ramblock import Bytes

PAGE_BYTES = mmap.PAGESIZE
PAGES = 64
CONSTANTS = {
    "_PM_SCAN_WP_MATCHING": "PM_SCAN_WP_MATCHING",
    "_PM_SCAN_CHECK_WPASYNC": "PM_SCAN_CHECK_WPASYNC",
    "_PAGE_IS_WRITTEN": "PAGE_IS_WRITTEN",
}


class TestNumbers:
    def test_ioctl_is_what_the_formula_gives(self) -> None:
        assert PAGEMAP_SCAN == 3 << 30 | 12 * 8 << 16 | ord("f") << 8 | 16

    def test_constants_are_those_of_linux(self) -> None:
        assert (pagemap._PM_SCAN_WP_MATCHING, pagemap._PM_SCAN_CHECK_WPASYNC) == (1, 2)
        assert pagemap._PAGE_IS_WRITTEN == 2

    def test_what_the_installed_header_has_is_the_same(self) -> None:
        installed = header("fs.h")
        if installed.has("PAGEMAP_SCAN"):
            assert installed.number("PAGEMAP_SCAN") == PAGEMAP_SCAN
        for ours, theirs in CONSTANTS.items():
            if installed.has(theirs):
                assert getattr(pagemap, ours) == installed.constant(theirs)

    def test_struct_has_one_word_for_each_of_its_twelve_fields(self) -> None:
        assert ctypes.sizeof(pagemap._ScanArgument) == 12 * 8
        assert pagemap._REGION.itemsize == 3 * 8

    def test_a_header_is_understood(self) -> None:
        text = """
            struct inner {
            \t__u64 start; /* of it */
            };
            struct outer {
            #define IN_BETWEEN (1<<3)
            \tstruct inner inner;
            \t__s64 end;
            };
            #define GROUP 'f'
            #define CALL  _IOWR(GROUP, 16, \\
            \tstruct outer)
        """
        read = Header("\n".join(map(str.lstrip, text.splitlines())))
        assert read.constant("IN_BETWEEN") == 8
        assert read.number("CALL") == 3 << 30 | 16 << 16 | ord("f") << 8 | 16


class Watched:
    """Memory whose writes are noted.

    Attributes:
        mapping: The memory.
        memory: Its pages.
    """

    def __init__(self, pages: int, flags: int = mmap.MAP_PRIVATE) -> None:
        self.mapping = mmap.mmap(-1, pages * PAGE_BYTES, flags=flags | mmap.MAP_ANONYMOUS)
        self.memory: Bytes = np.frombuffer(self.mapping, np.uint8).reshape(pages, PAGE_BYTES)
        self.address = self.memory.ctypes.data
        self.protection = WriteProtection()
        self.pagemap = Pagemap()

    def start(self) -> None:
        self.protection.register(self.address, self.memory.nbytes)
        self.fetch()

    def fetch(self, first: int = 0, stop: int | None = None) -> list[tuple[int, int]]:
        """The runs of pages written since the last call, in a part of the memory."""
        stop = len(self.memory) if stop is None else stop
        written = self.pagemap.fetch_written(
            self.address + first * PAGE_BYTES, (stop - first) * PAGE_BYTES
        )
        runs = []
        for begin, end in written:
            assert begin % PAGE_BYTES == end % PAGE_BYTES == 0
            runs.append(((begin - self.address) // PAGE_BYTES, (end - self.address) // PAGE_BYTES))
        return runs

    def fetch_pages(self) -> list[int]:
        """The same, page by page."""
        return [page for first, stop in self.fetch() for page in range(first, stop)]

    def close(self) -> None:
        self.protection.close()
        self.pagemap.close()


Watch = Callable[..., Watched]


@pytest.fixture
def watch() -> Iterator[Watch]:
    opened = []

    def make(pages: int = PAGES, flags: int = mmap.MAP_PRIVATE) -> Watched:
        opened.append(Watched(pages, flags))
        return opened[-1]

    yield make
    for watched in opened:
        watched.close()


def read_pipe(watched: Watched, first: int, pages: int) -> None:
    """The kernel writes into pages for us, from a pipe."""
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"x" * (pages * PAGE_BYTES))
        halves = np.array_split(watched.memory[first : first + pages].reshape(-1), 2)
        assert os.readv(read_end, [half.data for half in halves]) == pages * PAGE_BYTES
    finally:
        os.close(read_end)
        os.close(write_end)


def read_socket(watched: Watched, first: int, pages: int) -> None:
    """The same from a socket, as a destination does it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * (pages * PAGE_BYTES))
        target = watched.memory[first : first + pages].reshape(-1).data
        assert ours.recv_into(target, flags=socket.MSG_WAITALL) == pages * PAGE_BYTES


@needs_written_pages
@pytest.mark.parametrize(
    "flags",
    [pytest.param(mmap.MAP_PRIVATE, id="private"), pytest.param(mmap.MAP_SHARED, id="shared")],
)
@pytest.mark.parametrize("is_populated", [True, False])
class TestWritten:
    @pytest.fixture
    def watched(self, watch: Watch, flags: int, is_populated: bool) -> Watched:
        watched = watch(flags=flags)
        if is_populated:
            watched.memory[:] = 1
        watched.start()
        return watched

    def test_nothing_is_written_at_first(self, watched: Watched) -> None:
        assert watched.fetch() == []

    def test_written_pages_are_found_once_in_ascending_runs(self, watched: Watched) -> None:
        for page in (63, 7, 9, 8, 0, 8):
            watched.memory[page, page] = 2
        assert watched.fetch() == [(0, 1), (7, 10), (63, 64)]
        assert watched.fetch() == []
        watched.memory[8, 5] = 3
        assert watched.fetch() == [(8, 9)]

    def test_a_write_over_a_boundary_is_in_both_pages(self, watched: Watched) -> None:
        watched.memory.reshape(-1)[5 * PAGE_BYTES - 1 : 5 * PAGE_BYTES + 1] = 2
        assert watched.fetch() == [(4, 6)]

    def test_the_same_byte_written_again_counts(self, watched: Watched) -> None:
        watched.memory[3, 0] = watched.memory[3, 0]
        assert watched.fetch() == [(3, 4)]

    def test_reading_is_not_writing(self, watched: Watched) -> None:
        watched.memory.sum()
        assert watched.fetch() == []

    @pytest.mark.parametrize("read", [read_pipe, read_socket])
    def test_what_the_kernel_writes_for_us_counts(
        self, watched: Watched, read: Callable[[Watched, int, int], None]
    ) -> None:
        read(watched, 20, 5)
        assert (watched.memory[20:25] == ord("x")).all()
        assert watched.fetch() == [(20, 25)]

    def test_what_is_outside_of_the_range_waits(self, watched: Watched) -> None:
        watched.memory[[9, 10, 19, 20]] = 2
        assert watched.fetch(10, 20) == [(10, 11), (19, 20)]
        assert watched.fetch(10, 20) == []
        assert watched.fetch(5, 5) == []
        assert watched.fetch() == [(9, 10), (20, 21)]

    @pytest.mark.parametrize("regions", [1, 2, 3, 7])
    def test_more_runs_than_one_call_tells_of(
        self, watched: Watched, regions: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pagemap, "_REGIONS", regions)
        rng = np.random.default_rng(regions)
        for _ in range(20):
            pages = np.flatnonzero(rng.random(PAGES) < rng.random())
            watched.memory[pages, 7] += 1
            assert watched.fetch_pages() == pages.tolist()
        assert watched.fetch() == []


@needs_written_pages
def test_more_runs_than_the_vector_holds(watch: Watch) -> None:
    pages = 2 * pagemap._REGIONS + 5
    watched = watch(pages)
    watched.start()
    watched.memory[::2, 0] = 1
    assert watched.fetch() == [(page, page + 1) for page in range(0, pages, 2)]
    assert watched.fetch() == []


@needs_written_pages
def test_pages_that_are_given_back_to_the_kernel_count(watch: Watch) -> None:
    watched = watch()
    watched.memory[:] = 1
    watched.start()
    watched.mapping.madvise(mmap.MADV_DONTNEED, 8 * PAGE_BYTES, 2 * PAGE_BYTES)
    assert not watched.memory[8:10].any()
    assert watched.fetch() == [(8, 10)]


@needs_written_pages
def test_memory_under_no_protection_is_refused(watch: Watch) -> None:
    watched = watch()
    watched.memory[:] = 1
    with pytest.raises(KernelError) as caught:
        watched.fetch()
    assert str(caught.value) == f"the kernel refuses PAGEMAP_SCAN: {os.strerror(errno.EPERM)}"
    watched.start()
    watched.protection.unregister(watched.address, watched.memory.nbytes)
    with pytest.raises(KernelError) as caught:
        watched.fetch()
    assert (caught.value.call, caught.value.errno) == ("PAGEMAP_SCAN", errno.EPERM)


def test_page_tables_that_cannot_be_opened_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagemap, "_PATH", "/proc/self/missing")
    with pytest.raises(KernelError) as caught:
        Pagemap()
    expected = f"the kernel refuses open /proc/self/missing: {os.strerror(errno.ENOENT)}"
    assert str(caught.value) == expected


def test_page_tables_are_closed_once_and_may_be_twice() -> None:
    tables = Pagemap()
    tables.close()
    tables.close()
