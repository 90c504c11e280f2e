"""`switchover receive`."""

import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command import KEYS, Done, run_here, start
from tests.engine.peer import (
    ACK,
    PeerSocket,
    assert_same_guest,
    join,
    load_file,
    make_guest,
    make_stream,
    parked_names,
    pong,
    shut,
)

LISTENING = "listening on "
ACK_CAPABILITIES = ("--capability", "return-path", "--capability", "switchover-ack")


@pytest.fixture
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the whole stream of a guest."""
    path = tmp_path_factory.mktemp("stream") / "stream"
    path.write_bytes(join(make_stream(make_guest("pc-q35-10.0"), opens_return_path=False)))
    return path


def connect_to(line: str) -> PeerSocket:
    """A source that comes where the command says that it listens."""
    assert line.startswith(LISTENING)
    scheme, _, rest = line.removeprefix(LISTENING).partition(":")
    if scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(rest)
        return PeerSocket(sock)
    host, _, port = rest.rpartition(":")
    return PeerSocket(socket.create_connection((host, int(port)), timeout=60))


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_guest_is_parked(tmp_path: Path, scheme: str) -> None:
    guest = make_guest("pc-q35-10.0")
    output = tmp_path / "guest"
    uri = "tcp:127.0.0.1:0" if scheme == "tcp" else f"unix:{tmp_path}/socket"
    arguments = ("receive", uri, "--output", str(output), "--json", *ACK_CAPABILITIES)
    with start(*arguments) as running, connect_to(running.read_line()) as source:
        source.send(join(make_stream(guest, pings=[3])))
        assert source.recv_rest() == ACK + pong(3) + shut()
        done = running.wait()
    assert done.exit_code == 0
    assert_same_guest(load_file(output), guest)
    assert parked_names(tmp_path) == ["guest"]
    report = done.report
    assert (report["status"], report["error"]) == ("completed", None)
    assert report["machine"] == "pc-q35-10.0"
    assert report["ram_bytes"] == guest.ram_bytes
    assert report["switchover_ack"]["mode"] == "legacy"
    assert report["switchover_ack"]["sent_ms"] >= report["switchover_ack"]["asked_ms"]
    assert [device["name"] for device in report["devices"]] == ["timer", "timer"]
    assert set(report["devices"][0]) == {"name", "instance_id", "version_id", "size"}
    assert done.stderr.splitlines()[-1].startswith(f"parked in {output}: pc-q35-10.0, ")


def test_without_json_nothing_is_printed(stream: Path, tmp_path: Path) -> None:
    done = run_here("receive", f"file:{stream}", "--output", str(tmp_path / "guest"))
    assert done.exit_code == 0
    assert done.stdout == ""
    assert "2 devices" in done.stderr


def test_from_a_file_a_command_and_a_descriptor(stream: Path, tmp_path: Path) -> None:
    with stream.open("rb") as opened:
        number = os.dup(opened.fileno())
        for uri in (f"file:{stream}", f"exec:cat {stream}", f"fd:{number}"):
            output = tmp_path / "guest"
            done = run_here("receive", uri, "--output", str(output), "--json")
            assert done.exit_code == 0, done.stderr
            assert done.report["transferred_bytes"] == stream.stat().st_size
            assert_same_guest(load_file(output), make_guest("pc-q35-10.0"))
            output.unlink()


def test_descriptor_of_a_socket_that_was_given(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with PeerSocket(ours) as source, theirs:
        uri = f"fd:{theirs.fileno()}"
        arguments = ("receive", uri, "--output", str(tmp_path / "guest"), "--json")
        with start(*arguments, pass_fds=(theirs.fileno(),)) as running:
            theirs.close()
            source.send(join(make_stream(make_guest(), pings=[3])))
            assert source.recv_rest() == pong(3) + shut()
            assert running.wait().report["status"] == "completed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda sent: sent.name)
def test_signal_in_the_middle_cancels(tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "guest"
    output.write_text("earlier")
    uri = f"unix:{tmp_path}/socket"
    with (
        start("receive", uri, "--output", str(output), "--json") as running,
        connect_to(running.read_line()) as source,
    ):
        source.send(join(make_stream(make_guest(), pings=[3]), until="end of RAM"))
        assert source.recv(len(pong(3))) == pong(3)
        running.process.send_signal(number)
        assert source.recv_rest() == b""
        done = running.wait()
    assert done.exit_code == 1
    assert done.error == "cancelled"
    assert (done.report["status"], done.report["error"]) == ("cancelled", "cancelled")
    assert done.report["machine"] == make_guest().machine
    assert parked_names(tmp_path) == ["guest"]
    assert output.read_text() == "earlier"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda sent: sent.name)
def test_signal_before_anybody_came_cancels(tmp_path: Path, number: signal.Signals) -> None:
    output = str(tmp_path / "guest")
    with start("receive", "tcp:127.0.0.1:0", "--output", output, "--json") as running:
        assert running.read_line().startswith(LISTENING)
        running.process.send_signal(number)
        done = running.wait()
    assert done.exit_code == 1
    assert done.report["status"] == "cancelled"
    assert parked_names(tmp_path) == []


def test_signal_does_not_wait_for_a_command(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = f"exec:echo here > {pipe}; exec sleep 1000"
    output = str(tmp_path / "guest")
    with start("receive", command, "--output", output, "--json") as running:
        assert pipe.read_text() == "here\n"
        assert running.read_line().startswith("active: ")
        running.process.send_signal(signal.SIGTERM)
        done = running.wait()
    assert done.exit_code == 1
    assert done.report["status"] == "cancelled"
    assert parked_names(tmp_path) == ["pipe"]


def test_broken_stream_fails(stream: Path, tmp_path: Path) -> None:
    stream.write_bytes(stream.read_bytes()[:1000])
    done = run_here("receive", f"file:{stream}", "--output", str(tmp_path / "guest"), "--json")
    assert done.exit_code == 1
    assert done.report["status"] == "failed"
    assert done.report["error"] == done.error
    assert "the stream ends inside" in done.error
    assert "at offset 0x" in done.error
    assert parked_names(tmp_path) == []


@pytest.mark.parametrize(
    ("uri", "exit_code", "words"),
    [
        ("carrier-pigeon:home", 2, "unknown migration protocol 'carrier-pigeon:home'"),
        ("tcp:nowhere", 2, "expected tcp:HOST:PORT"),
        ("fd:x", 2, "expected fd:NUMBER"),
        ("exec:", 2, "nothing stands behind exec:"),
        ("fd:987654", 1, "fd:987654 is not open"),
        ("file:/no/such/file", 1, "cannot open file:/no/such/file: No such file or directory"),
        ("unix:/no/such/directory/socket", 1, "cannot listen on unix:/no/such/directory/socket"),
        (f"unix:/{'long' * 50}", 1, "AF_UNIX path too long"),
        ("tcp:a..b:1", 1, "cannot listen on tcp:a..b:1"),
        ("exec:exit 7", 1, "exec:exit 7: the command ended with status 7"),
        ("exec:true", 1, "the stream ends inside the header"),
    ],
)
def test_address_that_cannot_be(tmp_path: Path, uri: str, exit_code: int, words: str) -> None:
    done = run_here("receive", uri, "--output", str(tmp_path / "guest"), "--json")
    assert done.exit_code == exit_code
    assert words in done.error
    assert done.report["error"] == done.error
    assert done.report["status"] == "failed"
    assert parked_names(tmp_path) == []


@pytest.mark.parametrize(
    ("output", "exit_code", "words"),
    [
        ("/dev/null", 2, "/dev/null is not a file"),
        ("/dev", 2, "/dev is not a file"),
        ("", 2, "is not a file"),
        ("/no/such/directory/guest", 1, "No such file or directory"),
        (f"/tmp/{'x' * 300}", 1, "File name too long"),
    ],
)
def test_output_that_cannot_be(stream: Path, output: str, exit_code: int, words: str) -> None:
    done = run_here("receive", f"file:{stream}", "--output", output, "--json")
    assert done.exit_code == exit_code
    assert words in done.error
    assert done.report["status"] == "failed"


def test_name_that_is_no_text(tmp_path: Path) -> None:
    with start(
        "receive", "file:/no/\udcff", "--output", str(tmp_path / "guest"), "--json"
    ) as running:
        done = running.wait()
    assert done.exit_code == 1
    assert done.error == "cannot open file:/no/\\udcff: No such file or directory"
    assert done.report["error"] == "cannot open file:/no/\udcff: No such file or directory"


def test_disk_that_is_full(stream: Path, tmp_path: Path) -> None:
    limit = stream.stat().st_size - 1

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    output = tmp_path / "guest"
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "switchover",
            "receive",
            f"file:{stream}",
            "--json",
            "--output",
            output,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=limit_files,
    )
    done = Done(process.returncode, process.stdout, process.stderr)
    assert done.exit_code == 1
    assert done.error == f"{output}: writing failed: File too large"
    assert done.report["error"] == done.error
    assert parked_names(tmp_path) == []


@pytest.mark.parametrize(
    ("capabilities", "words"),
    [
        (["teleport"], "Parameter 'capability' does not accept value 'teleport'"),
        ([""], "Parameter 'capability' does not accept value ''"),
        (["multifd"], "capability 'multifd' is not supported by switchover yet"),
        (["return-path", "postcopy-ram"], "capability 'postcopy-ram' is not supported"),
        (["switchover-ack"], "Capability 'switchover-ack' requires capability 'return-path'"),
    ],
)
def test_capabilities_that_cannot_be(
    stream: Path, tmp_path: Path, capabilities: list[str], words: str
) -> None:
    arguments = [part for name in capabilities for part in ("--capability", name)]
    output = str(tmp_path / "guest")
    done = run_here("receive", f"file:{stream}", "--output", output, "--json", *arguments)
    assert done.exit_code == 2
    assert words in done.error
    assert done.report["error"] == done.error
    assert parked_names(tmp_path) == []


def test_ack_that_does_not_exist_cannot_be_held(stream: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "guest")
    done = run_here("receive", f"file:{stream}", "--output", output, "--hold-ack", "1")
    assert done.exit_code == 2
    assert "--hold-ack without --capability switchover-ack" in done.error


@pytest.mark.parametrize("seconds", ["0.5", "3", ".25", "0", "99999999999999999999"])
def test_time_to_hold(stream: Path, tmp_path: Path, seconds: str) -> None:
    arguments = ("--output", str(tmp_path / "guest"), "--hold-ack", seconds, *ACK_CAPABILITIES)
    assert run_here("receive", f"file:{stream}", *arguments).exit_code == 0


def test_hold_of_ages_holds(tmp_path: Path) -> None:
    arguments = ("--output", str(tmp_path / "guest"), "--hold-ack", "9" * 30, *ACK_CAPABILITIES)
    stream = make_stream(make_guest(), pings=[3])
    with (
        start("receive", f"unix:{tmp_path}/socket", "--json", *arguments) as running,
        connect_to(running.read_line()) as source,
    ):
        source.send(join(stream, until="block list"))
        assert source.recv(len(pong(3))) == pong(3)
        source.send(join(stream, since="block list"))
        assert source.recv_rest() == shut()
        done = running.wait()
    assert done.report["status"] == "completed"
    assert done.report["switchover_ack"]["sent_ms"] is None


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--hold-ack", "-1"),
        ("--hold-ack", "soon"),
        ("--hold-ack", "1e3"),
        ("--hold-ack", "nan"),
        ("--max-ram", "much"),
        ("--max-ram", "-1"),
        ("--max-ram", "9" * 5000),
        ("--switchover-ack-mode", "sometimes"),
    ],
)
def test_values_that_cannot_be(stream: Path, tmp_path: Path, option: str, value: str) -> None:
    output = str(tmp_path / "guest")
    done = run_here("receive", f"file:{stream}", "--output", output, f"{option}={value}")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert option in done.stderr
    assert parked_names(tmp_path) == []


@pytest.mark.parametrize(("limit", "is_allowed"), [("1G", True), ("28K", True), ("27K", False)])
def test_limit_of_ram(stream: Path, tmp_path: Path, limit: str, is_allowed: bool) -> None:
    output = str(tmp_path / "guest")
    done = run_here("receive", f"file:{stream}", "--output", output, "--max-ram", limit, "--json")
    assert done.exit_code == (0 if is_allowed else 1)
    if not is_allowed:
        assert "more RAM than is allowed here" in done.error


@pytest.mark.parametrize("mode", ["auto", "legacy", "per-device"])
def test_mode(stream: Path, tmp_path: Path, mode: str) -> None:
    output = str(tmp_path / "guest")
    arguments = ("--output", output, "--switchover-ack-mode", mode, "--json")
    done = run_here("receive", f"file:{stream}", *arguments)
    assert done.report["switchover_ack"]["mode"] == ("legacy" if mode == "auto" else mode)


def test_warnings_are_said(tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    stream.write_bytes(join(make_stream(make_guest("microvm"), opens_return_path=False)))
    output = str(tmp_path / "guest")
    done = run_here("receive", f"file:{stream}", "--output", output, "--json", *ACK_CAPABILITIES)
    assert done.exit_code == 0
    assert "warning: machine type 'microvm' does not tell the mode" in done.stderr
    assert set(done.report) == KEYS
