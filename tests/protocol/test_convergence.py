"""When a source may stop its machine, in invented time."""

from switchover.protocol.convergence import REMEASURE_NS, WINDOW_NS, Convergence

MS = 1_000_000
START = 7_000 * MS


def measured(*, wire_bytes: int = 100_000_000, downtime_limit_ms: int = 300) -> Convergence:
    """A source that the line held back while it sent so much in its first window."""
    convergence = Convergence(0, downtime_limit_ms, START)
    for tenth in range(10):
        convergence.sent(wire_bytes // 10, WINDOW_NS // 10, START + tenth * WINDOW_NS // 10)
    convergence.sent(0, 0, START + WINDOW_NS)
    return convergence


def test_nothing_is_known_in_the_beginning() -> None:
    convergence = Convergence(0, 300, START)
    assert convergence.bandwidth == 0
    assert convergence.threshold_bytes == 0


def test_a_window_is_measured_when_the_next_one_begins() -> None:
    convergence = Convergence(0, 300, START)
    convergence.sent(1 << 20, 90 * MS, START)
    convergence.sent(1 << 20, 10 * MS, START + WINDOW_NS - 1)
    assert convergence.bandwidth == 0
    convergence.sent(1 << 20, 0, START + WINDOW_NS)
    assert convergence.bandwidth == 20 << 20


def test_a_window_that_the_line_held_back_counts_up_and_down() -> None:
    convergence = measured(wire_bytes=100 << 20)
    assert convergence.bandwidth == 1000 << 20
    for _ in range(2):
        convergence.sent(5 << 20, WINDOW_NS // 4, START + WINDOW_NS)
    convergence.sent(0, 0, START + 2 * WINDOW_NS)
    assert convergence.bandwidth == 100 << 20


def test_a_window_of_waiting_does_not_lower_what_is_known() -> None:
    convergence = measured(wire_bytes=100 << 20)
    for window in range(1, 100):
        convergence.sent(4096, MS, START + window * WINDOW_NS)
    assert convergence.bandwidth == 1000 << 20


def test_a_window_of_waiting_may_raise_what_is_known() -> None:
    convergence = Convergence(0, 300, START)
    convergence.sent(1 << 20, MS, START)
    convergence.sent(0, 0, START + WINDOW_NS)
    assert convergence.bandwidth == 10 << 20


def test_the_threshold_is_what_goes_in_the_downtime() -> None:
    convergence = measured(wire_bytes=100_000_000)
    assert convergence.threshold_bytes == 300_000_000
    convergence.downtime_limit_ms = 100
    assert convergence.threshold_bytes == 100_000_000


def test_without_a_limit_nothing_waits() -> None:
    assert measured().delay_ns(START) == 0


def test_what_was_sent_is_paid_for_in_time() -> None:
    convergence = Convergence(1_000_000, 300, START)
    assert convergence.delay_ns(START) == 0
    convergence.sent(50_000, 0, START)
    assert convergence.delay_ns(START) == 50 * MS
    assert convergence.delay_ns(START + 50 * MS) == 0
    convergence.sent(50_000, 0, START + 50 * MS)
    assert convergence.delay_ns(START + 50 * MS) == 50 * MS


def test_time_in_which_nothing_was_sent_is_not_made_up_for() -> None:
    convergence = Convergence(1_000_000, 300, START)
    convergence.sent(50_000, 0, START + 900 * MS)
    assert convergence.delay_ns(START + 900 * MS) == 50 * MS


def test_the_rate_is_kept_over_many_windows() -> None:
    convergence = Convergence(1_000_000, 300, START)
    now = START
    for _ in range(100):
        now += convergence.delay_ns(now)
        convergence.sent(40_000, 0, now)
    assert now - START == 99 * 40 * MS


def test_a_limit_that_is_changed_counts_from_the_next_bytes() -> None:
    convergence = Convergence(1_000_000, 300, START)
    convergence.max_bandwidth = 500_000
    convergence.sent(50_000, 0, START)
    assert convergence.delay_ns(START) == 100 * MS
    convergence.max_bandwidth = 0
    assert convergence.delay_ns(START) == 0


def test_a_limit_that_is_changed_changes_the_wait_that_goes_on() -> None:
    convergence = Convergence(1, 300, START)
    convergence.sent(50_000, 0, START)
    assert convergence.delay_ns(START) == 50_000_000 * MS
    convergence.max_bandwidth = 1_000_000
    assert convergence.delay_ns(START + 20 * MS) == 30 * MS
    convergence.max_bandwidth = 0
    assert convergence.delay_ns(START + 20 * MS) == 0


def test_what_goes_at_once_is_a_window_of_the_limit() -> None:
    assert Convergence(1_000_000, 300, START).slice_bytes == 100_000
    assert Convergence(0, 300, START).slice_bytes > 1 << 20


def test_the_rate_is_within_a_tenth_of_the_limit_in_every_second() -> None:
    convergence = Convergence(1_000_000, 300, START)
    now, sent = START, 0
    while now < START + 20_000 * MS:
        now += convergence.delay_ns(now)
        convergence.sent(convergence.slice_bytes, 2 * MS, now)
        sent += convergence.slice_bytes
        now += 2 * MS  # What the writing takes is no time lost.
        seconds = (now - START) / (1000 * MS)
        assert seconds < 1 or 0.9 <= sent / seconds / 1_000_000 <= 1.101


def test_a_window_with_a_pause_does_not_lower_what_is_known_however_long_its_writes_took() -> None:
    convergence = measured(wire_bytes=100 << 20)
    convergence.sent(4096, WINDOW_NS, START + WINDOW_NS)
    convergence.paused()
    for _ in range(4):
        convergence.sent(1024, WINDOW_NS // 4, START + 2 * WINDOW_NS)
    assert convergence.bandwidth == 1000 << 20
    convergence.sent(4096, 0, START + 3 * WINDOW_NS)
    assert convergence.bandwidth == 40960


# How well the line is known


def test_a_window_that_the_line_held_back_is_a_measure() -> None:
    assert measured().is_measured and not measured().wants_probe(START + WINDOW_NS)
    convergence = Convergence(0, 300, START)
    assert convergence.wants_probe(START)
    convergence.sent(1 << 20, MS, START)
    convergence.sent(0, 0, START + WINDOW_NS)
    assert not convergence.is_measured and convergence.wants_probe(START)


def test_a_destination_that_does_not_read_for_a_while_is_no_measure() -> None:
    convergence = measured(wire_bytes=100 << 20)
    convergence.sent(4 << 20, 1500 * MS, START + WINDOW_NS)
    convergence.sent(0, 0, START + WINDOW_NS + 1500 * MS)
    assert convergence.bandwidth == 1000 << 20


def test_an_allocation_of_a_window_is_no_measure_either() -> None:
    convergence = measured(wire_bytes=100 << 20)
    convergence.sent(1 << 20, WINDOW_NS, START + WINDOW_NS)
    convergence.sent(1 << 20, 0, START + 2 * WINDOW_NS)
    assert convergence.bandwidth == 1000 << 20


def test_the_writing_alone_tells_what_is_likely() -> None:
    assert Convergence(0, 300, START).likely_bandwidth == 0
    convergence = Convergence(0, 300, START)
    convergence.avail_switchover_bandwidth = 5
    assert convergence.likely_bandwidth == 5
    convergence.sent(1 << 20, 2 * MS, START)
    assert convergence.likely_bandwidth == 500 << 20
    assert measured(wire_bytes=100 << 20).likely_bandwidth == 1000 << 20


def test_a_line_that_is_slow_is_one_in_the_end() -> None:
    convergence = Convergence(0, 300, START)
    for number in range(3):
        convergence.sent(4 << 20, 4000 * MS, START + number * 4000 * MS)
        assert convergence.is_measured is (number == 2)
    assert convergence.bandwidth == 1 << 20


def test_a_bandwidth_that_is_given_is_believed() -> None:
    convergence = measured(wire_bytes=100_000_000)
    convergence.avail_switchover_bandwidth = 2_000_000_000
    assert convergence.expected_bandwidth == 2_000_000_000
    assert convergence.threshold_bytes == 600_000_000
    fresh = Convergence(0, 300, START)
    fresh.avail_switchover_bandwidth = 1
    assert not fresh.wants_probe(START)


def test_a_measure_is_made_anew_after_a_while() -> None:
    convergence = measured()
    assert not convergence.wants_probe(START + WINDOW_NS + REMEASURE_NS - 1)
    assert convergence.wants_probe(START + WINDOW_NS + REMEASURE_NS)
