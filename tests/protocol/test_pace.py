"""How fast devices are, and what that makes of a downtime."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzzing import stable

from switchover.protocol.pace import MIB, Load, Pace, expected_ns, transfer_ns

MS = 1_000_000
SECOND = 1000 * MS


def test_nothing_is_known_in_the_beginning() -> None:
    assert Pace().ns_per_mib is None
    Pace().forget_last()


def test_the_pace_is_the_median() -> None:
    pace = Pace()
    for duration_ms in (2, 1, 1480, 3, 2):
        pace.add(MIB, duration_ms * MS)
    assert pace.ns_per_mib == 2 * MS


def test_a_block_counts_by_its_bytes() -> None:
    pace = Pace()
    pace.add(3 * MIB, 3 * MS)
    for _ in range(5):
        pace.add(5000, 7 * MS)
    assert pace.ns_per_mib == MS


def test_a_block_of_a_few_bytes_is_no_measure() -> None:
    pace = Pace()
    pace.add(24, MS)
    assert pace.ns_per_mib is None


def test_the_last_block_can_be_forgotten() -> None:
    pace = Pace()
    pace.add(MIB, 1480 * MS)
    pace.forget_last()
    assert pace.ns_per_mib is None
    pace.add(MIB, 4 * MS)
    assert pace.ns_per_mib == 4 * MS


def test_what_was_long_ago_does_not_count() -> None:
    pace = Pace()
    for _ in range(1000):
        pace.add(MIB, 9 * MS)
    for _ in range(300):
        pace.add(MIB, 2 * MS)
    assert pace.ns_per_mib == 2 * MS


def test_qemus_formula() -> None:
    assert transfer_ns(300_000_000, 1_000_000_000) == 300 * MS


@pytest.mark.parametrize(
    ("loads", "expected_ms"),
    [
        ([], 0),
        ([Load(10 * MIB)], 100),
        # The slowest of the three stages counts: they work at the same time.
        ([Load(10 * MIB, load_ns_per_mib=50 * MS)], 500),
        ([Load(10 * MIB, save_ns_per_mib=50 * MS)], 500),
        ([Load(10 * MIB, save_ns_per_mib=20 * MS, load_ns_per_mib=50 * MS)], 500),
        ([Load(10 * MIB, save_ns_per_mib=5 * MS, load_ns_per_mib=5 * MS)], 100),
        # Loading begins when the first bytes are there, behind the RAM.
        ([Load(20 * MIB), Load(10 * MIB, load_ns_per_mib=50 * MS)], 700),
        # What is on its way is in front of it.
        ([Load(0, queued_bytes=10 * MIB, load_ns_per_mib=50 * MS)], 500),
        ([Load(10 * MIB, queued_bytes=10 * MIB, load_ns_per_mib=50 * MS)], 1000),
        ([Load(10 * MIB, queued_bytes=10 * MIB)], 200),
        # One device behind the other.
        ([Load(10 * MIB, load_ns_per_mib=50 * MS), Load(10 * MIB)], 500),
        ([Load(10 * MIB), Load(10 * MIB, load_ns_per_mib=20 * MS)], 300),
    ],
)
def test_what_is_left_takes_as_long_as_its_slowest_stage(
    loads: list[Load], expected_ms: int
) -> None:
    assert expected_ns(loads, 100 * MIB) == pytest.approx(expected_ms * MS, rel=1e-6)


SIZES = st.integers(0, 64 * MIB)
PACES = st.integers(0, SECOND)
LOADS = st.lists(st.builds(Load, SIZES, SIZES, PACES, PACES), max_size=4)


@stable(200)
@given(LOADS, st.integers(1, 1 << 33))
def test_it_takes_at_least_as_long_as_the_line_and_at_most_all_stages_in_turn(
    loads: list[Load], bandwidth: int
) -> None:
    expected = expected_ns(loads, bandwidth)
    line = sum(transfer_ns(load.bytes, bandwidth) for load in loads)
    in_turn = sum(
        transfer_ns(load.bytes + load.queued_bytes, bandwidth)
        + (load.bytes + load.queued_bytes) * load.load_ns_per_mib // MIB
        + load.bytes * load.save_ns_per_mib // MIB
        for load in loads
    )
    assert line <= expected <= in_turn + len(loads) + 1


def test_the_unhindered_pace_is_that_of_the_faster_quarter() -> None:
    pace = Pace()
    assert pace.unhindered_ns_per_mib is None
    for duration_ms in (4, 1, 9, 2):
        pace.add(MIB, duration_ms * MS)
    assert pace.unhindered_ns_per_mib == MS
    assert pace.ns_per_mib == 2 * MS
