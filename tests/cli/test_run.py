"""`switchover run`: a machine in a process of its own, driven over QMP by real clients."""

import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import run_here, start
from tests.qmp.running import Machine, Monitor, check_ticks, listening_on, machine, quits
from tests.waiting import wait_until

from switchover import __version__

_SHELL = (sys.executable, "-m", "qemu.qmp.qmp_shell")
BUSY = ("--dirty-rate", "max", "--region", "8M")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Machine]:
    """A machine that runs."""
    with machine(tmp_path / "a") as one:
        yield one


def test_a_machine_runs_stops_and_goes_on(alone: Machine) -> None:
    assert stat.S_IMODE(alone.qmp_path.stat().st_mode) == 0o600
    with alone.monitor() as client:
        assert client.run_state == "running"
        version = client.execute("query-version")
        assert version["package"] == f"switchover {__version__}"
        assert client.execute("stop") == {}
        assert client.execute("stop") == {}
        assert client.run_state == "paused"
        assert client.execute("cont") == {}
        assert client.run_state == "running"
        assert client.events("RESUME") == [("STOP", None), ("RESUME", None)]
        wait_until(lambda: len(alone.ticks) >= 2, "two ticks")
        names = {entry["name"] for entry in client.execute("query-commands")}
        assert {"qmp_capabilities", "migrate", "migrate_cancel", "query-commands"} <= names
        assert client.execute("query-migrate") == {}
        assert client.execute("migrate_cancel") == {}
        client.execute("quit")
        assert client.events("SHUTDOWN") == [("SHUTDOWN", "host-qmp-quit")]
    assert alone.running.wait().exit_code == 0
    assert not alone.qmp_path.exists()


def test_a_machine_that_is_paused_waits_for_cont(tmp_path: Path) -> None:
    with machine(tmp_path / "a", "--paused") as one, one.monitor() as client:
        assert client.run_state == "prelaunch"
        client.execute("cont")
        assert client.run_state == "running"


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it(alone: Machine, number: int, exit_code: int) -> None:
    with alone.monitor() as client:
        alone.running.process.send_signal(number)
        assert client.events("SHUTDOWN") == [("SHUTDOWN", "host-signal")]
    done = alone.running.wait()
    assert (done.exit_code, done.stderr) == (exit_code, "")
    assert not alone.qmp_path.exists()


def test_serial_lines_go_to_standard_output(tmp_path: Path) -> None:
    with start("run", "--qmp", str(tmp_path / "qmp"), "--memory", "16M", "--serial", "-") as one:
        assert one.process.stdout is not None
        assert one.process.stdout.readline() == "tick 1\n"
        assert one.process.stdout.readline() == "tick 2\n"
        one.process.terminate()
        assert one.wait().exit_code == 0


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        ("bogus", {}, "CommandNotFound: The command bogus has not been found"),
        ("stop", {"a": 1}, "GenericError: Parameter 'a' is unexpected"),
        ("migrate", {}, "GenericError: need either 'uri' or 'channels' argument"),
        ("migrate", {"channels": []}, "GenericError: need either 'uri' or 'channels' argument"),
        (
            "migrate",
            {"channels": [{}]},
            "GenericError: argument 'channels' is not supported by switchover: use 'uri'",
        ),
        (
            "migrate",
            {"uri": "x", "channels": [{}]},
            "GenericError: 'uri' and 'channels' arguments are mutually exclusive",
        ),
        (
            "migrate",
            {"uri": 5},
            "GenericError: Invalid parameter type for 'uri', expected: string",
        ),
        (
            "migrate",
            {"uri": "tcp:localhost:1", "resume": True},
            "GenericError: Cannot resume if there is no paused migration",
        ),
        (
            "migrate-incoming",
            {"uri": "tcp:localhost:0"},
            "GenericError: '-incoming' was not specified on the command line",
        ),
        (
            "migrate-set-capabilities",
            {"capabilities": [{"capability": "switchover-ack", "state": True}]},
            "GenericError: Capability 'switchover-ack' requires capability 'return-path'",
        ),
        (
            "migrate-set-capabilities",
            {"capabilities": [{"capability": "multifd", "state": True}]},
            "GenericError: capability 'multifd' is not supported by switchover",
        ),
        (
            "migrate-set-parameters",
            {"downtime_limit": 2000001},
            "GenericError: Parameter 'downtime_limit' expects an integer in the range of 0 to "
            "(2000 * 1000) ms",
        ),
        (
            "migrate-set-parameters",
            {"multifd_channels": 4},
            "GenericError: parameter 'multifd-channels' is not supported by switchover",
        ),
    ],
    ids=str,
)
def test_commands_are_refused_as_qemu_does(
    paused: Monitor, command: str, arguments: dict[str, object], text: str
) -> None:
    assert paused.refusal(command, **arguments) == text


@pytest.fixture(scope="module")
def paused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    """A client of a machine to which nothing happens."""
    directory = tmp_path_factory.mktemp("paused") / "a"
    with machine(directory, "--paused") as one, one.monitor() as client:
        yield client


def test_qmp_shell_drives_it(alone: Machine) -> None:
    shell = subprocess.run(
        # It keeps a history at home.
        ["env", f"HOME={alone.directory}", *_SHELL, str(alone.qmp_path)],
        input="query-status\nmigrate-set-parameters downtime-limit=77\n"
        "query-migrate-parameters\nstop\nbogus\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shell.returncode == 0, shell.stderr
    assert '{"return": {"status": "running", "running": true}}' in shell.stdout
    assert '"downtime-limit": 77' in shell.stdout
    assert "The command bogus has not been found" in shell.stdout
    with alone.monitor() as client:
        assert client.run_state == "paused"


# Migration


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("capabilities", [[], ["return-path"], ["return-path", "switchover-ack"]])
def test_a_running_machine_moves_and_moves_back(
    tmp_path: Path, kind: str, capabilities: list[str]
) -> None:
    device = ("--device", "vfio-sim,state=2M,allocate=50ms")
    uri = "tcp:127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path / 'stream'}"
    with (
        machine(tmp_path / "a", "--dirty-rate", "500", *device) as first,
        machine(tmp_path / "b", "--incoming", "defer", *device) as second,
    ):
        with first.monitor() as source, second.monitor() as destination:
            assert destination.run_state == "inmigrate"
            wait_until(lambda: len(first.ticks) >= 2, "two ticks")
            for client in (source, destination):
                client.set_capabilities("events", *capabilities)
            source.execute("migrate", uri=listening_on(uri, destination), detach=True)
            ended = source.wait_status("completed")
            destination.wait_status("completed")
            assert source.run_state == "postmigrate"
            assert destination.run_state == "running"
            assert ended["ram"]["total"] == 16 << 20
            assert ended["ram"]["remaining"] == 0
            assert ended["ram"]["transferred"] > 2 << 20
            assert ended["total-time"] >= ended["downtime"]
            assert "expected-downtime" not in ended
            names = [name for _, name in source.events("completed") if name is not None]
            statuses = [name for name in names if isinstance(name, str)]
            passes = [name for name in names if isinstance(name, int)]
            assert statuses == ["setup", "active", "device", "completed"]
            assert passes == list(range(1, ended["ram"]["dirty-sync-count"] + 1))
            assert ("RESUME", None) in destination.events("RESUME")
            refused = source.refusal("migrate", uri="tcp:localhost:1")
            assert refused.endswith("the vm that was paused due to previous migration")
            again = destination.refusal("migrate-incoming", uri=uri)
            assert again.endswith("The incoming migration has already been started")
            wait_until(lambda: bool(second.ticks), "a tick")
        quits(first)
        quits(second)
        check_ticks(first, second)


def test_a_machine_that_is_paused_arrives_paused(tmp_path: Path) -> None:
    with (
        machine(tmp_path / "a", "--paused") as first,
        machine(tmp_path / "b", "--incoming", f"unix:{tmp_path / 'stream'}", "--paused") as second,
        first.monitor() as source,
        second.monitor() as destination,
    ):
        assert destination.refusal("migrate", uri="tcp:localhost:1").endswith(
            "Guest is waiting for an incoming migration"
        )
        source.execute("migrate", uri=f"unix:{tmp_path / 'stream'}")
        source.wait_status("completed")
        destination.wait_status("completed")
        assert destination.run_state == "paused"
        destination.execute("cont")
        assert destination.run_state == "running"


def test_a_machine_that_is_stopped_on_the_way_arrives_stopped(tmp_path: Path) -> None:
    with (
        machine(tmp_path / "a", *BUSY) as first,
        machine(tmp_path / "b", "--incoming", "defer") as second,
        first.monitor() as source,
        second.monitor() as destination,
    ):
        source.execute("migrate-set-parameters", max_bandwidth=100_000, downtime_limit=1)
        source.execute("migrate", uri=listening_on("tcp:127.0.0.1:0", destination))
        source.wait_status("active")
        source.execute("stop")
        assert source.run_state == "paused"
        source.execute("migrate-set-parameters", max_bandwidth=0)
        source.wait_status("completed")
        destination.wait_status("completed")
        assert source.run_state == "postmigrate"
        assert destination.run_state == "paused"


def test_ram_alone_moves_between_machines_that_have_nothing_else(tmp_path: Path) -> None:
    with (
        machine(tmp_path / "a", "--ram-only", "--dirty-rate", "100") as first,
        machine(tmp_path / "b", "--ram-only", "--incoming", "defer") as second,
        first.monitor() as source,
        second.monitor() as destination,
    ):
        source.execute("migrate", uri=listening_on("tcp:127.0.0.1:0", destination))
        source.wait_status("completed")
        destination.wait_status("completed")


def test_a_cancelled_migration_leaves_the_machine_running(tmp_path: Path) -> None:
    with (
        machine(tmp_path / "a", *BUSY) as first,
        machine(tmp_path / "b", "--incoming", "defer") as second,
        first.monitor() as source,
        second.monitor() as destination,
    ):
        source.set_capabilities("events", "return-path")
        source.execute("migrate-set-parameters", max_bandwidth=1 << 20, downtime_limit=0)
        source.execute("migrate", uri=listening_on("tcp:127.0.0.1:0", destination))
        active = source.wait_status("active")
        assert active["ram"]["total"] == 16 << 20
        assert "expected-downtime" in active and "downtime" not in active
        busy = "GenericError: There's a migration process in progress"
        assert source.refusal("migrate", uri="tcp:localhost:1") == busy
        assert source.refusal("migrate-set-capabilities", capabilities=[]) == busy
        source.execute("migrate_cancel")
        assert source.wait_status("cancelled") == {"status": "cancelled"}
        statuses = [name for name, status in source.events("cancelled") if name == "MIGRATION"]
        assert len(statuses) == 4
        assert source.run_state == "running"
        failed = destination.wait_status("failed")
        assert failed["error-desc"].startswith("load of migration failed: ")
        assert destination.run_state == "inmigrate"


def test_new_limits_count_at_once(tmp_path: Path) -> None:
    with (
        machine(tmp_path / "a", *BUSY) as first,
        machine(tmp_path / "b", "--incoming", "defer") as second,
        first.monitor() as source,
        second.monitor() as destination,
    ):
        source.set_capabilities("return-path")
        source.execute("migrate-set-parameters", max_bandwidth=100_000, downtime_limit=1)
        source.execute("migrate", uri=listening_on("tcp:127.0.0.1:0", destination))
        source.wait_status("active")
        source.execute("migrate-set-parameters", max_bandwidth=0, downtime_limit=2000)
        source.wait_status("completed")
        parameters = source.execute("query-migrate-parameters")
        assert (parameters["max-bandwidth"], parameters["downtime-limit"]) == (0, 2000)


DEVICE = "vfio-sim,state=2M,initial=1M,allocate=50ms"
DEAF = f"{DEVICE},never-ack=on"


@contextmanager
def two_machines(
    directory: Path, here: str = DEVICE, there: str = DEVICE
) -> Iterator[tuple[Monitor, Monitor]]:
    """Clients of a machine with a device, and of one that waits for it; all we have is on."""
    with (
        machine(directory / "a", "--dirty-rate", "100", "--device", here) as first,
        machine(directory / "b", "--incoming", "defer", "--device", there) as second,
        first.monitor() as source,
        second.monitor() as destination,
    ):
        for client in (source, destination):
            client.set_capabilities("events", "return-path", "switchover-ack", "x-load-report")
        yield source, destination


def wait_until_waiting(client: Monitor) -> dict[str, Any]:
    """Waits until a source waits for an ACK alone; what it then says."""
    said: dict[str, Any] = {}

    def is_waiting() -> bool:
        said.update(client.wait_status("active"))
        return said.get("x-switchover-ack", {}).get("waiting") is not None

    wait_until(is_waiting, "a wait")
    return said


def test_who_is_waited_for_is_told_on_both_sides(tmp_path: Path) -> None:
    with two_machines(tmp_path, there=DEAF) as (source, destination):
        source.execute("migrate", uri=listening_on("tcp:127.0.0.1:0", destination))
        active = wait_until_waiting(source)
        assert active["x-switchover-ack"].pop("waiting") > 0
        assert active["x-switchover-ack"] == {
            "mode": "legacy",
            "waiting-for": ["sim0/vfio"],
            "timed-out": False,
        }
        assert active["x-expected-downtime"].keys() == {"expected", "transfer", "load-measured"}
        assert "x-downtime-phases" not in active
        assert destination.wait_status("active")["x-switchover-ack"] == {
            "mode": "legacy",
            "waiting-for": ["sim0/vfio"],
            "waiting": None,
            "timed-out": False,
        }
        assert source.run_state == "running"
        source.execute("migrate_cancel")
        assert source.wait_status("cancelled") == {"status": "cancelled"}
        assert source.run_state == "running"


def test_time_that_is_up_cancels(tmp_path: Path) -> None:
    with two_machines(tmp_path, there=DEAF) as (source, destination):
        source.execute("migrate-set-parameters", switchover_ack_timeout=200)
        assert source.execute("query-migrate-parameters")["switchover-ack-timeout"] == 200
        source.execute("migrate", uri=listening_on("tcp:127.0.0.1:0", destination))
        failed = source.wait_status("failed")
        assert failed.keys() == {"status", "error-desc"}
        assert failed["error-desc"].startswith(
            "no SWITCHOVER_ACK came in 200 ms (switchover-ack-timeout) for 'sim0/vfio': "
        )
        assert source.run_state == "running"
        destination.wait_status("failed")


def test_time_that_is_set_while_it_runs_counts_and_may_go_on_without(tmp_path: Path) -> None:
    with two_machines(tmp_path, there=DEAF) as (source, destination):
        source.execute("migrate", uri=listening_on("tcp:127.0.0.1:0", destination))
        wait_until_waiting(source)
        source.execute(
            "migrate-set-parameters",
            switchover_ack_timeout=1,
            switchover_ack_timeout_policy="proceed",
        )
        ended = source.wait_status("completed")
        assert ended["x-switchover-ack"].pop("waiting") > 0
        assert ended["x-switchover-ack"] == {
            "mode": "legacy",
            "waiting-for": ["sim0/vfio"],
            "timed-out": True,
        }
        destination.wait_status("completed")
        assert destination.run_state == "running"


def test_a_pause_before_the_switchover_lasts_until_it_is_ended(tmp_path: Path) -> None:
    with two_machines(tmp_path) as (source, destination):
        source.set_capabilities("pause-before-switchover")
        none = source.refusal("migrate-continue", state="pre-switchover")
        assert none == "GenericError: Migration not in expected state: none"
        source.execute("migrate", uri=listening_on("tcp:127.0.0.1:0", destination))
        paused = source.wait_status("pre-switchover")
        assert [phase["name"] for phase in paused["x-downtime-phases"]] == ["stop", "pause"]
        assert source.run_state == "finish-migrate"
        wrong = source.refusal("migrate-continue", state="device")
        assert wrong == "GenericError: Migration not in expected state: pre-switchover"
        unknown = source.refusal("migrate-continue", state="later")
        assert unknown == "GenericError: Parameter 'state' does not accept value 'later'"
        assert source.refusal("migrate-continue") == "GenericError: Parameter 'state' is missing"
        assert source.wait_status("pre-switchover")
        source.execute("migrate-continue", state="pre-switchover")
        ended = source.wait_status("completed")
        names = [status for _, status in source.events("completed") if isinstance(status, str)]
        assert names == ["setup", "active", "pre-switchover", "device", "completed"]
        own = [phase for phase in ended["x-downtime-phases"] if phase["side"] == "source"]
        assert own[1]["name"] == "pause"
        assert round(sum(phase["duration"] for phase in own)) == ended["downtime"]
        told = {
            phase["name"] for phase in ended["x-downtime-phases"] if phase["side"] == "destination"
        }
        assert {"ram", "sim0/vfio", "devices"} <= told
        there = destination.wait_status("completed")["x-downtime-phases"]
        assert {phase["side"] for phase in there} == {"destination"}
        assert ended["x-expected-downtime"]["load-measured"]
        assert "x-hint" not in ended


def test_a_pause_before_the_switchover_may_be_cancelled(tmp_path: Path) -> None:
    with two_machines(tmp_path) as (source, destination):
        source.set_capabilities("pause-before-switchover")
        source.execute("migrate", uri=listening_on("tcp:127.0.0.1:0", destination))
        source.wait_status("pre-switchover")
        source.execute("migrate_cancel")
        assert source.wait_status("cancelled") == {"status": "cancelled"}
        assert source.run_state == "running"


def test_a_state_too_large_for_the_limit_is_hinted_at(tmp_path: Path) -> None:
    device = "vfio-sim,state=64M,initial=1M,allocate=0s"
    with two_machines(tmp_path, device, device) as (source, destination):
        source.execute("migrate-set-parameters", downtime_limit=1, max_bandwidth=0)
        source.execute("migrate", uri=listening_on("tcp:127.0.0.1:0", destination))
        wait_until(lambda: "x-hint" in source.wait_status("active"), "the hint")
        hint = source.wait_status("active")["x-hint"]
        assert hint.startswith("what is left when the machine is stopped, ")
        assert hint.endswith("or set avail-switchover-bandwidth to what the line can do")
        source.execute("migrate-set-parameters", avail_switchover_bandwidth=1 << 40)
        ended = source.wait_status("completed")
        assert "x-hint" not in ended
        parameters = source.execute("query-migrate-parameters")
        assert parameters["avail-switchover-bandwidth"] == 1 << 40


def test_nobody_who_listens_is_a_failure_and_no_end(alone: Machine) -> None:
    with alone.monitor() as client:
        client.set_capabilities("events")
        client.execute("migrate", uri=f"unix:{alone.directory / 'nobody'}")
        failed = client.wait_status("failed")
        assert failed["error-desc"].startswith("cannot connect to unix:")
        assert client.events("failed") == [("MIGRATION", "setup"), ("MIGRATION", "failed")]
        assert client.run_state == "running"


def test_a_destination_that_is_not_told_otherwise_ends_with_its_failure(tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    with machine(tmp_path / "a", "--incoming", f"unix:{stream}") as one:
        with socket.socket(socket.AF_UNIX) as garbage:
            garbage.connect(str(stream))
            garbage.sendall(b"garbage!")
        done = one.running.wait()
    assert done.exit_code == 1
    assert "switchover: error: load of migration failed: " in done.stderr
    assert not stream.exists() and not one.qmp_path.exists()


def test_no_shut_leaves_the_machine_stopped_until_cont(alone: Machine) -> None:
    stream = alone.directory / "stream"
    with alone.monitor() as client, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stream))
        listener.listen()
        client.set_capabilities("return-path")
        client.execute("migrate", uri=f"unix:{stream}")
        connection, _ = listener.accept()
        with connection:
            received = b""
            # The VM description is the last thing that is sent.
            while not received.rstrip(b"\0").endswith(b"]}"):
                received += connection.recv(1 << 20)
        failed = client.wait_status("failed")
        assert "nobody here can know whether the destination runs the guest" in failed["error-desc"]
        assert client.run_state == "postmigrate"
        client.execute("cont")
        assert client.run_state == "running"


def test_quit_in_the_middle_ends_both(tmp_path: Path) -> None:
    with (
        machine(tmp_path / "a", *BUSY) as first,
        machine(tmp_path / "b", "--incoming", f"unix:{tmp_path / 'stream'}") as second,
    ):
        with first.monitor() as source:
            source.execute("migrate-set-parameters", max_bandwidth=1 << 20, downtime_limit=0)
            source.execute("migrate", uri=f"unix:{tmp_path / 'stream'}")
            source.wait_status("active")
            source.execute("quit")
        assert first.running.wait().exit_code == 0
        assert second.running.wait().exit_code == 1
    assert not (tmp_path / "stream").exists()


def test_quit_while_listening_removes_the_socket(tmp_path: Path) -> None:
    with machine(tmp_path / "a", "--incoming", f"unix:{tmp_path / 'stream'}") as one:
        assert (tmp_path / "stream").exists()
        with one.monitor() as client:
            client.execute("quit")
        assert one.running.wait().exit_code == 0
    assert not (tmp_path / "stream").exists()


# Arguments


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--qmp", "tcp:localhost:1"],
        ["--qmp", "unix:"],
        ["--qmp", "x", "--dirty-rate", "some"],
        ["--qmp", "x", "--memory", "many"],
        ["--qmp", "x", "--device", "e1000"],
        ["--qmp", "x", "--device", "vfio-sim", "--ram-only"],
        ["--qmp", "x", "--device", "vfio-sim,colour=red"],
        ["--qmp", "x", "--device", "vfio-sim,state=much"],
        ["--qmp", "x", "--device", "vfio-sim,id=n", "--device", "vfio-sim,id=n"],
    ],
    ids=" ".join,
)
def test_what_is_not_understood_is_wrong_usage(arguments: list[str]) -> None:
    done = run_here("run", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    done = run_here("run", "--qmp", str(tmp_path / "no" / "qmp"))
    assert done.exit_code == 1
    assert done.error.startswith(f"cannot listen on unix:{tmp_path}/no/qmp: ")
    done = run_here("run", "--qmp", str(tmp_path / "qmp"), "--memory", "1M")
    assert done.error.startswith("a machine's RAM: expected a multiple of 4096")
    done = run_here("run", "--qmp", str(tmp_path / "qmp"), "--incoming", "what:ever")
    assert done.error.startswith("unknown migration protocol 'what:ever'")
    done = run_here("run", "--qmp", str(tmp_path / "qmp"), "--serial", str(tmp_path / "no" / "s"))
    assert done.exit_code == 2
    assert list(tmp_path.iterdir()) == []
