"""The figures of a migration."""

import time

import pytest
from tests.engine.peer import make_guest

from switchover.engine.progress import Progress
from switchover.errors import PeerError
from switchover.model.stats import TransferReport
from switchover.model.status import MigrationStatus
from switchover.model.switchover import SwitchoverAckMode

MS_NS = 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time, which a test moves on."""
    now = [5_000 * MS_NS]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    return now


def test_time_counts_from_the_connection(clock: list[int]) -> None:
    progress = Progress()
    clock[0] += 1000 * MS_NS
    progress.start()
    progress.ack_asked_ns = clock[0] + 1 * MS_NS
    progress.ack_sent_ns = clock[0] + 3 * MS_NS // 2
    progress.ack_received_ns = clock[0] + 2 * MS_NS
    clock[0] += 7 * MS_NS
    report = progress.report()
    assert report.total_ms == 7
    ack = report.switchover_ack
    assert (ack.asked_ms, ack.sent_ms, ack.received_ms) == (1, 1.5, 2)


def test_report_before_anything_happened(clock: list[int]) -> None:
    report = Progress().report()
    assert report == TransferReport(
        status=MigrationStatus.SETUP,
        machine=None,
        switchover_ack=report.switchover_ack,
        ram_bytes=0,
        transferred_bytes=0,
        pages=0,
        zero_pages=0,
        devices=(),
        total_ms=0,
    )
    ack = report.switchover_ack
    assert (ack.mode, ack.asked_ms, ack.sent_ms, ack.received_ms) == (None, None, None, None)


def test_devices_and_errors_are_reported() -> None:
    progress = Progress()
    progress.devices = make_guest().devices
    progress.ack_mode = SwitchoverAckMode.LEGACY
    report = progress.report(PeerError("it left"))
    assert [(device.name, device.instance_id, device.size) for device in report.devices] == [
        ("timer", 0, 44),
        ("timer", 1, 44),
    ]
    assert report.error == "it left"
    assert report.switchover_ack.mode == SwitchoverAckMode.LEGACY


def test_observer_is_told_each_change_once_and_of_the_rest_now_and_then(clock: list[int]) -> None:
    seen: list[tuple[MigrationStatus, int]] = []
    progress = Progress(lambda report: seen.append((report.status, report.transferred_bytes)))
    progress.enter(MigrationStatus.SETUP)
    assert not seen
    progress.enter(MigrationStatus.ACTIVE)
    progress.enter(MigrationStatus.ACTIVE)
    for count in range(1, 1001):
        clock[0] += MS_NS
        progress.transferred_bytes = count
        progress.tick()
    assert seen[0] == (MigrationStatus.ACTIVE, 0)
    assert [count for _, count in seen[1:]] == list(range(100, 1001, 100))


def test_nobody_needs_to_watch() -> None:
    progress = Progress()
    progress.enter(MigrationStatus.ACTIVE)
    progress.tick()
    assert progress.status == MigrationStatus.ACTIVE
