"""What the bench of real QEMUs measures and how it sums up, without any QEMU."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from switchover.bench import vfio_qemu
from switchover.bench.switchover_ack import Spread
from switchover.bench.vfio_qemu import Outcome, Plan, Setting, find_qemus, run_vfio_qemu
from switchover.cli.main import app
from switchover.errors import MigrationError
from switchover.testing import Peer, missing_reason

PEER = Peer((11, 1, 3), Path("/nowhere"))


def test_settings_are_all_of_one_qemu_then_of_the_next_then_ours() -> None:
    plan = Plan(allocations_ms=(0, 5), busy_allocations_ms=(5,))
    one = [
        *(("idle", 0, False), ("idle", 0, True), ("idle", 5, False), ("idle", 5, True)),
        *(("busy", 5, False), ("busy", 5, True)),
    ]
    found = [
        (setting.qemu, setting.workload, setting.allocate_ms, setting.switchover_ack)
        for setting in plan.settings([PEER])
    ]
    assert found == [(qemu, *setting) for qemu in ("11.1", "switchover") for setting in one]


def test_rounds_alternate_and_what_does_not_complete_is_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes = iter(
        [
            Outcome("m", "completed", 30),
            Outcome("m", "active", None, "the migration is still active"),
            Outcome("m", "completed", 10),
            Outcome("m", "failed", None, "no"),
        ]
    )
    measured: list[bool] = []

    def measure(setting: Setting) -> Outcome:
        measured.append(setting.switchover_ack)
        return next(outcomes)

    monkeypatch.setattr(vfio_qemu, "_measure", measure)
    told: list[str] = []
    plan = Plan(rounds=2, allocations_ms=(7,), busy_allocations_ms=(), with_ours=False)
    without, with_ack = run_vfio_qemu(told.append, [PEER], plan, lambda: 3.0)
    assert measured == [False, True, False, True]
    assert (without.downtime_ms, without.status) == (Spread(20, 10, 30), "completed")
    assert without.error is None
    assert (with_ack.downtime_ms, with_ack.status) == (None, "active")
    assert with_ack.error == "the migration is still active"
    assert told[0] == (
        "   0 s: round 1 of 2: QEMU 11.1, idle guest, allocation 7 ms, without the ACK"
    )
    assert told[-1] == "   0 s: done"


def test_a_peer_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MigrationError) as caught:
        find_qemus(["11.1"], tmp_path)
    assert str(caught.value) == missing_reason("11.1", tmp_path)


@pytest.mark.parametrize("name", ["11.1", "3.0"])
def test_the_command_says_what_is_missing(name: str, tmp_path: Path) -> None:
    arguments = ["bench", "vfio-qemu", "--peers-dir", str(tmp_path), "--qemu", name]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"{name}" in result.stderr
