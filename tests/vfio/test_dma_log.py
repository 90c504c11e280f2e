"""The log of a device's writes into memory."""

import numpy as np
import pytest

from switchover.errors import DeviceError
from switchover.vfio.dma_log import DmaLog

PAGE = 4096
RANGES = [(0, 70 * PAGE), (1 << 32, 4 * PAGE)]


def started(page_size: int = PAGE) -> DmaLog:
    log = DmaLog("vf0")
    log.start(page_size, RANGES)
    return log


def pages(bitmap: bytes) -> list[int]:
    assert len(bitmap) % 8 == 0
    return [n for n in range(len(bitmap) * 8) if bitmap[n // 8] >> n % 8 & 1]


def test_what_was_written_is_reported_once() -> None:
    log = started()
    log.note(5, 1)
    log.note(2 * PAGE - 1, 2)
    log.note(69 * PAGE, PAGE)
    bitmap = log.report(PAGE, 0, 70 * PAGE)
    assert len(bitmap) == 16
    assert pages(bitmap) == [0, 1, 2, 69]
    assert log.report(PAGE, 0, 70 * PAGE) == bytes(16)


def test_a_part_of_a_range_is_reported_alone() -> None:
    log = started()
    log.note(0, 70 * PAGE)
    assert pages(log.report(PAGE, 3 * PAGE, 2 * PAGE)) == [0, 1]
    rest = pages(log.report(PAGE, 0, 70 * PAGE))
    assert rest == [0, 1, 2, *range(5, 70)]


def test_other_ranges_and_what_is_in_none() -> None:
    log = started()
    log.note((1 << 32) + PAGE, PAGE)
    log.note(70 * PAGE, 5 * PAGE)
    log.note((1 << 32) - PAGE, PAGE)
    log.note(9 * PAGE, 0)
    assert pages(log.report(PAGE, 0, 70 * PAGE)) == []
    assert pages(log.report(PAGE, 1 << 32, 4 * PAGE)) == [1]
    # One that reaches over an end.
    log.note((1 << 32) - PAGE, 2 * PAGE)
    log.note((1 << 32) + 3 * PAGE, 2 * PAGE)
    assert pages(log.report(PAGE, 1 << 32, 4 * PAGE)) == [0, 3]


def test_larger_pages() -> None:
    log = started(2 * PAGE)
    log.note(3 * PAGE, 1)
    assert pages(log.report(2 * PAGE, 0, 70 * PAGE)) == [1]


def test_nothing_is_noted_before_and_after() -> None:
    log = DmaLog("vf0")
    log.note(0, PAGE)
    log.start(PAGE, RANGES)
    assert log.report(PAGE, 0, PAGE) == bytes(8)
    log.note(0, PAGE)
    log.stop()
    log.note(0, PAGE)
    log.start(PAGE, RANGES)
    assert log.report(PAGE, 0, PAGE) == bytes(8)


@pytest.mark.parametrize(
    ("page_size", "ranges", "sentence"),
    [
        (PAGE, [], "note writes to pages of 4096 bytes in 0 ranges"),
        (0, RANGES, "note writes to pages of 0 bytes in 2 ranges"),
        (2048, RANGES, "note writes to pages of 2048 bytes in 2 ranges"),
        (3 * PAGE, RANGES, "note writes to pages of 12288 bytes in 2 ranges"),
        (PAGE, [(1, PAGE)], "note writes to 4096 bytes at 0x1 by pages of 4096 bytes"),
        (PAGE, [(0, 1)], "note writes to 1 bytes at 0x0 by pages of 4096 bytes"),
        (PAGE, [(0, 0)], "note writes to 0 bytes at 0x0 by pages of 4096 bytes"),
        (PAGE, [(-PAGE, PAGE)], "note writes to 4096 bytes at -0x1000 by pages of 4096 bytes"),
        (
            PAGE,
            [((1 << 64) - PAGE, 2 * PAGE)],
            "note writes to 8192 bytes at 0xfffffffffffff000 by pages of 4096 bytes",
        ),
        (
            PAGE,
            [(PAGE, PAGE), (0, 2 * PAGE)],
            "note writes to 4096 bytes at 0x1000 by pages of 4096 bytes",
        ),
    ],
)
def test_a_start_that_makes_no_sense(
    page_size: int, ranges: list[tuple[int, int]], sentence: str
) -> None:
    log = DmaLog("vf0")
    with pytest.raises(DeviceError) as caught:
        log.start(page_size, ranges)
    assert str(caught.value) == f"device 'vf0' cannot {sentence}: Invalid argument"
    # It has not started.
    log.start(PAGE, RANGES)


def test_ranges_that_do_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    log = DmaLog("vf0")
    with monkeypatch.context() as patch:
        patch.setattr(np, "zeros", no_memory)
        with pytest.raises(DeviceError) as caught:
            log.start(PAGE, [(0, 1 << 40)])
    assert caught.value.errno == 12
    log.start(PAGE, RANGES)


def test_what_comes_twice_or_never_started() -> None:
    log = DmaLog("vf0")
    with pytest.raises(DeviceError) as caught:
        log.stop()
    assert str(caught.value) == (
        "device 'vf0' cannot stop noting writes: it does not note them: Invalid argument"
    )
    with pytest.raises(DeviceError, match="cannot report writes to 4096 bytes at 0x0 by pages"):
        log.report(PAGE, 0, PAGE)
    with pytest.raises(DeviceError, match="cannot report"):
        log.report(0, 0, 0)
    log.start(PAGE, RANGES)
    with pytest.raises(DeviceError, match="in 2 ranges: it does so already: Invalid argument"):
        log.start(PAGE, RANGES)
    log.stop()
    with pytest.raises(DeviceError, match="cannot stop"):
        log.stop()


@pytest.mark.parametrize(
    ("page_size", "iova", "length"),
    [
        (2 * PAGE, 0, 2 * PAGE),
        (PAGE, 1, PAGE),
        (PAGE, 0, 1),
        (PAGE, 0, 0),
        (PAGE, 0, 71 * PAGE),
        (PAGE, 70 * PAGE, PAGE),
        (PAGE, (1 << 32) - PAGE, 2 * PAGE),
        (PAGE, -PAGE, PAGE),
        (PAGE, 0, -PAGE),
    ],
)
def test_a_report_that_makes_no_sense(page_size: int, iova: int, length: int) -> None:
    log = started()
    log.note(0, 70 * PAGE)
    with pytest.raises(DeviceError) as caught:
        log.report(page_size, iova, length)
    assert caught.value.errno == 22
    assert str(caught.value) == (
        f"device 'vf0' cannot report writes to {length} bytes at {iova:#x} by pages of "
        f"{page_size} bytes: Invalid argument"
    )
    assert len(pages(log.report(PAGE, 0, 70 * PAGE))) == 70
