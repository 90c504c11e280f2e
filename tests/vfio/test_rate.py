"""Waiting at a rate, in invented time."""

from tests.vfio.invented import InventedTime

from switchover.vfio.rate import Rate


def test_bytes_are_waited_for() -> None:
    time = InventedTime()
    pace = Rate(1000, time.clock, time.sleep)
    for size in (1, 500):
        pace.skip()
        pace.wait(size)
    assert time.slept_ns == [1_000_000, 500_000_000]


def test_idle_time_is_not_made_up_for() -> None:
    time = InventedTime()
    pace = Rate(1000, time.clock, time.sleep)
    time.now_ns += 10**12
    pace.skip()
    pace.wait(1)
    assert time.slept_ns == [1_000_000]


def test_work_and_a_sleep_that_is_too_long_count() -> None:
    time = InventedTime()

    def oversleep(seconds: float) -> None:
        time.sleep(seconds)
        time.now_ns += 300

    pace = Rate(1000, time.clock, oversleep)
    pace.skip()
    time.now_ns += 400
    pace.wait(1)
    pace.skip()
    pace.wait(1)
    assert time.slept_ns == [999_600, 999_700]
    pace.skip()
    time.now_ns += 10**9
    pace.wait(1)
    assert len(time.slept_ns) == 2


def test_without_a_rate_nothing_is_waited_for() -> None:
    time = InventedTime()
    pace = Rate(0, time.clock, time.sleep)
    pace.skip()
    pace.wait(10**9)
    assert time.slept_ns == []
