"""What a source expects of the rest: when little is left, and what it says where it never is."""

from collections.abc import Iterator

import pytest

from switchover.engine.outlook import Outlook, Told
from switchover.engine.progress import Progress
from switchover.model.section import SectionHeader
from switchover.protocol.convergence import Convergence
from switchover.protocol.pace import Pace
from switchover.protocol.savevm import Buffers
from switchover.wire.return_path import LoadReport

MIB = 1 << 20


class Sized:
    """A live section that has so much left, and so much more once the guest is stopped."""

    def __init__(self, section_id: int, known: int, exact: int = 0, at_stop: int = 0) -> None:
        self.header = SectionHeader(section_id, f"vf{section_id}", 0, 1)
        self.save_pace = Pace()
        self._known, self._exact, self._at_stop = known, exact, at_stop

    def setup(self) -> Buffers:
        return []

    def pending_bytes(self) -> int:
        return self._known

    def pending_exact(self) -> tuple[int, int]:
        return self._exact, self._at_stop

    def iterate(self) -> Buffers:
        return []

    def complete(self) -> Iterator[Buffers]:
        return iter(())

    def end(self) -> Iterator[Buffers]:
        return iter(())

    def state(self) -> bytes | None:
        return None

    def finish(self, *, is_moved: bool) -> None:
        pass


def outlook(mib_per_second: int, downtime_limit_ms: int = 1000) -> tuple[Outlook, Progress, Told]:
    convergence = Convergence(0, downtime_limit_ms, 0)
    convergence.avail_switchover_bandwidth = mib_per_second * MIB
    told, progress = Told(), Progress()
    return Outlook(convergence, told, progress), progress, told


def test_look_asks_nobody() -> None:
    view, progress, _ = outlook(10)
    view.look(MIB, [Sized(2, 9 * MIB, exact=100 * MIB, at_stop=100 * MIB)])
    assert view.has_little_left
    assert progress.remaining_bytes == 10 * MIB
    assert progress.bandwidth == 10 * MIB
    view.look(MIB + 1, [Sized(2, 9 * MIB)])
    assert not view.has_little_left


def test_look_closely_asks_for_what_is_left_at_the_stop_too() -> None:
    view, progress, _ = outlook(10)
    view.look_closely(MIB, [Sized(2, 0, 3 * MIB, 6 * MIB)], 0)
    assert view.has_little_left
    view.look_closely(MIB, [Sized(2, 0, 3 * MIB, 6 * MIB), Sized(3, 0, 0, 1)], 0)
    assert not view.has_little_left
    assert progress.remaining_bytes == 10 * MIB + 1


def test_what_never_fits_is_explained_until_it_fits() -> None:
    view, progress, _ = outlook(10)
    view.look_closely(0, [Sized(2, 0, MIB, 20 * MIB)], 0)
    assert progress.hint == (
        "what is left when the machine is stopped, 21 MiB with 20 MiB of device state, takes 2100 "
        "ms at 10 MiB/s, and downtime-limit is 1000 ms: raise downtime-limit or max-bandwidth, or "
        "set avail-switchover-bandwidth to what the line can do"
    )
    assert not view.wants_probe
    view.look_closely(0, [Sized(2, 0, MIB, MIB)], 0)
    assert progress.hint is None


def test_hint_of_a_wait_is_not_taken_away() -> None:
    view, progress, _ = outlook(10)
    progress.hint = "it is not ready"
    progress.waiting_for_ack()
    view.look_closely(0, [], 0)
    assert progress.hint == "it is not ready"
    progress.not_waiting()
    view.look_closely(0, [], 0)
    assert progress.hint is None


def test_what_is_only_still_to_be_sent_is_no_reason_for_a_hint() -> None:
    view, progress, _ = outlook(10)
    view.look_closely(100 * MIB, [Sized(2, 0, 0, 100 * MIB)], 0)
    assert progress.hint is None and not view.wants_probe


def test_line_that_nobody_measured_is_probed() -> None:
    told, progress = Told(), Progress()
    view = Outlook(Convergence(0, 1000, 0), told, progress)
    view.look_closely(0, [Sized(2, 0, 0, MIB)], 0)
    assert view.wants_probe and progress.hint is None
    view.look(0, [])
    assert not view.wants_probe


def test_expectation_says_whether_the_destination_told_of_every_device() -> None:
    view, progress, told = outlook(10)
    devices = [Sized(2, MIB), Sized(3, MIB)]
    measured = []
    told.wrote(2, 1, 1)
    told.wrote(3, 1, 2)
    for section_id in (2, 3, 4):
        view.look(0, devices)
        assert progress.expected_downtime is not None
        measured.append(progress.expected_downtime.is_load_measured)
        told.report(LoadReport(0, section_id, 1_000_000))
    assert measured == [False, False, True]
    view.look(0, [*devices, Sized(5, 0)])
    assert progress.expected_downtime is not None
    assert not progress.expected_downtime.is_load_measured


def test_report_of_a_section_that_was_not_sent_is_forgotten() -> None:
    _, _, told = outlook(10)
    told.wrote(2, 1, 1)
    for section_id in range(1000):
        told.report(LoadReport(0, section_id, 1_000_000))
    assert told.load_ns_per_mib == {2: 1_000_000}


def test_report_that_knows_no_pace_tells_of_none() -> None:
    _, _, told = outlook(10)
    told.report(LoadReport(5, 0, 0))
    assert told.load_ns_per_mib == {}


@pytest.mark.parametrize(
    ("consumed", "queued"),
    [
        (0, {1: 10, 2: 20}),
        (90, {1: 10, 2: 20}),
        (104, {1: 6, 2: 20}),
        (110, {2: 20}),
        (129, {2: 1}),
        (130, {}),
        (999, {}),
    ],
)
def test_what_was_written_and_not_taken_is_queued(consumed: int, queued: dict[int, int]) -> None:
    told = Told()
    told.wrote(1, 50, 90)  # Nobody keeps count before the destination does.
    told.report(LoadReport(0, 0, 0))
    told.wrote(1, 10, 110)
    told.wrote(2, 20, 130)
    told.report(LoadReport(consumed, 0, 0))
    assert told.queued_bytes() == queued
    assert told.queued_bytes() == queued
