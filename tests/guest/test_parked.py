"""The memory of a guest that is held."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from switchover.errors import GuestError
from switchover.guest.parked import ParkedGuest
from switchover.guest.ram import HeldBlock
from switchover.model.configuration import Configuration
from switchover.model.ramblock import TARGET_PAGE_SIZE, PageIndices, PageRun, RAMBlock, ZeroRun
from switchover.model.section import SectionHeader

PAGES = 16
HEADER = SectionHeader(2, "ram", 0, 4)


@pytest.fixture
def held() -> HeldBlock:
    return HeldBlock(RAMBlock("pc.ram", PAGES * TARGET_PAGE_SIZE))


def some(count: int, first: int = 1) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
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


@pytest.mark.parametrize("used_length", [1 << 47, 1 << 62, 1 << 63])
def test_block_that_does_not_fit_is_refused(used_length: int) -> None:
    with pytest.raises(GuestError) as caught:
        HeldBlock(RAMBlock("pc.ram", used_length))
    assert str(caught.value) == f"RAM block 'pc.ram' of {used_length} bytes does not fit in memory"


def test_block_whose_table_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "zeros", refuse)
    with pytest.raises(GuestError, match="does not fit in memory"):
        HeldBlock(RAMBlock("pc.ram", TARGET_PAGE_SIZE))


def test_guest_tells_its_machine_and_size() -> None:
    blocks = RAMBlock("a", 3 * TARGET_PAGE_SIZE), RAMBlock("b", TARGET_PAGE_SIZE)
    guest = ParkedGuest(Configuration("pc-q35-10.0"), blocks, HEADER)
    assert guest.machine == "pc-q35-10.0"
    assert guest.ram_bytes == 4 * TARGET_PAGE_SIZE
    assert [held.block for held in guest.blocks.values()] == list(blocks)
    assert guest.devices is None
    assert guest.has_footers
    assert not guest.sent_switchover_start


def test_old_machine_does_not_tell() -> None:
    assert ParkedGuest(None, [], HEADER).machine is None
    assert ParkedGuest(None, [], HEADER).ram_bytes == 0
