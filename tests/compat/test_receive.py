"""A running guest of a real QEMU comes in, and is not stopped before our ACK."""

from pathlib import Path

import pytest
from tests.compat.command import Switchover
from tests.compat.parking import RETURN_PATH, SWITCHOVER_ACK, receive

from switchover.testing import BootSectorGuest, Peer, Qemu

HOLD_S = 3


@pytest.mark.parametrize("peer_name", ["peer_10_0", "peer_11_1"])
def test_guest_runs_at_its_source_until_the_ack(
    peer_name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    peer: Peer = request.getfixturevalue(peer_name)
    file = tmp_path / "guest"
    with Qemu(peer, "pc-i440fx-10.0", guest=BootSectorGuest()) as source:
        source.wait_serial("ABC")
        source.set_capabilities(*SWITCHOVER_ACK)
        names = [word for name in SWITCHOVER_ACK for word in ("--capability", name)]
        hold = ("--hold-ack", f"{HOLD_S}.0")
        with Switchover("receive", "tcp:127.0.0.1:0", "--output", file, *names, *hold) as command:
            source.migrate(command.wait_uri())
            source.wait_status("active")
            before = len(source.serial())
            # Letters are printed by a guest that runs: half a second's worth while it waits.
            source.wait_serial(lambda text: len(text) >= before + 50)
            info = source.query("query-migrate")
            assert info["status"] == "active"
            assert source.run_state() == "running"
            assert not file.exists()
            outcome = command.wait()
        info = source.wait_status("completed")
    ack = outcome.report["switchover_ack"]
    assert outcome.exit_code == 0, outcome.messages
    assert ack["mode"] == "legacy"
    assert ack["sent_ms"] - ack["asked_ms"] >= HOLD_S * 1000
    assert info["total-time"] >= HOLD_S * 1000
    # The machine stopped behind the ACK: all of its downtime lies there.
    assert info["downtime"] <= info["total-time"] - HOLD_S * 1000 + 100
    assert outcome.report["machine"] == "pc-i440fx-10.0"


def test_per_device_source_waits_for_nobody(peer_11_1: Peer, tmp_path: Path) -> None:
    with Qemu(peer_11_1, "pc-i440fx-11.1", guest=BootSectorGuest()) as source:
        source.wait_serial("ABC")
        outcome = receive(source, tmp_path / "guest", SWITCHOVER_ACK, "--hold-ack", "60")
    assert outcome.report["switchover_ack"] == {
        "mode": "per-device",
        "asked_ms": None,
        "sent_ms": None,
        "received_ms": None,
        "waiting_for": [],
        "waiting_ms": None,
        "timed_out": False,
    }
    assert "no ACK to be held" in outcome.messages


@pytest.mark.parametrize("capabilities", [RETURN_PATH, ()], ids=["return-path", "one-way"])
def test_source_without_the_capability(
    peer: Peer, capabilities: tuple[str, ...], tmp_path: Path
) -> None:
    with Qemu(peer, guest=BootSectorGuest()) as source:
        source.wait_serial("ABC")
        outcome = receive(source, tmp_path / "guest", capabilities)
    assert outcome.report["switchover_ack"]["sent_ms"] is None


def test_stopped_machine_does_not_wait(peer_10_0: Peer, tmp_path: Path) -> None:
    with Qemu(peer_10_0, paused=True) as source:
        outcome = receive(source, tmp_path / "guest", SWITCHOVER_ACK, "--hold-ack", "60")
    ack = outcome.report["switchover_ack"]
    assert ack["asked_ms"] is not None
    assert ack["sent_ms"] is None


def test_name_without_a_version_counts_as_legacy(peer_10_0: Peer, tmp_path: Path) -> None:
    with Qemu(peer_10_0, "microvm") as source:
        outcome = receive(source, tmp_path / "guest", SWITCHOVER_ACK)
    assert outcome.report["switchover_ack"]["mode"] == "legacy"
    assert "does not tell the mode" in outcome.messages


def test_mode_that_is_told(peer_11_1: Peer, tmp_path: Path) -> None:
    with Qemu(peer_11_1, "microvm") as source:
        outcome = receive(
            source,
            tmp_path / "guest",
            SWITCHOVER_ACK,
            *("--switchover-ack-mode", "per-device"),
        )
    assert outcome.report["switchover_ack"]["sent_ms"] is None
    assert "does not tell the mode" not in outcome.messages


def test_wrong_mode_looks_as_the_warning_says(peer_11_1: Peer, tmp_path: Path) -> None:
    file = tmp_path / "guest"
    names = [word for name in SWITCHOVER_ACK for word in ("--capability", name)]
    with (
        Qemu(peer_11_1, "microvm") as source,
        Switchover("receive", "tcp:127.0.0.1:0", "--output", file, *names) as command,
    ):
        source.set_capabilities(*SWITCHOVER_ACK)
        source.migrate(command.wait_uri())
        error = source.wait_error()
        source.execute("migrate_cancel")
        outcome = command.wait()
    assert error == "Switchover ack pending num underflowed"
    assert f"'{error}'" in outcome.messages
    assert outcome.exit_code == 1
    assert list(tmp_path.iterdir()) == []
