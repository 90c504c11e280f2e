"""What cannot be moved is refused in one sentence, and the guest goes on where it was."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from tests.compat.command import Switchover, run
from tests.compat.parking import RETURN_PATH, receive, refuse

from switchover.testing import BootSectorGuest, Peer, Qemu, QemuError


@pytest.mark.parametrize(
    ("capability", "sentence"),
    [
        ("multifd", "multifd"),
        ("postcopy-ram", "command POSTCOPY_ADVISE belongs to capability 'postcopy-ram'"),
        ("dirty-bitmaps", "'dirty-bitmaps', which is not supported yet"),
        ("x-ignore-shared", "capability 'x-ignore-shared' is not supported yet"),
    ],
)
def test_capability_of_the_source(
    peer: Peer, capability: str, sentence: str, tmp_path: Path
) -> None:
    with Qemu(peer, guest=BootSectorGuest()) as source:
        source.wait_serial("ABC")
        outcome = refuse(source, tmp_path / "guest", (*RETURN_PATH, capability))
    assert sentence in outcome.report["error"]


def test_xbzrle(peer: Peer, tmp_path: Path) -> None:
    with Qemu(peer, guest=BootSectorGuest()) as source:
        # A second pass is needed: there is one, as the guest dirties far more than this sends.
        source.set_parameters({"downtime-limit": 1, "max-bandwidth": 32 << 20})
        source.wait_serial("ABC")
        outcome = refuse(source, tmp_path / "guest", (*RETURN_PATH, "xbzrle"))
    assert "capability 'xbzrle' is not supported yet" in outcome.report["error"]
    assert "at offset 0x" in outcome.report["error"]


def test_missing_description(peer: Peer, tmp_path: Path) -> None:
    with Qemu(peer, "pc,suppress-vmdesc=on", guest=BootSectorGuest()) as source:
        source.wait_serial("ABC")
        outcome = refuse(source, tmp_path / "guest")
    assert "suppress-vmdesc=on, which is not supported" in outcome.report["error"]


def test_early_setup(peer_10_0: Peer, tmp_path: Path) -> None:
    extra = [
        *("-object", "memory-backend-ram,id=pluggable,size=64M"),
        *("-device", "virtio-mem-pci,memdev=pluggable"),
    ]
    with Qemu(peer_10_0, "pc", "64M,maxmem=256M", guest=BootSectorGuest(), extra=extra) as source:
        source.wait_serial("ABC")
        outcome = refuse(source, tmp_path / "guest")
    assert "a device with early setup (virtio-mem)" in outcome.report["error"]


def test_output_that_cannot_be_written(peer_10_0: Peer, tmp_path: Path) -> None:
    outcome = run("receive", "tcp:127.0.0.1:0", "--output", tmp_path / "missing" / "guest")
    assert outcome.exit_code == 1
    assert "No such file or directory" in outcome.report["error"]


@pytest.mark.parametrize("ending", ["kill", "interrupt"])
def test_receive_that_ends_leaves_the_guest_running(
    peer_10_0: Peer, ending: str, tmp_path: Path
) -> None:
    file = tmp_path / "guest"
    names = ("--capability", "return-path", "--capability", "switchover-ack")
    arguments = ("receive", "tcp:127.0.0.1:0", "--output", file, *names, "--hold-ack", "100")
    with Qemu(peer_10_0, guest=BootSectorGuest()) as source, Switchover(*arguments) as command:
        source.wait_serial("ABC")
        source.set_capabilities("return-path", "switchover-ack")
        source.migrate(command.wait_uri())
        source.wait_status("active")
        if ending == "kill":
            command.kill()
        else:
            command.interrupt()
            assert command.wait().report["status"] == "cancelled"
            assert list(tmp_path.iterdir()) == []
        source.wait_status("failed")
        assert source.run_state() == "running"
        assert not file.exists()


def test_source_that_dies_leaves_no_file(peer_10_0: Peer, tmp_path: Path) -> None:
    file = tmp_path / "guest"
    names = ("--capability", "return-path", "--capability", "switchover-ack")
    arguments = ("receive", "tcp:127.0.0.1:0", "--output", file, *names, "--hold-ack", "100")
    with Qemu(peer_10_0, guest=BootSectorGuest()) as source, Switchover(*arguments) as command:
        source.set_capabilities("return-path", "switchover-ack")
        source.migrate(command.wait_uri())
        source.wait_status("active")
        os.kill(source.pid, signal.SIGKILL)
        outcome = command.wait()
    assert outcome.exit_code == 1
    assert "the source left before the guest was whole" in outcome.report["error"]
    assert list(tmp_path.iterdir()) == []


def test_cancelled_at_the_source(peer_10_0: Peer, tmp_path: Path) -> None:
    file = tmp_path / "guest"
    names = ("--capability", "return-path", "--capability", "switchover-ack")
    arguments = ("receive", "tcp:127.0.0.1:0", "--output", file, *names, "--hold-ack", "100")
    with Qemu(peer_10_0, guest=BootSectorGuest()) as source, Switchover(*arguments) as command:
        source.set_capabilities("return-path", "switchover-ack")
        source.migrate(command.wait_uri())
        source.wait_status("active")
        source.execute("migrate_cancel")
        outcome = command.wait()
        source.wait_status("cancelled")
        assert source.run_state() == "running"
    assert outcome.exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("machine", "memory"), [("q35", "64M"), ("pc", "32M")], ids=["machine", "memory"]
)
def test_destination_that_is_another_machine(
    peer: Peer, machine: str, memory: str, tmp_path: Path
) -> None:
    file = tmp_path / "guest"
    with Qemu(peer) as source:
        receive(source, file)
    with Qemu(peer, machine, memory, incoming="defer") as destination:
        uri = f"unix:{destination.directory / 'migration'}"
        destination.migrate_incoming(uri)
        outcome = run("send", file, uri)
        with pytest.raises(QemuError):
            destination.wait_status("completed")
    assert outcome.exit_code == 1
    assert outcome.report["status"] == "failed"
    assert outcome.report["error"]
    assert file.exists()


@pytest.mark.parametrize(
    ("is_zero", "sentence"),
    [
        (False, "the destination did not get the whole guest"),
        (True, "nobody here can know whether the destination runs the guest"),
    ],
    ids=["before the end", "after everything"],
)
def test_destination_that_dies(
    peer_10_0: Peer, is_zero: bool, sentence: str, tmp_path: Path
) -> None:
    """A QEMU that is stopped by a signal reads nothing: what is sent waits in the socket."""
    file, backing = tmp_path / "guest", tmp_path / "backing"
    size = 8 << 20
    backing.write_bytes(bytes(size) if is_zero else np.random.default_rng(3).bytes(size))
    ram = f"memory-backend-file,id=ram,size={size},mem-path={backing},share=off"
    machine, memory = "none,memory-backend=ram", "8M"
    with Qemu(peer_10_0, machine, memory, extra=["-object", ram]) as source:
        receive(source, file)
    with Qemu(peer_10_0, "none", memory, incoming="defer") as destination:
        uri = f"unix:{destination.directory / 'migration'}"
        destination.migrate_incoming(uri)
        os.kill(destination.pid, signal.SIGSTOP)
        with Switchover("send", file, uri) as command:
            command.wait_message("^device: " if is_zero else "^active: ")
            os.kill(destination.pid, signal.SIGKILL)
            outcome = command.wait()
    assert outcome.exit_code == 1
    assert sentence in outcome.report["error"]
