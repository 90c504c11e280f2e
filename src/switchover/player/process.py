"""A program that runs unmodified, while its calls on some of its descriptors are answered here.

The kernel stops each such call of the program, of its threads and of what it forks, and hands it to
a thread of this process, as a `Call`. What the filter lets through without asking, on these
descriptors too, is every call but those in `switchover.kernel.seccomp.CALLS`: mmap, poll, dup,
fstat, readv and close_range among them see what really is there.

If this process dies, or `stop` was called, the kernel fails the calls that wait, and all later
ones, with ENOSYS; a close fails with it too, and closes nothing.

The program cannot gain privileges by exec, and may not have a listener of its own.
"""

import array
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from errno import EFAULT, EIO
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Self

from ..errors import KernelError, UsageError
from ..kernel import seccomp
from ..kernel.seccomp import Listener, Notification
from ..worker import Worker
from .call import Answer, BadAddress, Call, Failed, Vanished, checked

_SENTENCE_SIZE = 1 << 16
"""More than any sentence of the launcher's."""

_LAUNCHER = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from switchover.player.launch import main; sys.exit(main(sys.argv[1:]))"
)
_PACKAGE_PARENT = Path(__file__).parents[2]


def why_not() -> str | None:
    """Why no program can be played to here; None if one can."""
    try:
        _check()
    except (KernelError, UsageError) as error:
        return str(error)
    return None


def _check() -> None:
    machine = os.uname().machine if hasattr(os, "uname") else "another"
    if sys.platform != "linux" or machine != "x86_64" or sys.maxsize < 1 << 32:
        raise UsageError(
            f"calls of a process can be answered on Linux on x86-64 only, and this is "
            f"{sys.platform} on {machine} with {sys.maxsize.bit_length() + 1} bits"
        )
    seccomp.check()


class PlayedProcess:
    """A child process, and the threads that answer its calls.

    Args:
        arguments: The program, looked for as a shell does, and its arguments.
        answer: Answers a call: with what it returns, with an errno or with LET_GO_ON. It is called
            by several threads, at the same time for calls of different threads of the program, and
            it may block; it must not block for ever, or `stop` does. If it raises an
            exception the call fails with EIO, unless that is BadAddress or Vanished.
        first_fd: The first of the descriptors whose calls are answered; all higher ones are too.
        reserved: How many descriptors from there are kept open with nothing behind them, so that
            the program gets no such number by itself.
        threads: How many calls are answered at the same time.
        on_error: Is told each exception of `answer`, in the thread where it happened; raises
            none itself.
        stdin: As for subprocess, and so on.
        stdout: See there.
        stderr: See there.
        pass_fds: See there; none that is reserved.
        cwd: See there.
        env: See there.
        start_new_session: See there.

    Raises:
        UsageError: There is no such program, it cannot be run, or this is not the machine for it.
        KernelError: The kernel has not what is needed.
    """

    def __init__(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        answer: Callable[[Call], Answer],
        *,
        first_fd: int = 1000,
        reserved: int = 64,
        threads: int = 8,
        on_error: Callable[[BaseException], None] | None = None,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        _check()
        if not arguments or first_fd < 3 or reserved < 0 or threads < 1:
            raise UsageError(
                f"a played process needs a program, a first descriptor behind the standard ones "
                f"and a thread, got {list(arguments)}, {first_fd}, {reserved} reserved and "
                f"{threads} threads"
            )
        self._answer = answer
        self._on_error = on_error
        self._error: BaseException | None = None
        self._workers: list[Worker] = []
        self._turn: SimpleQueue[None] = SimpleQueue()
        """Whoever has what is in it listens; one at a time."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                try:
                    self._process = subprocess.Popen(
                        [
                            *(sys.executable, "-I", "-S", "-c", _LAUNCHER, str(_PACKAGE_PARENT)),
                            *(str(theirs.fileno()), str(first_fd), str(reserved), "--"),
                            *(os.fspath(argument) for argument in arguments),
                        ],
                        stdin=stdin,
                        stdout=stdout,
                        stderr=stderr,
                        pass_fds=(*pass_fds, theirs.fileno()),
                        cwd=cwd,
                        env=env,
                        start_new_session=start_new_session,
                    )
                except (OSError, ValueError) as error:
                    raise UsageError(f"cannot run {sys.executable}: {error}") from error
            self._listener_fd = -1
            self._wake = -1
            try:
                self._listener_fd = self._receive_listener(ours)
                self._wake = os.eventfd(0, os.EFD_CLOEXEC)
            except BaseException:
                self._release()
                self._end()
                raise
        self._listener = Listener(self._listener_fd)
        self._is_stopping = False
        self._turn.put(None)
        try:
            for number in range(threads):
                self._workers.append(Worker(f"player/{number}", self._play))
        except BaseException:
            self.close()
            raise

    def _receive_listener(self, ours: socket.socket) -> int:
        """Waits until the launcher has become the program, and returns the listener."""
        descriptors = array.array("i")
        sentence = b""
        try:
            while True:
                data, rights, _, _ = ours.recvmsg(
                    _SENTENCE_SIZE,
                    socket.CMSG_SPACE(descriptors.itemsize),
                    socket.MSG_CMSG_CLOEXEC,
                )
                for level, kind, taken in rights:
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                        descriptors.frombytes(taken)
                if not data:
                    break
                if not rights:
                    sentence = data
            if sentence:
                raise UsageError(sentence.decode(errors="surrogateescape"))
            if len(descriptors) != 1:
                status = self._process.wait()
                raise UsageError(f"the launcher ended with status {status} before the program ran")
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        return descriptors[0]

    # The threads.

    def _play(self) -> None:
        try:
            while (notification := self._next()) is not None:
                self._play_one(Call(self._listener, notification))
        except BaseException as error:
            if not self._is_stopping:
                # A caller that nobody answers would wait for ever.
                self._keep(error)
                self._disconnect()

    def _next(self) -> Notification | None:
        """Takes a turn to listen, and returns what came; None once nothing can come."""
        self._turn.get()
        try:
            poll = select.poll()
            poll.register(self._listener_fd, select.POLLIN)
            poll.register(self._wake, select.POLLIN)
            while True:
                events = dict(poll.poll())
                if self._is_stopping:
                    return None
                seen = events.get(self._listener_fd, 0)
                if seen & select.POLLIN:
                    notification = self._listener.receive()
                    if notification is not None:
                        return notification
                elif seen:
                    return None  # Nobody is left who has the filter.
        finally:
            self._turn.put(None)

    def _play_one(self, call: Call) -> None:
        answer: Answer
        try:
            answer = checked(self._answer(call))
        except BadAddress:
            answer = Failed(EFAULT)
        except Vanished:
            answer = Failed(EIO)  # Which nobody gets.
        except BaseException as error:
            self._keep(error)
            answer = Failed(EIO)
        try:
            call.finish(answer)
        except KernelError:
            if not self._is_stopping:
                raise

    def _keep(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        if self._on_error is not None:
            with suppress(Exception):
                self._on_error(error)

    def _disconnect(self) -> None:
        """Lets the kernel fail what waits, without waiting for anybody here."""
        self._is_stopping = True
        os.eventfd_write(self._wake, 1)
        # Its number stays taken, as threads may be about to use it; they find nothing there.
        os.dup2(self._wake, self._listener_fd, inheritable=False)

    # The owner's side.

    @property
    def error(self) -> BaseException | None:
        """The first exception of `answer`, or what ended the answering before its time."""
        return self._error

    @property
    def pid(self) -> int:
        """The child's number."""
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes] | None:
        """The pipe to the program, if one was asked for."""
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes] | None:
        """The pipe from the program, if one was asked for."""
        return self._process.stdout

    @property
    def stderr(self) -> IO[bytes] | None:
        """The pipe of its errors, if one was asked for."""
        return self._process.stderr

    def poll(self) -> int | None:
        """The exit status, or the negated signal, if the child has ended."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Waits until the child has ended.

        Args:
            timeout: For so many seconds at most.

        Returns:
            Its exit status, or the negated number of the signal that ended it.

        Raises:
            TimeoutError: It runs on.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"process {self.pid} still runs after {timeout} s") from error

    def send_signal(self, signal: int) -> None:
        """Sends a signal to the child, if it has not ended."""
        self._process.send_signal(signal)

    def terminate(self) -> None:
        """Asks the child to end."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends the child, but not what it started."""
        self._process.kill()

    def stop(self) -> None:
        """Answers nothing more: calls that wait fail with ENOSYS at once, and so do later ones.

        Waits for what is being answered, whose answers are dropped. The child runs on. May be
        called twice, but not from `answer`.
        """
        if self._listener_fd >= 0:
            self._disconnect()
            for worker in self._workers:
                worker.join()
            self._release()

    def close(self) -> None:
        """Stops, ends the child if it still runs, and closes the pipes; may be called twice."""
        self.stop()
        self._end()

    def _release(self) -> None:
        for descriptor in (self._listener_fd, self._wake):
            if descriptor >= 0:
                os.close(descriptor)
        self._listener_fd = self._wake = -1

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):  # Of what was still to be written.
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
