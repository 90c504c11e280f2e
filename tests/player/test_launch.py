"""The launcher: what the program finds when it runs, and what is said if it does not."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.player.playing import TIMEOUT_S, needs_player, python

from switchover.player import launch
from switchover.player.launch import NO_SUCH_PROGRAM, NOT_STARTED

pytestmark = needs_player


def launched(
    program: list[str], first_fd: int = 1000, reserved: int = 4, **options: object
) -> tuple[int, str, list[bytes]]:
    """Launches a program that makes no call that is asked about.

    Returns:
        The exit status, what was printed, and the messages of the launcher.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            fd = theirs.fileno()
            numbers = map(str, (fd, first_fd, reserved))
            process = subprocess.Popen(
                [sys.executable, "-m", "switchover.player.launch", *numbers, "--", *program],
                pass_fds=[fd],
                stdout=subprocess.PIPE,
                **options,  # type: ignore[call-overload]
            )
        with process:
            messages = []
            while True:
                data, descriptors, _, _ = socket.recv_fds(ours, 4096, 1)
                for descriptor in descriptors:
                    os.close(descriptor)
                if not data:
                    break
                messages.append(data)
            printed, _ = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, printed.decode().strip(), messages


def test_reserved_descriptors_are_there_and_no_others() -> None:
    text = "print(sorted(map(int, os.listdir('/proc/self/fd'))))"
    status, printed, messages = launched(python(text))
    assert (status, messages) == (0, [b"\0"])
    # The last but those is the directory.
    assert printed == str([0, 1, 2, 3, 1000, 1001, 1002, 1003])


def test_reserved_descriptors_are_memory_of_their_own() -> None:
    text = "print(*{(os.fstat(n).st_ino, os.readlink(f'/proc/self/fd/{n}')) for n in (1000, 1003)})"
    _, printed, _ = launched(python(text))
    assert printed.count("/memfd:played (deleted)") == 2


def test_limit_of_descriptors_is_raised() -> None:
    text = "import resource; s, h = resource.getrlimit(resource.RLIMIT_NOFILE); print(s == h)"
    assert launched(python(text))[1] == "True"


def test_there_are_no_new_privileges_and_a_filter() -> None:
    text = "print(*(l.split()[1] for l in open('/proc/self/status') if l[:4] in ('NoNe', 'Secc')))"
    assert launched(python(text))[1].split()[:2] == ["1", "2"]


def test_signals_are_as_they_were() -> None:
    # awk ignores none by itself, and shows what it was given.
    status, printed, _ = launched(["awk", "/SigIgn/ {print $2}", "/proc/self/status"])
    assert status == 0
    ignored = int(printed, 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored >> (number - 1) & 1, number


def test_environment_is_as_it_was() -> None:
    # In this one Python sets LC_CTYPE for itself.
    given = {"LC_ALL": "", "LANG": "C", "PATH": "/usr/bin:/bin", "WITH": "a=b"}
    _, printed, _ = launched(["env"], env=given)
    assert dict(line.split("=", 1) for line in printed.splitlines()) == given


def test_program_is_looked_for() -> None:
    assert launched(["sh", "-c", "echo $0 $1", "a", "b c"])[:2] == (0, "a b c")


def test_program_that_is_not_there() -> None:
    status, _, messages = launched(["/nonexistent/program"])
    assert status == NO_SUCH_PROGRAM
    assert messages[1:] == [b"cannot run /nonexistent/program: No such file or directory"]


def test_program_that_cannot_be_run(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    status, _, messages = launched([str(file)])
    assert status == NOT_STARTED
    assert messages[1:] == [f"cannot run {file}: Permission denied".encode()]


def test_limit_that_is_too_low() -> None:
    status, _, messages = launched(["true"], first_fd=1 << 30)
    assert status == NOT_STARTED
    (sentence,) = messages
    assert sentence.startswith(b"descriptor 1073741824 cannot be reserved with a limit of ")


def test_number_that_is_taken() -> None:
    status, _, messages = launched(["true"], first_fd=5, reserved=2, stdin=subprocess.DEVNULL)
    assert (status, messages) == (0, [b"\0"])
    status, _, messages = launched(["true"], first_fd=2)
    assert status == NOT_STARTED
    assert messages == [b"no descriptor below 2 is free, where the listener must be"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["3"],
        ["3", "1000", "4"],
        ["3", "1000", "4", "--"],
        ["3", "1000", "4", "x", "true"],
        ["3", "1000", "-1", "--", "true"],
        ["a", "1000", "4", "--", "true"],
    ],
)
def test_wrong_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(arguments) == NOT_STARTED
    assert capsys.readouterr().err.startswith("usage: ")


def test_imports_little() -> None:
    text = "import sys, switchover.player.launch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, timeout=TIMEOUT_S)
    assert not {"numpy", "subprocess", "threading", "socket"} & set(done.stdout.decode().split())
