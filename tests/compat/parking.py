"""A guest that goes from a real QEMU into a file and from there into another real QEMU."""

from pathlib import Path

from tests.compat.command import Outcome, Switchover, run

from switchover.testing import Qemu

RETURN_PATH = ("return-path",)
SWITCHOVER_ACK = ("return-path", "switchover-ack")


def receive(
    source: Qemu, file: Path, capabilities: tuple[str, ...] = RETURN_PATH, *options: str
) -> Outcome:
    """Moves the source's guest into a file; both sides agree that it is there."""
    names = [word for name in capabilities for word in ("--capability", name)]
    with Switchover("receive", "tcp:127.0.0.1:0", "--output", file, *names, *options) as command:
        source.set_capabilities(*capabilities)
        source.migrate(command.wait_uri())
        outcome = command.wait()
        assert outcome.exit_code == 0, outcome.messages
        source.wait_status("completed")
    return outcome


def refuse(source: Qemu, file: Path, capabilities: tuple[str, ...] = RETURN_PATH) -> Outcome:
    """Tries the same with a guest that cannot be received, which then goes on at its source."""
    names = [word for name in RETURN_PATH for word in ("--capability", name)]
    with Switchover("receive", "tcp:127.0.0.1:0", "--output", file, *names) as command:
        source.set_capabilities(*capabilities)
        source.migrate(command.wait_uri())
        outcome = command.wait()
        source.wait_status("failed")
    assert outcome.exit_code == 1, outcome.messages
    assert outcome.report["status"] == "failed"
    assert list(file.parent.iterdir()) == []
    source.wait_run_state("running")
    return outcome


def send(file: Path, destination: Qemu) -> Outcome:
    """Moves the guest in a file into a QEMU that waits with `incoming="defer"`."""
    uri = f"unix:{destination.directory / 'migration'}"
    destination.migrate_incoming(uri)
    outcome = run("send", file, uri)
    assert outcome.exit_code == 0, outcome.messages
    destination.wait_status("completed")
    return outcome


def incoming_uri(destination: Qemu, file: Path) -> str:
    """How that QEMU reads a file by itself."""
    return f"file:{file}" if destination.peer.version >= (8, 2) else f"exec:cat {file}"
