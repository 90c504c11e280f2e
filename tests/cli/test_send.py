"""`switchover send`."""

import os
import signal
import socket
from pathlib import Path

import pytest
from tests.cli.command import run_here, start
from tests.engine.peer import (
    OPEN_RETURN_PATH,
    Destination,
    PeerSocket,
    assert_same_guest,
    encode_ping,
    load_file,
    make_guest,
    parked_names,
    pong,
    shut,
)

from switchover.channel.base import wait_readable
from switchover.channel.connection import Listener
from switchover.channel.file import AtomicFile
from switchover.engine.progress import Progress
from switchover.engine.source import ParkedSource


@pytest.fixture
def parked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parked guest."""
    return park(tmp_path_factory.mktemp("parked") / "guest", pages=6)


def park(path: Path, pages: int) -> Path:
    with AtomicFile(path) as channel:
        ParkedSource(make_guest(pages=pages), channel, Progress()).run()
    return path


def accept(listener: Listener) -> PeerSocket:
    """The destination's end of the command's connection."""
    listener._socket.settimeout(60)
    sock, _ = listener._socket.accept()
    return PeerSocket(sock)


def test_guest_goes_to_who_listens(listener: Listener, parked: Path, tmp_path: Path) -> None:
    receiving = Destination(listener, tmp_path / "guest").start()
    done = run_here("send", str(parked), str(listener.address), "--json")
    assert done.exit_code == 0, done.stderr
    assert_same_guest(receiving.guest(), make_guest())
    report = done.report
    assert (report["status"], report["error"]) == ("completed", None)
    assert report["transferred_bytes"] == receiving.progress.transferred_bytes
    assert (report["pages"], report["zero_pages"]) == (1, 6)
    assert report["switchover_ack"]["asked_ms"] is None
    assert [device["name"] for device in report["devices"]] == ["timer", "timer"]
    assert done.stderr.splitlines()[-1].startswith(f"sent to {listener.address}: pc-q35-9.2, ")


def test_guest_goes_into_a_file_a_command_and_a_descriptor(parked: Path, tmp_path: Path) -> None:
    file, command = tmp_path / "file", tmp_path / "command"
    assert run_here("send", str(parked), f"file:{file}").exit_code == 0
    done = run_here("send", str(parked), f"exec:tee {command}", "--json")
    assert done.exit_code == 0
    assert done.report["status"] == "completed"
    ours, theirs = socket.socketpair()
    with PeerSocket(ours) as peer, theirs:
        arguments = ("send", str(parked), f"fd:{theirs.fileno()}", "--json")
        with start(*arguments, pass_fds=(theirs.fileno(),)) as running:
            theirs.close()
            peer.send(pong(1))
            assert len(peer.recv(_whole_size(parked))) == _whole_size(parked)
            peer.send(shut())
            assert running.wait().report["status"] == "completed"
    assert file.read_bytes() == command.read_bytes()
    assert_same_guest(load_file(file), make_guest())


@pytest.mark.parametrize("cut", [0, 3, 8, 100, 5000, -1])
def test_file_that_is_cut_is_not_sent(listener: Listener, parked: Path, cut: int) -> None:
    data = parked.read_bytes()[:cut]
    parked.write_bytes(data)
    done = run_here("send", str(parked), str(listener.address), "--json")
    assert done.exit_code == 1
    assert done.report["status"] == "failed"
    assert done.report["error"] == done.error
    offset = int(done.error.rpartition("at offset ")[2], 16)
    assert 0 <= offset <= len(data)
    assert wait_readable([listener.fileno()], 0) == set(), "something was connected to"


@pytest.mark.parametrize("offset", [0, 4, 8, 40, -1])
def test_file_with_a_wrong_byte_is_not_sent(listener: Listener, parked: Path, offset: int) -> None:
    data = bytearray(parked.read_bytes())
    data[offset] ^= 0x80
    parked.write_bytes(data)
    done = run_here("send", str(parked), str(listener.address), "--json")
    assert done.exit_code == 1
    assert "at offset 0x" in done.error
    assert done.report["transferred_bytes"] == 0
    assert wait_readable([listener.fileno()], 0) == set(), "something was connected to"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("/no/such/file", "cannot open file:/no/such/file: No such file or directory"),
        ("/dev", "Is a directory"),
        ("/dev/null", "the stream ends inside the header"),
        ("/dev/zero", "not a migration stream"),
    ],
)
def test_file_that_is_none(file: str, words: str) -> None:
    done = run_here("send", file, "tcp:127.0.0.1:1", "--json")
    assert done.exit_code == 1
    assert words in done.error
    assert done.report["status"] == "failed"


@pytest.mark.parametrize(
    ("uri", "exit_code", "words"),
    [
        ("carrier-pigeon:home", 2, "unknown migration protocol"),
        ("tcp:[::1:1", 2, "an IPv6 host stands in brackets"),
        ("file:/dev/null", 2, "/dev/null is not a file, and will not be replaced by one"),
        ("unix:/no/such/socket", 1, "cannot connect to unix:/no/such/socket: No such file"),
        ("tcp:a..b:1", 1, "cannot connect to tcp:a..b:1: "),
        ("fd:987654", 1, "fd:987654 is not open: Bad file descriptor"),
        ("file:/no/such/directory/file", 1, "cannot write /no/such/directory/file: No such file"),
        ("exec:exit 3", 1, "exec:exit 3: "),
    ],
)
def test_address_that_cannot_be(parked: Path, uri: str, exit_code: int, words: str) -> None:
    done = run_here("send", str(parked), uri, "--json")
    assert done.exit_code == exit_code
    assert words in done.error
    assert done.report["error"] == done.error


def test_wrong_address_is_said_before_the_file_is_read() -> None:
    done = run_here("send", "/no/such/file", "nonsense")
    assert done.exit_code == 2
    assert "unknown migration protocol" in done.error


def test_destination_that_fails(listener: Listener, parked: Path) -> None:
    with start("send", str(parked), str(listener.address), "--json") as running:
        with accept(listener) as peer:
            peer.send(shut(1))
            peer.recv_rest()
        done = running.wait()
    assert done.exit_code == 1
    assert "the destination says that it failed (SHUT 1); " in done.error
    assert done.report["status"] == "failed"


def test_destination_that_leaves_with_everything(listener: Listener, parked: Path) -> None:
    size = _whole_size(parked)
    with start("send", str(parked), str(listener.address), "--json") as running:
        with accept(listener) as peer:
            assert len(peer.recv(size)) == size
        done = running.wait()
    assert done.exit_code == 1
    assert "nobody here can know whether the destination runs the guest" in done.error
    assert done.report["error"] == done.error


def _whole_size(parked: Path) -> int:
    """Bytes that a destination is sent: the file, with OPEN_RETURN_PATH and a PING."""
    return parked.stat().st_size + len(OPEN_RETURN_PATH) + len(encode_ping(1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda sent: sent.name)
def test_signal_in_the_middle_cancels(
    listener: Listener, tmp_path: Path, number: signal.Signals
) -> None:
    parked = park(tmp_path / "guest", pages=10_000)
    with start("send", str(parked), str(listener.address), "--json") as running:
        with accept(listener) as peer:
            assert len(peer.recv(1 << 16)) == 1 << 16
            running.process.send_signal(number)
            done = running.wait()
            peer.recv_rest()
    assert done.exit_code == 1
    assert done.error == "cancelled"
    assert done.report["status"] == "cancelled"
    assert parked_names(tmp_path) == ["guest"]


def test_signal_behind_the_end_mark_says_what_nobody_knows(
    listener: Listener, parked: Path
) -> None:
    size = _whole_size(parked)
    with start("send", str(parked), str(listener.address), "--json") as running:
        with accept(listener) as peer:
            assert len(peer.recv(size)) == size
            running.process.send_signal(signal.SIGTERM)
            done = running.wait()
    assert done.exit_code == 1
    assert done.report["status"] == "cancelled"
    assert done.error.startswith("cancelled; everything was written, and nobody here can know")


def test_signal_does_not_wait_for_a_command(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    parked = park(tmp_path / "guest", pages=1000)
    command = f"exec:head -c 1000 > {pipe}; exec sleep 1000"
    with start("send", str(parked), command, "--json") as running:
        assert running.read_line().startswith("active: ")
        assert len(pipe.read_bytes()) == 1000
        running.process.send_signal(signal.SIGTERM)
        done = running.wait()
    assert done.exit_code == 1
    assert done.report["status"] == "cancelled"
