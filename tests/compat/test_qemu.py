"""What the driver of a real QEMU promises when something goes wrong."""

import socket
from pathlib import Path

import pytest

from switchover.testing import BootSectorGuest, Peer, Qemu, QemuError


def test_nothing_is_left(peer: Peer) -> None:
    with Qemu(peer, "none", "16M") as qemu:
        pid, directory = qemu.pid, qemu.directory
        assert qemu.peak_rss_bytes > 1 << 20
        assert qemu.qmp_path.is_socket()
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    assert not directory.exists()


def test_qemu_that_refuses_its_arguments_says_so(peer: Peer) -> None:
    with (
        pytest.raises(QemuError, match=r"exited with status 1; it said: .*sundial"),
        Qemu(peer, "none", extra=["-device", "sundial"]),
    ):
        pass


def test_refused_command_ends_in_qemus_words(peer: Peer) -> None:
    with Qemu(peer, "none", "16M") as qemu:
        with pytest.raises(QemuError, match=r"refuses sing: The command sing has not been found"):
            qemu.execute("sing")
        assert qemu.run_state() in ("running", "prelaunch")


def test_second_monitor_answers(peer_10_0: Peer) -> None:
    with (
        Qemu(peer_10_0, "none", "16M") as qemu,
        socket.socket(socket.AF_UNIX) as monitor,
    ):
        monitor.connect(str(qemu.qmp_path))
        assert monitor.recv(4) == b'{"QM'


def test_failed_migration_gives_the_reason(peer: Peer) -> None:
    with Qemu(peer, "none", "16M") as qemu:
        qemu.migrate(f"unix:{qemu.directory / 'nobody'}")
        with pytest.raises(QemuError, match=r"the migration is failed, not completed: .+"):
            qemu.wait_status("completed")


def test_destination_that_gets_nonsense_fails_and_says_so(peer: Peer) -> None:
    with Qemu(peer, "none", "16M", incoming="defer") as qemu:
        with pytest.raises(QemuError, match="Not a migration stream"):
            # An old one exits at once, maybe before it has answered; a new one stays.
            qemu.migrate_incoming("exec:echo nonsense")
            qemu.wait_status("completed")


def test_events_are_given_once_and_in_any_order(peer_10_0: Peer) -> None:
    with Qemu(peer_10_0, guest=BootSectorGuest()) as qemu:
        qemu.execute("stop")
        qemu.execute("cont")
        assert qemu.wait_event("RESUME")["event"] == "RESUME"
        assert qemu.wait_event("STOP")["event"] == "STOP"
        with pytest.raises(QemuError, match=r"no event STOP in 0\.05 s; other events: none"):
            qemu.wait_event("STOP", timeout=0.05)


def test_waiting_in_vain_says_for_what(peer_10_0: Peer) -> None:
    with Qemu(peer_10_0, guest=BootSectorGuest(), paused=True) as qemu:
        with pytest.raises(QemuError, match=r"the serial output has not 'A' in 0\.05 s"):
            qemu.wait_serial("A", timeout=0.05)
        with pytest.raises(QemuError, match=r"the guest is prelaunch after 0\.05 s, not running"):
            qemu.wait_run_state("running", timeout=0.05)
        with pytest.raises(QemuError, match=r"the migration is none after 0\.05 s, not completed"):
            qemu.wait_status("completed", timeout=0.05)
        with pytest.raises(QemuError, match=r"is still running after 0\.05 s"):
            qemu.wait_exit(timeout=0.05)
        qemu.execute("quit")
        assert qemu.wait_exit() == 0
