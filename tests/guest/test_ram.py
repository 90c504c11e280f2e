"""RAM blocks with their memory."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from switchover.errors import GuestError
from switchover.guest.ram import GuestRAM, HeldBlock
from switchover.model.ramblock import (
    TARGET_PAGE_SIZE,
    Bytes,
    PageIndices,
    PageRun,
    RAMBlock,
    ZeroRun,
)

PAGES = 16
BLOCK = RAMBlock("pc.ram", PAGES * TARGET_PAGE_SIZE)
both = pytest.mark.parametrize("kind", [GuestRAM, HeldBlock])


@pytest.fixture
def held() -> HeldBlock:
    return HeldBlock(BLOCK)


def some(count: int, first: int = 1) -> Bytes:
    """Pages, each of one byte of its own."""
    numbers = np.arange(first, first + count, dtype=np.uint8)
    return np.repeat(numbers, TARGET_PAGE_SIZE).reshape(count, TARGET_PAGE_SIZE)


def test_new_block_is_all_zero(held: HeldBlock) -> None:
    assert held.memory.shape == (PAGES, TARGET_PAGE_SIZE)
    assert not held.memory.any()
    assert not held.populated.any()


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        (slice(3, 6), [3, 4, 5]),
        (np.array([9, 0, 15]), [9, 0, 15]),
        (slice(0, 0), []),
        (np.array([], np.int64), []),
    ],
)
def test_pages_are_where_they_belong(
    held: HeldBlock, indices: PageIndices, expected: list[int]
) -> None:
    held.store_pages(PageRun(held.block, indices, some(len(expected))))
    assert np.flatnonzero(held.populated).tolist() == sorted(expected)
    for value, page in enumerate(expected, start=1):
        assert (held.memory[page] == value).all()
    assert int(held.memory.any(axis=1).sum()) == len(expected)


def test_of_a_page_that_comes_twice_the_later_one_counts(held: HeldBlock) -> None:
    held.store_pages(PageRun(held.block, np.array([4, 5, 4]), some(3)))
    assert held.memory[4, 0] == 3
    assert held.memory[5, 0] == 2


@pytest.mark.parametrize(
    ("indices", "zeroed"),
    [
        (slice(0, 16), range(16)),
        (slice(5, 8), [5, 6, 7]),
        (slice(5, 6), [5]),
        (np.array([15, 5, 15]), [5, 15]),
        (np.array([7]), [7]),
        (slice(3, 3), []),
    ],
)
def test_zero_pages_are_zero_whatever_was_there(
    held: HeldBlock, indices: PageIndices, zeroed: list[int]
) -> None:
    held.store_pages(PageRun(held.block, np.array([5, 7, 15]), some(3)))
    held.store_zeros(ZeroRun(held.block, indices))
    left = sorted({5, 7, 15} - set(zeroed))
    assert np.flatnonzero(held.populated).tolist() == left
    assert np.flatnonzero(held.memory.any(axis=1)).tolist() == left


def test_zero_pages_cost_no_memory() -> None:
    count = (1 << 30) // TARGET_PAGE_SIZE
    held = HeldBlock(RAMBlock("pc.ram", 1 << 30))
    before = _resident_bytes()
    held.store_zeros(ZeroRun(held.block, slice(0, count)))
    held.store_zeros(ZeroRun(held.block, np.arange(count)))
    assert _resident_bytes() - before < 64 << 20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@both
@pytest.mark.parametrize("used_length", [1 << 47, 1 << 62, 1 << 63])
def test_block_that_does_not_fit_is_refused(kind: type[GuestRAM], used_length: int) -> None:
    with pytest.raises(GuestError) as caught:
        kind(RAMBlock("pc.ram", used_length))
    assert str(caught.value) == f"RAM block 'pc.ram' of {used_length} bytes does not fit in memory"


def test_block_whose_table_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "zeros", refuse)
    with pytest.raises(GuestError, match="does not fit in memory"):
        HeldBlock(RAMBlock("pc.ram", TARGET_PAGE_SIZE))


@both
def test_new_memory_is_at_a_page_boundary(kind: type[GuestRAM]) -> None:
    assert kind(BLOCK).memory.ctypes.data % mmap.PAGESIZE == 0


@both
def test_given_memory_is_used_where_it_is(kind: type[GuestRAM]) -> None:
    memory = some(PAGES)
    ram = kind(BLOCK, memory)
    assert ram.block is BLOCK
    assert ram.memory is memory
    assert np.array_equal(memory, some(PAGES))


@both
@pytest.mark.parametrize("pages", [1, PAGES - 1, PAGES + 1])
def test_given_memory_of_another_size_is_refused(kind: type[GuestRAM], pages: int) -> None:
    with pytest.raises(GuestError) as caught:
        kind(BLOCK, some(pages))
    assert str(caught.value) == (
        f"the memory of RAM block 'pc.ram': expected 65536 bytes, got {pages * TARGET_PAGE_SIZE}"
    )


def test_given_memory_may_hold_something_already() -> None:
    memory = np.zeros((PAGES, TARGET_PAGE_SIZE), np.uint8)
    memory[3, 0] = memory[7, 4095] = memory[15, 2000] = 1
    held = HeldBlock(BLOCK, memory)
    assert np.flatnonzero(held.populated).tolist() == [3, 7, 15]
    held.store_zeros(ZeroRun(BLOCK, slice(0, PAGES)))
    assert not memory.any()
    assert not held.populated.any()
