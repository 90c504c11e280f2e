"""`switchover migrate`: drives what speaks QMP, and says truly how it ended."""

import json
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
    assert (done.exit_code, done.stdout) == (0, "")
    assert "told before where to listen" in done.stderr


def test_without_the_destination_the_source_is_believed(source: Machine, tmp_path: Path) -> None:
    uri = f"unix:{tmp_path / 'stream'}"
    with machine(tmp_path / "b", "--incoming", uri):
        done = migrate("--qmp", str(source.qmp_path), "--set", "downtime-limit=2000", "--json", uri)
    assert done.exit_code == 0, done.stderr
    assert result(done)["destination_status"] is None


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
