"""The pacer: each case with a time of its own."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzzing import stable

from switchover.errors import GuestError
from switchover.guest.pacer import MAX_GRANT, TICK, TICK_NS, Grant, Pacer
from switchover.wire.cursor import Cursor
from switchover.wire.vmstate import decode_vmstate, encode_vmstate

SECOND_NS = 1_000_000_000
BURST_NS = 10_000_000
START = 123_456_789
"""What the clock shows at first."""
RATES = [1, 2, 3, 7, 49, 99, 100, 101, 1_000, 7_777, 100_000, 999_983]


def started(rate: int | None, now: int = START) -> Pacer:
    pacer = Pacer(rate)
    pacer.cont(now)
    return pacer


def punctual(pacer: Pacer, start: int, stop: int) -> Iterator[tuple[int, Grant]]:
    """Each grant, and when it was, to a CPU that comes whenever there is something."""
    now = start
    while now < stop:
        grant = pacer.grant(now)
        yield now, grant
        now += grant.wait_ns


class TestTicks:
    @pytest.mark.parametrize("rate", [0, 1, 1_000])
    def test_come_at_equal_distances(self, rate: int) -> None:
        grants = punctual(started(rate), START, START + SECOND_NS)
        ticks = [now for now, grant in grants if grant.is_tick]
        assert ticks == [START + number * TICK_NS for number in range(1, 67)]

    @pytest.mark.parametrize("rate", [0, 100, None])
    @pytest.mark.parametrize("late_ns", [0, 1, TICK_NS, 10 * TICK_NS])
    def test_the_next_is_a_whole_tick_after_one_that_was_late(
        self, rate: int | None, late_ns: int
    ) -> None:
        pacer = started(rate)
        now = START + TICK_NS + late_ns
        assert not pacer.grant(START + TICK_NS - 1).is_tick
        assert pacer.grant(now).is_tick
        assert not pacer.grant(now).is_tick
        assert not pacer.grant(now + TICK_NS - 1).is_tick
        assert pacer.grant(now + TICK_NS).is_tick

    @given(st.lists(st.tuples(st.integers(1, TICK_NS), st.integers(0, SECOND_NS)), max_size=40))
    @stable(200)
    def test_count_running_time_only(self, legs: list[tuple[int, int]]) -> None:
        pacer = Pacer(0)
        now, since_tick_ns, ticks = START, 0, 0
        for running_ns, stopped_ns in legs:
            pacer.cont(now)
            is_due = since_tick_ns + running_ns >= TICK_NS
            if is_due:
                due = now + TICK_NS - since_tick_ns
                assert not pacer.grant(due - 1).is_tick
                assert pacer.grant(due).is_tick
                ticks += 1
                since_tick_ns -= TICK_NS
            now += running_ns
            since_tick_ns += running_ns
            assert not pacer.grant(now).is_tick
            pacer.stop(now)
            now += stopped_ns
        assert ticks == sum(running_ns for running_ns, _ in legs) // TICK_NS

    def test_one_that_was_due_at_a_stop_comes_first_of_all(self) -> None:
        pacer = started(0)
        pacer.stop(START + 3 * TICK_NS)
        pacer.cont(START + 9 * TICK_NS)
        assert pacer.grant(START + 9 * TICK_NS) == Grant(0, True, TICK_NS)


class TestNoPages:
    def test_there_is_nothing_but_ticks_to_wait_for(self) -> None:
        pacer = started(0)
        assert pacer.grant(START) == Grant(0, False, TICK_NS)
        assert pacer.grant(START + 1_000) == Grant(0, False, TICK_NS - 1_000)
        assert pacer.grant(START + TICK_NS) == Grant(0, True, TICK_NS)


class TestUnlimited:
    def test_there_is_always_as_much_as_can_be(self) -> None:
        pacer = started(None)
        for now in (START, START, START + 1, START + TICK_NS - 1):
            assert pacer.grant(now) == Grant(MAX_GRANT, False, 0)
        assert pacer.grant(START + TICK_NS) == Grant(MAX_GRANT, True, 0)

    def test_a_grant_leaves_room_for_the_tick_beside_it(self) -> None:
        assert 0 < MAX_GRANT < TICK


class TestLimited:
    @pytest.mark.parametrize("rate", RATES)
    def test_a_cpu_that_is_punctual_gets_its_rate(self, rate: int) -> None:
        duration_ns = 3 * SECOND_NS if rate < 10_000 else SECOND_NS // 10
        pages = 0
        for now, grant in punctual(started(rate), START, START + duration_ns):
            pages += grant.pages
            # Never more than was due by then.
            assert pages * SECOND_NS <= (now - START) * rate
        expected = duration_ns * rate // SECOND_NS
        assert expected * 0.99 - 1 <= pages <= expected

    @pytest.mark.parametrize("rate", [*RATES, 10**9, 10**9 + 7, (1 << 64) - 1])
    def test_what_is_waited_for_is_there_then_and_not_before(self, rate: int) -> None:
        pacer, number = started(rate), 0
        for number, (now, grant) in enumerate(punctual(pacer, START, START + SECOND_NS)):
            if number > 300:
                break
            assert number == 0 or grant.pages or grant.is_tick
            if grant.wait_ns > 1:
                assert pacer.grant(now + grant.wait_ns - 1).pages == 0
        assert number

    @pytest.mark.parametrize("rate", [100, 1_000, 20_000, 100_000, 10_000_000])
    @pytest.mark.parametrize("late_ns", [0, 1, BURST_NS, BURST_NS + 1, SECOND_NS, 3600 * SECOND_NS])
    def test_a_cpu_that_is_late_catches_up_with_a_burst_and_no_more(
        self, rate: int, late_ns: int
    ) -> None:
        pacer = started(rate)
        now = START + late_ns
        pages, grant = 0, pacer.grant(now)
        while grant.pages:
            assert grant.pages <= MAX_GRANT
            pages, grant = pages + grant.pages, pacer.grant(now)
        due = min(late_ns, BURST_NS) * rate // SECOND_NS
        assert 0.99 * due <= pages <= due
        assert grant.wait_ns > 0

    @pytest.mark.parametrize("rate", [1, 10, 99])
    def test_a_page_that_is_rarer_than_a_burst_comes_nevertheless(self, rate: int) -> None:
        pacer = started(rate)
        assert pacer.grant(START + SECOND_NS).pages == 1
        assert pacer.grant(START + SECOND_NS).pages == 0
        assert pacer.grant(START + 10 * SECOND_NS).pages == 1

    def test_a_guest_that_was_stopped_owes_nothing(self) -> None:
        pacer = started(1_000)
        assert pacer.grant(START + 2_000_000).pages == 2
        pacer.stop(START + 7_000_000)
        pacer.cont(START + SECOND_NS)
        assert pacer.grant(START + SECOND_NS) == Grant(0, False, 1_000_000)
        assert pacer.grant(START + SECOND_NS + 1_000_000).pages == 1

    def test_the_rate_can_be_changed_while_it_runs(self) -> None:
        pacer = started(0)
        assert pacer.grant(START + 5_000_000).pages == 0
        pacer.pages_per_second = 1_000
        assert pacer.grant(START + 6_000_000).pages == 6
        pacer.pages_per_second = None
        assert pacer.grant(START + 6_000_000).pages == MAX_GRANT
        pacer.pages_per_second = 0
        assert pacer.grant(START + 7_000_000) == Grant(0, False, TICK_NS - 7_000_000)


class TestState:
    @pytest.mark.parametrize("rate", [None, 0, 1, 100_000, (1 << 64) - 1])
    @pytest.mark.parametrize("ran_ns", [0, 1, TICK_NS - 1, TICK_NS, 2 * TICK_NS])
    def test_goes_on_elsewhere_at_another_time(self, rate: int | None, ran_ns: int) -> None:
        source, destination = started(rate), Pacer(5)
        source.stop(START + ran_ns)
        body = encode_vmstate(Pacer.description, source.save())
        destination.load(decode_vmstate(Pacer.description, Cursor(body)))
        assert destination.save() == source.save()
        assert destination.pages_per_second == rate
        now = 42
        destination.cont(now)
        left_ns = max(TICK_NS - ran_ns, 0)
        if left_ns:
            assert not destination.grant(now + left_ns - 1).is_tick
        assert destination.grant(now + left_ns).is_tick

    def test_is_the_same_before_the_first_start(self) -> None:
        expected = {"until_tick_ns": TICK_NS, "is_limited": True, "pages_per_second": 9}
        assert Pacer(9).save() == expected
        assert {field.name for field in Pacer.description.fields} == expected.keys()

    def test_a_tick_farther_away_than_a_tick_is_refused(self) -> None:
        pacer = Pacer(5)
        with pytest.raises(GuestError) as caught:
            pacer.load({"until_tick_ns": TICK_NS + 1, "is_limited": False, "pages_per_second": 0})
        expected = "the pacer's next tick: expected at most 15000000 ns, got 15000001"
        assert str(caught.value) == expected
        assert pacer.pages_per_second == 5
