"""The demo: three moves of a running machine, judged by the machine itself."""

import json
import subprocess
import sys

import pytest

from switchover.demo import run_demo
from switchover.model.status import MigrationStatus
from switchover.vfio.options import SimOptions

KEYS = {
    "workload",
    "switchover_ack",
    "status",
    "total_ms",
    "downtime_ms",
    "guest_downtime_ms",
    "ack_wait_ms",
    "expected_downtime",
    "phases",
    "transferred_bytes",
    "memory_verified",
    "ticks_continuous",
}


def test_demo_as_a_user_runs_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "switchover", "demo", "--allocate", "600ms", "--json"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    runs = json.loads(ran.stdout)["runs"]
    assert [(run["workload"], run["switchover_ack"]) for run in runs] == [
        ("idle", False),
        ("idle", True),
        ("busy", False),
    ]
    for run in runs:
        assert run.keys() >= KEYS
        assert run["status"] == MigrationStatus.COMPLETED
        assert run["memory_verified"]
        assert run["ticks_continuous"]
        assert run["error"] is None
    without, with_ack, _ = runs
    # The time of the allocation lies in the downtime, or in the wait: it is never shorter.
    assert without["allocated_after_stop"]
    assert without["downtime_ms"] >= 600
    assert without["ack_wait_ms"] is None
    assert not with_ack["allocated_after_stop"]
    assert with_ack["transferred_bytes"] > 300_000_000
    for run in runs:
        assert run["expected_downtime"]["is_load_measured"]
        ours = [phase for phase in run["phases"] if phase["side"] == "source"]
        assert [phase["name"] for phase in ours] == [
            *("stop", "sync", "ram", "nic/vfio", "devices", "wait")
        ]
        total_ms = sum(phase["duration_ms"] for phase in ours)
        assert total_ms == pytest.approx(run["downtime_ms"], abs=0.01)
        theirs = [phase["name"] for phase in run["phases"] if phase["side"] == "destination"]
        assert theirs == ["ram", "nic/vfio", "devices"]


def test_device_that_does_not_fit_is_an_error_and_no_hang(
    capfd: pytest.CaptureFixture[str],
) -> None:
    first = next(run_demo(SimOptions("nic", state_bytes=1 << 60), lambda _: None))
    assert first.status == MigrationStatus.FAILED
    assert not first.is_right
    assert first.error is not None
    capfd.readouterr()
