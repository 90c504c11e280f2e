"""The RAM of a guest that runs: what is sent, in which order, and that no write is lost."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from tests.waiting import wait_until

from switchover.engine import ram_source
from switchover.engine.ram_source import RAMSource, find_zero_pages
from switchover.errors import GuestError
from switchover.guest.ram import GuestRAM, HeldBlock
from switchover.model.ramblock import TARGET_PAGE_SIZE, PageRun, RAMBlock, ZeroRun
from switchover.model.section import SectionType
from switchover.tracker import choose
from switchover.tracker.choose import TrackerChoice
from switchover.tracker.compare import CompareTracker
from switchover.wire.ram import EMPTY_BODY, MAX_RUN, RAMParser
from switchover.worker import Worker


@pytest.fixture(params=["best", "compare"], autouse=True)
def tracker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracker of this machine, and the one that works everywhere."""
    if request.param == "compare":

        def start(memory: np.ndarray) -> TrackerChoice:
            compare = CompareTracker(memory)
            compare.start()
            return TrackerChoice(compare, "compare, as the test wants it")

        monkeypatch.setattr(ram_source, "start_tracker", start)


def make_ram(**pages: int) -> list[GuestRAM]:
    return [GuestRAM(RAMBlock(name, count * TARGET_PAGE_SIZE)) for name, count in pages.items()]


class Copy:
    """What a destination makes of it.

    Args:
        ram: The source's blocks.
    """

    def __init__(self, source: RAMSource, ram: Sequence[GuestRAM]) -> None:
        self.blocks = {held.block.idstr: HeldBlock(held.block) for held in ram}
        self._parser = RAMParser(1 << 40)
        self._parse(SectionType.START, source.block_list() + EMPTY_BODY)

    def _parse(self, section_type: SectionType, body: bytes) -> list[tuple[str, list[int]]]:
        runs = []
        position = 0
        while True:
            parsed = self._parser.parse(section_type, memoryview(body)[position:], position)
            position += parsed.size
            match parsed.item:
                case PageRun() as run:
                    self.blocks[run.block.idstr].store_pages(run)
                    runs.append((run.block.idstr, _numbers(run)))
                case ZeroRun() as run:
                    self.blocks[run.block.idstr].store_zeros(run)
                    runs.append((run.block.idstr, _numbers(run)))
            if parsed.is_last:
                assert position == len(body)
                return runs

    def take(self, source: RAMSource, max_pages: int = MAX_RUN) -> list[tuple[str, list[int]]]:
        """One body; the pages in it, by block."""
        body, pages, zero_pages = source.next_body(max_pages)
        if not body:
            assert (pages, zero_pages) == (0, 0)
            return []
        runs = self._parse(SectionType.PART, b"".join([*map(bytes, body), EMPTY_BODY]))
        assert sum(len(numbers) for _, numbers in runs) == pages + zero_pages
        return runs

    def take_all(self, source: RAMSource) -> None:
        """Bodies until nothing is left."""
        while self.take(source):
            pass
        assert source.dirty_pages == 0

    def assert_same(self, ram: Sequence[GuestRAM]) -> None:
        for held in ram:
            assert np.array_equal(self.blocks[held.block.idstr].memory, held.memory)


def _numbers(run: PageRun | ZeroRun) -> list[int]:
    where = run.indices
    return list(range(where.start, where.stop)) if isinstance(where, slice) else where.tolist()


def flat(runs: list[tuple[str, list[int]]]) -> list[tuple[str, int]]:
    return [(name, number) for name, numbers in runs for number in numbers]


# Zero pages


def test_zero_pages_are_found_wherever_the_one_byte_stands() -> None:
    pages = np.zeros((TARGET_PAGE_SIZE + 1, TARGET_PAGE_SIZE), np.uint8)
    for position in range(TARGET_PAGE_SIZE):
        pages[position, position] = 1 << position % 8
    is_zero = find_zero_pages(pages)
    assert not is_zero[:-1].any()
    assert is_zero[-1]


def test_no_page_and_all_pages() -> None:
    assert find_zero_pages(np.zeros((0, TARGET_PAGE_SIZE), np.uint8)).tolist() == []
    assert find_zero_pages(np.zeros((3, TARGET_PAGE_SIZE), np.uint8)).all()
    assert not find_zero_pages(np.full((3, TARGET_PAGE_SIZE), 255, np.uint8)).any()


# Order


def test_every_page_goes_once_in_order() -> None:
    ram = make_ram(low=5, high=3)
    ram[0].memory[[1, 3]] = 7
    source = RAMSource(ram)
    copy = Copy(source, ram)
    assert source.dirty_pages == 8
    assert source.remaining_bytes == 8 * TARGET_PAGE_SIZE
    # Those with content come first in each body.
    assert flat(copy.take(source)) == [("low", number) for number in (1, 3, 0, 2, 4)]
    assert source.dirty_pages == 3
    assert flat(copy.take(source)) == [("high", number) for number in range(3)]
    assert copy.take(source) == []
    copy.assert_same(ram)
    source.stop()


def test_limit_is_kept() -> None:
    ram = make_ram(low=MAX_RUN + 2, high=3)
    source = RAMSource(ram)
    copy = Copy(source, ram)
    taken = []
    for limit, size in ((2, 2), (1, 1), (MAX_RUN, MAX_RUN - 1), (2, 2), (2, 1), (2, 0)):
        runs = flat(copy.take(source, limit))
        assert len(runs) == size
        taken += runs
        assert len(taken) + source.dirty_pages == MAX_RUN + 5
    assert taken == [
        *(("low", number) for number in range(MAX_RUN + 2)),
        *(("high", number) for number in range(3)),
    ]
    source.stop()


def test_it_goes_round_and_not_back_to_the_beginning() -> None:
    ram = make_ram(low=6, high=2)
    source = RAMSource(ram)
    copy = Copy(source, ram)
    assert flat(copy.take(source, 4)) == [("low", number) for number in range(4)]
    ram[0].memory[1] = 9
    source.sync()
    assert flat(copy.take(source, 2)) == [("low", 4), ("low", 5)]
    assert flat(copy.take(source)) == [("high", 0), ("high", 1)]
    assert flat(copy.take(source)) == [("low", 1)]
    assert copy.take(source) == []
    copy.assert_same(ram)
    source.stop()


def test_page_that_became_zero_again_goes_as_zero() -> None:
    ram = make_ram(low=3)
    ram[0].memory[1] = 5
    source = RAMSource(ram)
    copy = Copy(source, ram)
    copy.take_all(source)
    ram[0].memory[1] = 0
    source.sync()
    assert source.next_body()[1:] == (0, 1)
    ram[0].memory[2] = 1
    source.sync()
    copy.take_all(source)
    assert copy.blocks["low"].memory[2].all()
    source.stop()


def test_page_that_is_written_before_it_is_sent_goes_once() -> None:
    ram = make_ram(low=3)
    source = RAMSource(ram)
    copy = Copy(source, ram)
    ram[0].memory[1] = 5
    source.sync()
    assert source.dirty_pages == 3
    copy.take_all(source)
    source.sync()
    assert copy.take(source) == []
    copy.assert_same(ram)
    source.stop()


def test_page_that_is_written_sent_and_written_back() -> None:
    """What was sent is not what is there, though the memory is as it was at the last look."""
    ram = make_ram(low=3)
    source = RAMSource(ram)
    copy = Copy(source, ram)
    copy.take_all(source)
    ram[0].memory[1] = 5
    source.sync()
    ram[0].memory[1] = 6
    copy.take_all(source)
    ram[0].memory[1] = 5
    source.sync()
    copy.take_all(source)
    copy.assert_same(ram)
    source.stop()


def test_no_ram_at_all() -> None:
    source = RAMSource([])
    source.sync()
    assert source.next_body() == ([], 0, 0)
    assert source.remaining_bytes == 0
    assert source.tracking == "no RAM"
    source.stop()


def test_why_writes_are_known_is_said() -> None:
    source = RAMSource(make_ram(low=2))
    assert source.tracking.startswith(("compare, as ", "pagemap-scan: "))
    source.stop()
    source.stop()


def test_trackers_are_given_back_when_one_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    start = choose.start_tracker
    started: list[TrackerChoice] = []

    def failing(memory: np.ndarray) -> TrackerChoice:
        if started:
            raise GuestError("no more")
        started.append(start(memory))
        return started[0]

    monkeypatch.setattr(ram_source, "start_tracker", failing)
    with pytest.raises(GuestError, match="no more"):
        RAMSource(make_ram(low=2, high=2))
    assert len(started) == 1  # and its descriptors are closed, as after every test here


# Writes meanwhile


def wait_for_writes(rounds: list[int]) -> None:
    wanted = rounds[0] + 5
    wait_until(lambda: rounds[0] >= wanted, "writes")


def test_no_write_is_lost_while_passes_run() -> None:
    ram = make_ram(low=600, high=300)
    source = RAMSource(ram)
    copy = Copy(source, ram)
    stopping = threading.Event()
    rounds = [0]

    def hammer() -> None:
        generator = np.random.default_rng(1)
        while not stopping.is_set():
            held = ram[rounds[0] % 2]
            pages = generator.integers(0, held.block.page_count, 20)
            held.memory[pages, generator.integers(0, TARGET_PAGE_SIZE, 20)] += np.uint8(1)
            held.memory[int(pages[0])] = 0
            rounds[0] += 1

    worker = Worker("test/hammer", hammer)
    for _ in range(30):
        wait_for_writes(rounds)
        source.sync()
        assert source.dirty_pages > 0
        for _ in range(50):
            copy.take(source, 100)
    stopping.set()
    worker.join()
    assert worker.error is None
    source.sync()
    copy.take_all(source)
    copy.assert_same(ram)
    assert rounds[0] > 100
    source.stop()
