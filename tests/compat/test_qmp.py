"""`switchover migrate` drives real QEMUs, and our QMP refuses what QEMU's refuses, in its words."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import run_here, start
from tests.qmp.running import machine

from switchover.model.capability import QEMU_CAPABILITIES
from switchover.qmp.schema import MIGRATION_PARAMETERS, OWN_PARAMETERS
from switchover.testing import BootSectorGuest, Peer, Qemu, QemuError


def test_migrate_moves_a_guest_between_qemus(peer: Peer) -> None:
    guest = BootSectorGuest()
    with (
        Qemu(peer, guest=guest) as source,
        Qemu(peer, guest=guest, incoming="defer") as destination,
    ):
        source.wait_serial("ABC")
        has_ack = peer.version >= (8, 1)
        with start(
            *("migrate", "--qmp", f"unix:{source.qmp_path}", "--to-qmp", str(destination.qmp_path)),
            *("--capability", "return-path"),
            *(("--capability", "switchover-ack") if has_ack else ()),
            *("--set", "max-bandwidth=0", "--set", "downtime-limit=500"),
            *("--json", "tcp:127.0.0.1:0"),
        ) as running:
            done = running.wait()
        assert done.exit_code == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["status"], found["destination_status"]) == ("completed", "completed")
        assert found["ram"]["remaining"] == 0
        assert source.run_state() == "postmigrate"
        destination.wait_run_state("running")


def test_migrate_cancels_at_a_signal(peer_10_0: Peer) -> None:
    with (
        Qemu(peer_10_0, guest=BootSectorGuest()) as source,
        Qemu(peer_10_0, guest=BootSectorGuest(), incoming="defer") as destination,
    ):
        source.wait_serial("ABC")
        with start(
            *("migrate", "--qmp", str(source.qmp_path), "--to-qmp", str(destination.qmp_path)),
            *("--capability", "return-path", "--set", "max-bandwidth=100000"),
            *("--set", "downtime-limit=0", "--json", "tcp:127.0.0.1:0"),
        ) as running:
            while not running.read_line().startswith("active"):
                pass
            running.process.send_signal(signal.SIGINT)
            done = running.wait()
        assert done.exit_code == 1
        assert json.loads(done.stdout)["status"] == "cancelled"
        assert source.run_state() == "running"


def test_migrate_leaves_a_destination_that_listens_as_it_is(
    peer_10_0: Peer, tmp_path: Path
) -> None:
    uri, guest = f"unix:{tmp_path / 'stream'}", BootSectorGuest()
    with (
        Qemu(peer_10_0, guest=guest) as source,
        Qemu(peer_10_0, guest=guest, incoming=uri) as destination,
    ):
        source.wait_serial("ABC")
        done = run_here(
            *("migrate", "--qmp", str(source.qmp_path), "--to-qmp", str(destination.qmp_path)),
            *("--set", "downtime-limit=1000", "--set", "max-bandwidth=0", uri),
        )
        assert done.exit_code == 0, done.stderr
        assert "told before where to listen" in done.stderr
        destination.wait_run_state("running")


def test_migrate_tells_what_a_qemu_refuses(peer_10_0: Peer) -> None:
    with Qemu(peer_10_0) as source:
        done = run_here(
            *("migrate", "--qmp", str(source.qmp_path), "--capability", "switchover-ack"),
            "tcp:127.0.0.1:1",
        )
        assert (done.exit_code, done.error) == (
            1,
            "the source refuses migrate-set-capabilities: Capability 'switchover-ack' requires "
            "capability 'return-path'",
        )
        done = run_here("migrate", "--qmp", str(source.qmp_path), "tcp:127.0.0.1:1")
        assert done.exit_code == 1
        assert "Connection refused" in done.error


def capability(name: object, state: object = True) -> dict[str, Any]:
    return {"capabilities": [{"capability": name, "state": state}]}


def test_ours_refuses_in_the_words_of_a_qemu(peer_10_0: Peer, tmp_path: Path) -> None:
    with Qemu(peer_10_0) as qemu, machine(tmp_path / "a") as ours, ours.monitor() as client:
        for command, arguments in REFUSED:
            with pytest.raises(QemuError) as caught:
                qemu.execute(command, **arguments)
            theirs = str(caught.value).partition(f"refuses {command}: ")[2]
            refusal = client.refusal(command, **arguments).partition(": ")[2]
            assert refusal == theirs


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("bogus", {}),
    ("stop", {"a": 1}),
    ("migrate", {}),
    ("migrate", {"uri": 5}),
    ("migrate", {"uri": "tcp:127.0.0.1:1", "detach": 5}),
    ("migrate", {"uri": "tcp:127.0.0.1:1", "resume": True}),
    ("migrate-incoming", {"uri": "tcp:127.0.0.1:1"}),
    ("migrate-set-capabilities", {}),
    ("migrate-set-capabilities", {"capabilities": [5]}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "events"}]}),
    ("migrate-set-capabilities", capability("bogus")),
    ("migrate-set-capabilities", capability(5)),
    ("migrate-set-capabilities", capability("events", 5)),
    ("migrate-set-capabilities", capability("switchover-ack")),
    ("migrate-set-parameters", {"bogus": 1}),
    ("migrate-set-parameters", {"downtime-limit": -1}),
    ("migrate-set-parameters", {"downtime-limit": 2000001}),
    ("migrate-set-parameters", {"downtime-limit": "x"}),
    ("migrate-set-parameters", {"max-bandwidth": 1.5}),
    ("migrate-set-parameters", {"multifd-channels": 256}),
    ("migrate-set-parameters", {"tls-creds": 5}),
    ("migrate-set-parameters", {"direct-io": "yes"}),
    ("migrate-set-parameters", {"zero-page-detection": "bogus"}),
]


def test_ours_answers_with_the_names_and_defaults_of_a_qemu(
    peer_10_0: Peer, tmp_path: Path
) -> None:
    with Qemu(peer_10_0) as qemu, machine(tmp_path / "a") as ours, ours.monitor() as client:
        own = {name: MIGRATION_PARAMETERS[name].default for name in OWN_PARAMETERS}
        theirs = qemu.query("query-migrate-parameters")
        assert not own.keys() & theirs.keys()
        assert client.execute("query-migrate-parameters") == theirs | own
        capabilities = qemu.execute("query-migrate-capabilities")
        assert isinstance(capabilities, list)
        assert [entry["capability"] for entry in capabilities] == list(QEMU_CAPABILITIES)
        assert client.execute("query-migrate-capabilities") == [
            *capabilities,
            {"capability": "x-load-report", "state": False},
        ]
        known = {entry["name"] for entry in qemu.execute("query-commands")}  # type: ignore[attr-defined]
        assert {entry["name"] for entry in client.execute("query-commands")} <= known
