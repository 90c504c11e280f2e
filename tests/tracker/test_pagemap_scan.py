"""The tracker that asks the kernel: what it has besides what every tracker has."""

import mmap
import os

import numpy as np
import pytest
from tests.kernel.needed import needs_written_pages
from tests.tracker.test_base import new_memory, no_marks

from switchover.errors import KernelError
from switchover.kernel import pagemap
from switchover.model.ramblock import TARGET_PAGE_SIZE
from switchover.tracker.pagemap_scan import PagemapScanTracker

pytestmark = needs_written_pages


def test_a_write_that_changes_nothing_is_one() -> None:
    memory = new_memory()
    tracker = PagemapScanTracker(memory)
    tracker.start()
    memory[3] = 0
    dirty = no_marks(memory)
    tracker.sync(dirty)
    tracker.stop()
    assert np.flatnonzero(dirty).tolist() == [3]


def test_what_is_sent_is_the_memory() -> None:
    memory = new_memory()
    tracker = PagemapScanTracker(memory)
    tracker.start()
    assert tracker.content is memory
    tracker.stop()


def test_what_the_kernel_reads_into_it_is_written() -> None:
    memory = new_memory()
    tracker = PagemapScanTracker(memory)
    tracker.start()
    read_end, write_end = os.pipe()
    os.write(write_end, b"x" * TARGET_PAGE_SIZE)
    os.close(write_end)
    # Ten bytes into one page, the rest into another.
    assert os.readv(read_end, [memory[2, :10].data, memory[9].data]) == TARGET_PAGE_SIZE
    os.close(read_end)
    dirty = no_marks(memory)
    tracker.sync(dirty)
    tracker.stop()
    assert np.flatnonzero(dirty).tolist() == [2, 9]


def test_memory_that_others_share_is_noted_too() -> None:
    mapping = mmap.mmap(-1, 16 * TARGET_PAGE_SIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    memory = np.frombuffer(mapping, np.uint8).reshape(-1, TARGET_PAGE_SIZE)
    tracker = PagemapScanTracker(memory)
    tracker.start()
    mapping[5 * TARGET_PAGE_SIZE] = 1
    dirty = no_marks(memory)
    tracker.sync(dirty)
    tracker.stop()
    assert np.flatnonzero(dirty).tolist() == [5]


def test_memory_that_is_no_whole_pages_is_refused_by_name() -> None:
    memory = new_memory().reshape(-1)[8:-4088].reshape(-1, TARGET_PAGE_SIZE)
    tracker = PagemapScanTracker(memory)
    with pytest.raises(KernelError, match="the kernel refuses UFFDIO_REGISTER: Invalid argument"):
        tracker.start()
    tracker.stop()


def test_without_page_tables_nothing_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagemap, "_PATH", "/proc/self/missing")
    with pytest.raises(KernelError, match="the kernel refuses open /proc/self/missing"):
        PagemapScanTracker(new_memory())


def test_memory_that_was_never_touched_takes_no_room() -> None:
    memory = new_memory((1 << 30) // TARGET_PAGE_SIZE)
    before = _resident_bytes()
    tracker = PagemapScanTracker(memory)
    tracker.start()
    dirty = no_marks(memory)
    tracker.sync(dirty)
    assert not dirty.any()
    assert _resident_bytes() - before < 64 << 20
    tracker.stop()


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * mmap.PAGESIZE
