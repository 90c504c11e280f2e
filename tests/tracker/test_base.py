"""What every tracker must do, and each of them does."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzzing import stable
from tests.kernel.needed import needs_written_pages
from tests.waiting import turns_until

from switchover.guest.machine import RAM_BLOCK, BuiltinMachine
from switchover.guest.ram import GuestRAM
from switchover.model.ramblock import TARGET_PAGE_SIZE, Bytes, RAMBlock
from switchover.tracker.base import DirtyPages, DirtyTracker
from switchover.tracker.compare import CompareTracker
from switchover.tracker.pagemap_scan import PagemapScanTracker
from switchover.worker import Worker

PAGES = 24
Make = Callable[[Bytes], DirtyTracker]

every_tracker = pytest.mark.parametrize(
    "make",
    [
        pytest.param(CompareTracker, id=CompareTracker.name),
        pytest.param(PagemapScanTracker, id=PagemapScanTracker.name, marks=needs_written_pages),
    ],
)


def new_memory(pages: int = PAGES) -> Bytes:
    return GuestRAM(RAMBlock(RAM_BLOCK, pages * TARGET_PAGE_SIZE)).memory


def has_ticked(machine: BuiltinMachine, ticks: int) -> bool:
    return len(machine.serial.lines) >= ticks


def no_marks(memory: Bytes) -> DirtyPages:
    return np.zeros(len(memory), np.bool_)


@dataclass
class Copier:
    """Sends pages as a source does, to a destination that is a second piece of memory."""

    tracker: DirtyTracker
    memory: Bytes
    dirty: DirtyPages = field(init=False)
    destination: Bytes = field(init=False)

    def __post_init__(self) -> None:
        self.dirty = np.ones(len(self.memory), np.bool_)
        self.destination = np.full_like(self.memory, 0xEE)

    def sync(self) -> None:
        self.tracker.sync(self.dirty)

    def send(self, most: int | None = None) -> None:
        """Sends so many of the dirty pages, or all of them."""
        pages = np.flatnonzero(self.dirty)[:most]
        self.dirty[pages] = False
        self.destination[pages] = self.tracker.content[pages]

    def finish(self) -> None:
        """What is done once nobody writes any more."""
        self.sync()
        self.send()
        assert np.array_equal(self.destination, self.memory)


# The bytes that a write changes, and whether the marks are looked at behind it.
writes = st.lists(
    st.tuples(
        st.integers(0, PAGES * TARGET_PAGE_SIZE - 1),
        st.sampled_from([1, 1, 8, TARGET_PAGE_SIZE, 3 * TARGET_PAGE_SIZE]),
        st.booleans(),
    ),
    max_size=30,
)


@every_tracker
@given(writes)
@stable(200)
def test_the_pages_written_since_the_last_time_are_marked_and_no_others(
    make: Make, writes: list[tuple[int, int, bool]]
) -> None:
    memory = new_memory()
    memory[::2] = 1
    tracker = make(memory)
    tracker.start()
    try:
        written: set[int] = set()
        for value, (first, size, is_synced) in enumerate(writes, start=2):
            memory.reshape(-1)[first : first + size] = value
            last = min(first + size, memory.nbytes) - 1
            written |= set(range(first // TARGET_PAGE_SIZE, last // TARGET_PAGE_SIZE + 1))
            if is_synced:
                dirty = no_marks(memory)
                tracker.sync(dirty)
                assert set(np.flatnonzero(dirty).tolist()) == written
                written.clear()
    finally:
        tracker.stop()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 1), st.integers(0, 1)),
        st.tuples(st.just("sync"), st.just(0), st.just(0)),
        st.tuples(st.just("send"), st.integers(1, 2), st.just(0)),
    ),
    max_size=60,
)


@every_tracker
@given(steps)
@stable(300)
def test_whatever_is_written_and_written_back_the_destination_has_it_in_the_end(
    make: Make, steps: list[tuple[str, int, int]]
) -> None:
    memory = new_memory(2)
    tracker = make(memory)
    tracker.start()
    try:
        copier = Copier(tracker, memory)
        for step, where, value in steps:
            if step == "write":
                memory[where, 17] = value
            elif step == "sync":
                copier.sync()
            else:
                copier.send(where)
        copier.finish()
    finally:
        tracker.stop()


@every_tracker
def test_marks_of_others_are_left(make: Make) -> None:
    memory = new_memory()
    tracker = make(memory)
    tracker.start()
    dirty = no_marks(memory)
    dirty[[3, 5]] = True
    memory[[5, 9]] = 1
    tracker.sync(dirty)
    tracker.sync(dirty)
    tracker.stop()
    assert np.flatnonzero(dirty).tolist() == [3, 5, 9]


@every_tracker
def test_what_was_written_before_the_start_is_not_marked(make: Make) -> None:
    memory = new_memory()
    memory[4] = 1
    tracker = make(memory)
    memory[5] = 1
    tracker.start()
    dirty = no_marks(memory)
    tracker.sync(dirty)
    tracker.stop()
    assert not dirty.any()


@every_tracker
def test_only_its_own_memory_is_noted(make: Make) -> None:
    whole = new_memory(3 * PAGES)
    memory = whole[PAGES : 2 * PAGES]
    tracker = make(memory)
    tracker.start()
    whole[[0, PAGES - 1, PAGES, 2 * PAGES - 1, 2 * PAGES]] = 1
    dirty = no_marks(memory)
    tracker.sync(dirty)
    tracker.stop()
    assert np.flatnonzero(dirty).tolist() == [0, PAGES - 1]


@every_tracker
@pytest.mark.parametrize("pages", [1, 1023, 1024, 1025, 5000])
def test_memory_of_any_size(make: Make, pages: int) -> None:
    memory = new_memory(pages)
    tracker = make(memory)
    tracker.start()
    rng = np.random.default_rng(pages)
    for value in range(1, 4):
        written = rng.random(pages) < value / 4
        memory[written, -1] = value
        dirty = no_marks(memory)
        tracker.sync(dirty)
        assert np.array_equal(dirty, written)
    tracker.stop()


@every_tracker
def test_may_be_stopped_at_any_time_and_twice(make: Make) -> None:
    memory = new_memory()
    make(memory).stop()
    tracker = make(memory)
    tracker.start()
    tracker.stop()
    tracker.stop()
    memory[:] = 1
    assert np.array_equal(tracker.content, memory)


@every_tracker
def test_memory_can_be_tracked_again(make: Make) -> None:
    memory = new_memory()
    for value in range(1, 4):
        tracker = make(memory)
        tracker.start()
        memory[value] = value
        dirty = no_marks(memory)
        tracker.sync(dirty)
        tracker.stop()
        assert np.flatnonzero(dirty).tolist() == [value]


@every_tracker
def test_a_writer_beside_it_loses_nothing(make: Make) -> None:
    memory = new_memory(64)
    words = memory.view(np.uint64)
    pages = np.random.default_rng(0).integers(0, len(memory), (20_000, 3))

    def write() -> None:
        for number, where in enumerate(pages):
            words[where, number % words.shape[1]] = number
        has_written.set()

    has_written = threading.Event()
    tracker = make(memory)
    tracker.start()
    try:
        copier = Copier(tracker, memory)
        writer = Worker("test/writer", write)
        for _ in turns_until(has_written.is_set, "end of the writing"):
            copier.sync()
            copier.send(most=10)
        writer.join()
        copier.finish()
    finally:
        tracker.stop()


@every_tracker
@pytest.mark.parametrize("region_pages", [5, 251])
def test_a_machine_beside_it_loses_nothing(make: Make, region_pages: int) -> None:
    """It writes as fast as it can, and has its bytes go round many times between two syncs."""
    region_bytes = region_pages * TARGET_PAGE_SIZE
    machine = BuiltinMachine(2 << 20, region_bytes=region_bytes, pages_per_second=None)
    memory = machine.ram[0].memory
    for _ in range(5):
        tracker = make(memory)
        tracker.start()
        try:
            copier = Copier(tracker, memory)
            machine.cont()
            # Ticks, for a measure of how long it runs.
            ticks = len(machine.serial.lines) + 4
            for _ in turns_until(partial(has_ticked, machine, ticks), "tick"):
                copier.sync()
                copier.send(most=3)
            machine.stop()
            copier.finish()
        finally:
            machine.stop()
            tracker.stop()
        machine.check()
