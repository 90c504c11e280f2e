"""`switchover migrate`: drives what speaks QMP, and says truly how it ended."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import Done, run_here, start
from tests.qmp.running import Machine, check_ticks, machine, quits

BUSY = ("--dirty-rate", "max", "--region", "8M")
NO_END = ("--set", "max-bandwidth=1M", "--set", "downtime-limit=0")


def result(done: Done) -> dict[str, Any]:
    """The JSON object, which is all that stands on standard output."""
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    assert set(found) == {
        "status",
        "total_ms",
        "setup_ms",
        "downtime_ms",
        "expected_downtime",
        "phases",
        "switchover_ack",
        "hint",
        "ram",
        "destination_status",
        "error",
    }
    return found


def migrate(*arguments: str) -> Done:
    with start("migrate", *arguments) as running:
        return running.wait()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Machine]:
    """A machine that runs and writes a lot."""
    with machine(tmp_path / "a", *BUSY) as one:
        yield one


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[Machine]:
    """A machine that waits to be told where to listen."""
    with machine(tmp_path / "b", "--incoming", "defer") as one:
        yield one


@pytest.mark.parametrize("uri", ["tcp:127.0.0.1:0", "unix:{}/stream"])
def test_it_sets_both_sides_up_and_moves_the_machine(
    source: Machine, destination: Machine, uri: str, tmp_path: Path
) -> None:
    done = migrate(
        *("--qmp", f"unix:{source.qmp_path}", "--to-qmp", str(destination.qmp_path)),
        *("--capability", "return-path", "--capability", "switchover-ack"),
        *("--set", "max-bandwidth=0", "--set", "downtime-limit=2000", "--json"),
        uri.format(tmp_path),
    )
    assert done.exit_code == 0, done.stderr
    found = result(done)
    assert (found["status"], found["destination_status"]) == ("completed", "completed")
    assert found["error"] is None
    assert found["ram"]["total"] == 16 << 20
    assert found["total_ms"] >= found["downtime_ms"]
    assert found["expected_downtime"].keys() == {"expected_ms", "transfer_ms", "is_load_measured"}
    assert {phase["side"] for phase in found["phases"]} == {"source"}
    assert "completed: " in done.stderr
    for one in (source, destination):
        with one.monitor() as client:
            capabilities = client.execute("query-migrate-capabilities")
            on = [entry["capability"] for entry in capabilities if entry["state"]]
            assert on == ["return-path", "switchover-ack"]
            parameters = client.execute("query-migrate-parameters")
            assert parameters["downtime-limit"] == 2000
        quits(one)
    check_ticks(source, destination)


def test_a_destination_that_listens_already_is_left_so(source: Machine, tmp_path: Path) -> None:
    uri = f"unix:{tmp_path / 'stream'}"
    with machine(tmp_path / "b", "--incoming", uri) as destination:
        done = migrate(
            *("--qmp", str(source.qmp_path), "--to-qmp", str(destination.qmp_path)),
            *("--capability", "return-path", "--set", "downtime-limit=2000", uri),
        )
    assert done.exit_code == 0, done.stderr
    assert "told before where to listen" in done.stderr


def test_without_the_destination_the_source_is_believed(source: Machine, tmp_path: Path) -> None:
    uri = f"unix:{tmp_path / 'stream'}"
    with machine(tmp_path / "b", "--incoming", uri):
        done = migrate("--qmp", str(source.qmp_path), "--set", "downtime-limit=2000", "--json", uri)
    assert done.exit_code == 0, done.stderr
    assert result(done)["destination_status"] is None


@pytest.fixture
def with_device(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines with a device whose other side takes its time."""
    device = ("--device", "vfio-sim,state=2M,initial=1M,allocate=50ms")
    with (
        machine(tmp_path / "a", "--dirty-rate", "500", *device) as first,
        machine(tmp_path / "b", "--incoming", "defer", *device) as second,
    ):
        yield first, second


REPORTS = (
    *("--capability", "return-path", "--capability", "switchover-ack"),
    *("--capability", "x-load-report"),
)


def test_what_our_machines_tell_beyond_qemus_is_data(with_device: tuple[Machine, Machine]) -> None:
    first, second = with_device
    done = migrate(
        *("--qmp", str(first.qmp_path), "--to-qmp", str(second.qmp_path)),
        *(*REPORTS, "--json", "tcp:127.0.0.1:0"),
    )
    assert done.exit_code == 0, done.stderr
    found = result(done)
    assert found["expected_downtime"]["is_load_measured"]
    assert found["expected_downtime"]["expected_ms"] > 0
    assert found["hint"] is None
    own = [phase for phase in found["phases"] if phase["side"] == "source"]
    assert round(sum(phase["duration_ms"] for phase in own)) == found["downtime_ms"]
    for side in ("source", "destination"):
        names = {phase["name"] for phase in found["phases"] if phase["side"] == side}
        assert {"ram", "sim0/vfio", "devices"} <= names


def test_what_our_machines_tell_beyond_qemus_is_a_table(
    with_device: tuple[Machine, Machine],
) -> None:
    first, second = with_device
    done = migrate(
        *("--qmp", str(first.qmp_path), "--to-qmp", str(second.qmp_path)),
        *(*REPORTS, "tcp:127.0.0.1:0"),
    )
    assert done.exit_code == 0, done.stderr
    title, *lines = done.stdout.splitlines()
    assert title.startswith("Where the downtime went")
    for text in ("source", "the machine is stopped", "sim0/vfio: its state", "destination"):
        assert any(text in line for line in lines)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("the machine was moved: ")
    assert re.search(r", downtime \d+ ms, .*expected \d+ ms and by QEMU's formula \d+ ms$", last)


@pytest.mark.parametrize("policy", ["cancel", "proceed"])
def test_a_device_that_is_waited_for_is_named(tmp_path: Path, policy: str) -> None:
    device = "vfio-sim,state=2M,initial=1M,allocate=50ms"
    with (
        machine(tmp_path / "a", "--device", device) as first,
        machine(tmp_path / "b", "--incoming", "defer", "--device", f"{device},never-ack=on"),
        start(
            *("migrate", "--qmp", str(first.qmp_path), "--to-qmp", str(tmp_path / "b" / "qmp")),
            *("--capability", "return-path", "--capability", "switchover-ack"),
            *("--set", f"switchover-ack-timeout-policy={policy}", "--json", "tcp:127.0.0.1:0"),
        ) as running,
    ):
        while not re.search(
            r"^active: .*, ACK of sim0/vfio waited for \d+ ms$", running.read_line()
        ):
            pass
        with first.monitor() as client:
            client.execute("migrate-set-parameters", switchover_ack_timeout=1)
        done = running.wait()
        with first.monitor() as client:
            assert client.run_state == ("running" if policy == "cancel" else "postmigrate")
    if policy == "cancel":
        assert done.exit_code == 1
        assert result(done)["status"] == "failed"
        assert done.error.startswith(
            "no SWITCHOVER_ACK came in 1 ms (switchover-ack-timeout) for 'sim0/vfio': "
        )
        return
    assert done.exit_code == 0, done.stderr
    ack = result(done)["switchover_ack"]
    assert ack.pop("waiting_ms") > 0
    assert ack == {"mode": "legacy", "waiting_for": ["sim0/vfio"], "timed_out": True}
    last = done.stderr.splitlines()[-1]
    assert re.search(r", ACK of sim0/vfio waited for \d+ ms, and not any longer, expected ", last)


def test_a_hint_is_said_once(tmp_path: Path) -> None:
    device = ("--device", "vfio-sim,state=64M,initial=1M,allocate=0s")
    with (
        machine(tmp_path / "a", "--dirty-rate", "100", *device) as first,
        machine(tmp_path / "b", "--incoming", "defer", *device) as second,
        start(
            *("migrate", "--qmp", str(first.qmp_path), "--to-qmp", str(second.qmp_path)),
            *("--set", "max-bandwidth=0", "--set", "downtime-limit=1", "--json"),
            "tcp:127.0.0.1:0",
        ) as running,
    ):
        hint = "what is left when the machine is stopped, "
        while not running.read_line().startswith(hint):
            pass
        # Two lines more are a second more.
        for _ in range(2):
            line = running.read_line()
            assert line.startswith("active: "), line
        with first.monitor() as client:
            client.execute("migrate-set-parameters", downtime_limit=60_000)
        done = running.wait()
    assert done.exit_code == 0, done.stderr
    assert hint not in done.stderr
    assert result(done)["hint"] is None


def test_a_failure_is_told(source: Machine, tmp_path: Path) -> None:
    done = migrate("--qmp", str(source.qmp_path), "--json", f"unix:{tmp_path / 'nobody'}")
    assert done.exit_code == 1
    found = result(done)
    assert found["status"] == "failed"
    assert found["error"].startswith("cannot connect to unix:")
    assert f"switchover: error: {found['error']}" in done.stderr.splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels(source: Machine, destination: Machine, number: int) -> None:
    with start(
        *("migrate", "--qmp", str(source.qmp_path), "--to-qmp", str(destination.qmp_path)),
        *(*NO_END, "--capability", "return-path", "--json", "tcp:127.0.0.1:0"),
    ) as running:
        while not running.read_line().startswith("active: "):
            pass
        running.process.send_signal(number)
        done = running.wait()
    assert done.exit_code == 1
    assert result(done)["status"] == "cancelled"
    assert done.stderr.splitlines()[-1] == "switchover: error: the migration is cancelled"
    with source.monitor() as client:
        assert client.run_state == "running"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ["--capability", "multifd"],
            "the source refuses migrate-set-capabilities: capability 'multifd' is not supported "
            "by switchover",
        ),
        (
            ["--set", "no-such=1"],
            "the source refuses migrate-set-parameters: Parameter 'no-such' is unexpected",
        ),
        (
            ["--set", "max-bandwidth=much"],
            "the source refuses migrate-set-parameters: Parameter 'max-bandwidth' expects uint64",
        ),
        (
            ["--set", "tls-creds=null", "--set", "direct-io=true"],
            "the source refuses migrate-set-parameters: parameter 'direct-io' is not supported "
            "by switchover",
        ),
    ],
)
def test_what_a_server_refuses_is_told_in_its_words(
    source: Machine, options: list[str], text: str
) -> None:
    done = run_here("migrate", "--qmp", str(source.qmp_path), *options, "tcp:localhost:1")
    assert (done.exit_code, done.error) == (1, text)


def test_a_destination_that_does_not_wait_is_refused(source: Machine, tmp_path: Path) -> None:
    with machine(tmp_path / "b") as other:
        done = migrate(
            *("--qmp", str(source.qmp_path), "--to-qmp", str(other.qmp_path), "tcp:127.0.0.1:0")
        )
    assert done.exit_code == 1
    assert done.error == (
        "the destination refuses migrate-incoming: '-incoming' was not specified on the command "
        "line"
    )


def test_nobody_there_is_told(tmp_path: Path) -> None:
    done = run_here("migrate", "--qmp", str(tmp_path / "nobody"), "--json", "tcp:localhost:1")
    assert done.exit_code == 1
    assert result(done)["status"] == "failed"
    assert done.error.startswith(f"cannot connect to the source's QMP {tmp_path}/nobody: ")
    done = run_here("migrate", "--qmp", "tcp:127.0.0.1:1", "tcp:localhost:1")
    assert done.error.startswith("cannot connect to the source's QMP 127.0.0.1:1: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["tcp:localhost:1"],
        ["--qmp", "x"],
        ["--qmp", "unix:", "tcp:localhost:1"],
        ["--qmp", "tcp:localhost", "tcp:localhost:1"],
        ["--qmp", "tcp:localhost:99999", "tcp:localhost:1"],
        ["--qmp", "x", "--set", "max-bandwidth", "tcp:localhost:1"],
    ],
    ids=" ".join,
)
def test_what_is_not_understood_is_wrong_usage(arguments: list[str]) -> None:
    done = run_here("migrate", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
