"""The demo and the bench on a real QEMU, whose VFIO device is simulated."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from switchover.bench.vfio_qemu import Plan, Row, run_vfio_qemu
from switchover.errors import MigrationError
from switchover.player.process import why_not
from switchover.testing import Peer
from switchover.trial_qemu import QemuTrial, peer_at, run_qemu_trial, why_not_qemu
from switchover.vfio.options import SimOptions, parse_options

needs_playing = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

SMALL = ("--state", "40M", "--initial", "4M", "--allocate", "700ms")


@needs_playing
def test_demo_as_a_user_runs_it(peer_10_0: Peer) -> None:
    ran = _demo("--qemu-binary", str(peer_10_0.path), *SMALL, "--json")
    assert ran.returncode == 0, ran.stderr
    without, with_ack = json.loads(ran.stdout)["runs"]
    for run in (without, with_ack):
        assert run["status"] == "completed"
        assert run["state_verified"]
        assert run["error"] is None
        assert run["allocate_ms"] == 700
        assert run["workload"] == "idle"
        moments = [(moment["side"], moment["what"]) for moment in run["moments"]]
        assert [what for side, what in moments if side == "source"] == [
            *("PRE_COPY", "PRE_COPY_P2P", "STOP_COPY", "STOP")
        ]
        assert [what for side, what in moments if side == "destination"] == [
            *("RESUMING", "allocates", "allocated", "RUNNING_P2P", "RUNNING")
        ]
        # The allocation is in the downtime, or before it: nothing hangs on how fast this is.
        stopped = moments.index(("source", "STOP_COPY"))
        allocated = moments.index(("destination", "allocated"))
        assert (allocated < stopped) is run["switchover_ack"]
    assert not without["switchover_ack"]
    assert without["downtime_ms"] >= 600
    assert "without switchover-ack" in ran.stderr


@needs_playing
def test_demo_shows_a_table(peer_10_0: Peer) -> None:
    ran = _demo("--qemu-binary", str(peer_10_0.path), *SMALL)
    assert ran.returncode == 0, ran.stderr
    assert "downtime" in ran.stdout
    assert "The device is simulated" in ran.stdout


def test_a_qemu_that_is_too_old_is_named(peer_7_2: Peer) -> None:
    reason = why_not_qemu(peer_7_2)
    assert reason is not None
    ran = _demo("--qemu-binary", str(peer_7_2.path))
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == [f"switchover: error: {reason}"]


def test_what_is_no_qemu_is_named() -> None:
    with pytest.raises(MigrationError, match="/bin/true is no QEMU that starts"):
        peer_at(Path("/bin/true"))


@needs_playing
def test_a_move_that_fails_is_a_report(peer_10_0: Peer) -> None:
    device = parse_options("state=8M,initial=1M,allocate=0s,fail=stop-copy:EIO", "nic")
    run = run_qemu_trial(QemuTrial(peer_10_0, "pc-q35-10.0", False, device))
    assert run.status == "failed"
    assert run.error is not None
    assert run.downtime_ms is None
    assert not run.is_right


@needs_playing
def test_a_qemu_that_does_not_start_is_a_report(peer_10_0: Peer) -> None:
    device = SimOptions("nic", state_bytes=1 << 20)
    run = run_qemu_trial(QemuTrial(peer_10_0, "no-such-machine", False, device))
    assert run.status == "failed"
    assert run.error is not None and "no-such-machine" in run.error


@needs_playing
def test_a_busy_guest_hides_the_allocation(peer_10_0: Peer) -> None:
    device = SimOptions("nic", initial=16 << 20, allocate_ns=500_000_000)
    trial = QemuTrial(peer_10_0, "pc-q35-10.0", False, device, is_busy=True)
    run = run_qemu_trial(trial)
    assert run.is_right, run.error
    # Its limit is raised once the destination has allocated, and not before.
    assert not run.allocated_after_stop


@needs_playing
def test_bench_gives_rows(peer_10_0: Peer) -> None:
    told: list[str] = []
    plan = Plan(rounds=1, allocations_ms=(200,), busy_allocations_ms=(), with_ours=False)
    rows = list(run_vfio_qemu(told.append, [peer_10_0], plan))
    assert [row.switchover_ack for row in rows] == [False, True]
    assert len(told) == 3
    for row in rows:
        assert row.as_dict().keys() == {
            *("qemu", "machine", "workload", "allocate_ms", "switchover_ack"),
            *("downtime_ms", "status", "error"),
        }
        assert (row.qemu, row.machine) == ("10.0", "pc-q35-10.0")
        assert row.status == "completed", row.error
        assert _spread(row).keys() == {"median", "min", "max"}


def _spread(row: Row) -> dict[str, float]:
    spread: dict[str, float] = row.as_dict()["downtime_ms"]
    return spread


def _demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "switchover", "demo", *arguments], capture_output=True, text=True
    )
