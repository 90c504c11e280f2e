"""Becomes a program whose calls on some descriptors another process answers.

    python -m switchover.player.launch SOCKET_FD FIRST_FD RESERVED -- PROGRAM ARGUMENT…

The listener goes over the socket, a unix socket that keeps the borders of messages. What goes
wrong goes over it as one sentence, and the exit status is 127 if there is no such program and 126
otherwise. The socket is closed when the program runs.

It is on the way of every start: it imports little, and of socket only what that is made of.
"""

import _socket
import fcntl
import os
import resource
import signal
import sys
from errno import EBADF, ENOENT

from ..errors import MigrationError, UsageError
from ..kernel.seccomp import install_listener, notify_from

NO_SUCH_PROGRAM = 127
NOT_STARTED = 126


def raise_limit() -> None:
    """Raises this process's limit of descriptors as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reserve(first_fd: int, count: int) -> None:
    """Puts descriptors of empty memory at numbers that follow each other; exec leaves them.

    Raises:
        UsageError: Something is there already, or the limit does not allow it.
    """
    for number in range(first_fd, first_fd + count):
        if _is_open(number):
            raise UsageError(f"descriptor {number} is to be reserved, and is open already")
        placeholder = os.memfd_create("played")
        try:
            os.dup2(placeholder, number)
        except OSError as error:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            raise UsageError(
                f"descriptor {number} cannot be reserved with a limit of {limit} descriptors: "
                f"{error.strerror}"
            ) from error
        finally:
            os.close(placeholder)


def _is_open(number: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError as error:
        if error.errno == EBADF:
            return False
        raise
    return True


def environment() -> dict[bytes, bytes]:
    """The environment as it was given: Python may have set LC_CTYPE in its own."""
    with open("/proc/self/environ", "rb", buffering=0) as file:
        entries = file.readall().split(b"\0")
    return dict(entry.partition(b"=")[::2] for entry in entries if b"=" in entry)


def launch(socket: _socket.socket, first_fd: int, count: int, arguments: list[str]) -> None:
    """Does all of it, and returns only by an exception.

    Raises:
        UsageError: The descriptors cannot be reserved.
        KernelError: The filter cannot be installed.
        OSError: The program cannot be run, or nobody is at the other end.
    """
    given = environment()
    raise_limit()
    # Where the listener will be, too. Closing it must not wait for an answer.
    free = os.dup(socket.fileno())
    os.close(free)
    if free >= first_fd:
        raise UsageError(f"no descriptor below {first_fd} is free, where the listener must be")
    reserve(first_fd, count)
    listener = install_listener(notify_from(first_fd))
    rights = listener.to_bytes(4, sys.byteorder)
    socket.sendmsg([b"\0"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    os.close(listener)
    # Python ignores these, and what is ignored stays so.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    os.execvpe(arguments[0], arguments, given)


def main(arguments: list[str]) -> int:
    """Runs `launch` on a command line; returns an exit status if there is no program then."""
    try:
        socket_fd, first_fd, count = map(int, arguments[:3])
        separator, *program = arguments[3:]
        if separator != "--" or not program or not 0 < first_fd < first_fd + count < 1 << 31:
            raise ValueError
    except ValueError:
        print("usage: SOCKET_FD FIRST_FD RESERVED -- PROGRAM ARGUMENT…", file=sys.stderr)
        return NOT_STARTED
    # A low number, out of the way of what is reserved, and closed on exec.
    moved = os.dup(socket_fd)
    os.close(socket_fd)
    player = _socket.socket(fileno=moved)
    status = NOT_STARTED
    try:
        launch(player, first_fd, count, program)
    except MigrationError as error:
        sentence = str(error)
    except OSError as error:
        sentence = f"cannot run {program[0]}: {error.strerror}"
        if error.errno == ENOENT:
            status = NO_SUCH_PROGRAM
    try:
        player.sendmsg([sentence.encode(errors="surrogateescape")])
    except OSError:
        pass  # Nobody is there who could be told.
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
