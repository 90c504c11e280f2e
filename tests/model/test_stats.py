"""Reports as plain data."""

import json

from switchover.model.stats import (
    DeviceReport,
    ExpectedDowntime,
    Phase,
    SwitchoverAckReport,
    TransferReport,
)
from switchover.model.status import MigrationStatus
from switchover.model.switchover import SwitchoverAckMode

REPORT = TransferReport(
    status=MigrationStatus.COMPLETED,
    machine="pc-q35-10.0",
    switchover_ack=SwitchoverAckReport(SwitchoverAckMode.LEGACY, asked_ms=1.5, sent_ms=2.5),
    ram_bytes=16 << 20,
    transferred_bytes=12345,
    pages=2,
    zero_pages=4094,
    devices=(DeviceReport("timer", 0, 2, 24),),
    total_ms=7.25,
    downtime_ms=12.5,
    expected_downtime=ExpectedDowntime(12.0, 4.0, is_load_measured=True),
    phases=(Phase("source", "stop", 0.0, 12.5),),
)


def test_a_report_goes_into_json_with_every_part_of_it() -> None:
    assert json.loads(json.dumps(REPORT.as_dict())) == {
        "status": "completed",
        "machine": "pc-q35-10.0",
        "switchover_ack": {
            "mode": "legacy",
            "asked_ms": 1.5,
            "sent_ms": 2.5,
            "received_ms": None,
            "waiting_for": [],
            "waiting_ms": None,
            "timed_out": False,
        },
        "ram_bytes": 16777216,
        "transferred_bytes": 12345,
        "pages": 2,
        "zero_pages": 4094,
        "devices": [{"name": "timer", "instance_id": 0, "version_id": 2, "size": 24}],
        "total_ms": 7.25,
        "error": None,
        "remaining_bytes": 0,
        "bandwidth": 0,
        "dirty_sync_count": 0,
        "tracking": None,
        "downtime_ms": 12.5,
        "expected_downtime": {
            "expected_ms": 12.0,
            "transfer_ms": 4.0,
            "is_load_measured": True,
        },
        "phases": [{"side": "source", "name": "stop", "start_ms": 0.0, "duration_ms": 12.5}],
        "hint": None,
    }


def test_a_report_without_an_ack_has_no_times() -> None:
    report = SwitchoverAckReport(None)
    assert (report.asked_ms, report.sent_ms, report.received_ms) == (None, None, None)
