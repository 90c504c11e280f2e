"""Blocks and runs: sizes in pages."""

import dataclasses

import numpy as np
import pytest

from switchover.model.ramblock import (
    TARGET_PAGE_BITS,
    TARGET_PAGE_SIZE,
    PageIndices,
    PageRun,
    RAMBlock,
    RAMBlocksListed,
    ZeroRun,
    page_indices,
)

BLOCK = RAMBlock("pc.ram", 16 << 20)


def test_pages_have_4096_bytes() -> None:
    assert TARGET_PAGE_SIZE == 1 << TARGET_PAGE_BITS == 4096


@pytest.mark.parametrize(
    ("length", "pages"), [(0, 0), (4096, 1), (16 << 20, 4096), (1 << 60, 1 << 48)]
)
def test_a_block_counts_its_pages(length: int, pages: int) -> None:
    assert RAMBlock("pc.ram", length).page_count == pages


def test_blocks_are_values() -> None:
    assert BLOCK == RAMBlock("pc.ram", 16 << 20) != RAMBlock("pc.rom", 16 << 20)
    assert RAMBlocksListed((BLOCK,)) == RAMBlocksListed((RAMBlock("pc.ram", 16 << 20),))
    with pytest.raises(dataclasses.FrozenInstanceError):
        BLOCK.used_length = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("indices", "length"),
    [
        (slice(0, 1), 1),
        (slice(7, 1031), 1024),
        (np.array([5, 3, 5], np.int64), 3),
        (np.array([9], np.int64), 1),
    ],
)
def test_a_run_is_as_long_as_it_has_pages(indices: PageIndices, length: int) -> None:
    assert len(ZeroRun(BLOCK, indices)) == length
    pages = np.zeros((length, TARGET_PAGE_SIZE), np.uint8)
    assert len(PageRun(BLOCK, indices, pages)) == length


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([7], slice(7, 8)),
        ([3, 4, 5], slice(3, 6)),
        ([3, 5], None),
        ([5, 4, 3], None),
        ([3, 3], None),
        ([3, 5, 4, 6], None),
    ],
)
def test_consecutive_numbers_are_a_slice(numbers: list[int], expected: slice | None) -> None:
    indices = np.array(numbers, np.int64)
    found = page_indices(indices)
    if expected is None:
        assert found is indices
    else:
        assert found == expected
