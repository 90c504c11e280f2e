"""A player: real processes, whose calls on descriptors from 1000 on are answered here."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.player.playing import TIMEOUT_S, needs_player, outcome, play, python
from tests.waiting import wait_until

from switchover.errors import KernelError, UsageError
from switchover.kernel import seccomp
from switchover.player import process as player_process
from switchover.player.call import (
    LET_GO_ON,
    Answer,
    BadAddress,
    Call,
    Failed,
    Returned,
    Vanished,
    checked,
)
from switchover.player.process import PlayedProcess, why_not


def go_on(call: Call) -> Answer:
    return LET_GO_ON


def returning(value: int) -> Callable[[Call], Answer]:
    return lambda call: Returned(value)


@needs_player
class TestAnswers:
    @pytest.mark.parametrize("value", [0, 1, 77, (1 << 31) - 1])
    def test_value_is_returned(self, value: int) -> None:
        with play("print(fcntl.ioctl(1000, 5))", returning(value)) as process:
            assert outcome(process) == str(value)

    @pytest.mark.parametrize("name", ["EXDEV", "EBADF", "EAGAIN", "ENOTTY", "ENOTSUP"])
    def test_errno_is_what_the_call_fails_with(self, name: str) -> None:
        expected = errno.errorcode[getattr(errno, name)]
        with play(
            "print(fails(os.pread, 1000, 5, 7))", lambda call: Failed(getattr(errno, name))
        ) as process:
            assert outcome(process) == expected

    def test_each_call_is_named_and_has_its_arguments(self) -> None:
        seen: list[tuple[str, int, tuple[int, ...]]] = []

        def answer(call: Call) -> Answer:
            seen.append((call.name, call.fd, call.arguments))
            return Returned(0)

        text = (
            "os.read(1000, 5); os.write(1001, b'abc'); os.pread(1002, 6, 1 << 40);"
            "os.pwrite(1003, b'abcd', 9); fcntl.ioctl(1004, 0xAABB, 3); os.close(1005)"
        )
        with play(text, answer) as process:
            outcome(process)
            assert process.error is None
        names = ["read", "write", "pread64", "pwrite64", "ioctl", "close"]
        assert [(name, fd) for name, fd, _ in seen] == list(
            zip(names, range(1000, 1006), strict=True)
        )
        assert all(len(arguments) == 6 for *_, arguments in seen)
        arguments = [arguments for *_, arguments in seen]
        assert [taken[2] for taken in arguments[:4]] == [5, 3, 6, 4]
        assert (arguments[2][3], arguments[3][3]) == (1 << 40, 9)
        assert arguments[4][1:3] == (0xAABB, 3)

    def test_data_goes_both_ways(self) -> None:
        written: list[bytes] = []

        def answer(call: Call) -> Answer:
            address, size = call.arguments[1:3]
            if call.name == "write":
                written.append(call.read(address, size))
                return Returned(size)
            call.write(address, b"from here"[:size])
            return Returned(len(b"from here"[:size]))

        with play("os.write(1000, b'to there'); print(os.read(1000, 99))", answer) as process:
            assert outcome(process) == "b'from here'"
        assert written == [b"to there"]

    def test_argument_of_an_ioctl_is_read_and_written(self) -> None:
        def answer(call: Call) -> Answer:
            call.write(call.arguments[2], call.read(call.arguments[2], 4)[::-1])
            return Returned(0)

        text = "b = bytearray(b'abcd'); fcntl.ioctl(1000, 5, b); print(b)"
        with play(text, answer) as process:
            assert outcome(process) == "bytearray(b'dcba')"

    def test_large_data_is_whole(self) -> None:
        size = (3 << 20) + 5
        data = os.urandom(size)
        back: list[bytes] = []

        def answer(call: Call) -> Answer:
            if call.name == "read":
                call.write(call.arguments[1], data)
            else:
                back.append(call.read(call.arguments[1], call.arguments[2]))
            return Returned(size)

        with play(f"os.write(1000, os.read(1000, {size}))", answer) as process:
            outcome(process)
        assert back == [data]

    def test_nothing_is_read_and_written_of_nothing(self) -> None:
        def answer(call: Call) -> Answer:
            call.write(0, b"")
            return Returned(len(call.read(0, 0)) + 3)

        with play("print(fcntl.ioctl(1000, 5))", answer) as process:
            assert outcome(process) == "3"

    @pytest.mark.parametrize("address", [0, 1, 1 << 46, (1 << 63) - 4096, 1 << 63, (1 << 64) - 1])
    @pytest.mark.parametrize("writes", [False, True])
    def test_bad_address_is_the_caller_s_fault(self, address: int, writes: bool) -> None:
        def answer(call: Call) -> Answer:
            if writes:
                call.write(address, b"abcd")
            else:
                call.read(address, 4)
            return Returned(0)

        with play("print(fails(fcntl.ioctl, 1000, 5))", answer) as process:
            assert outcome(process) == "EFAULT"
            assert process.error is None

    def test_memory_that_ends_midway_is_a_bad_address(self) -> None:
        raised: list[BaseException] = []

        def answer(call: Call) -> Answer:
            for access in (
                lambda: call.read(call.arguments[2], 8192),
                lambda: call.write(call.arguments[2], bytes(8192)),
            ):
                try:
                    access()
                except BadAddress as error:
                    raised.append(error)
            return Returned(0)

        text = (
            "import ctypes, mmap\n"
            "m = mmap.mmap(-1, 8192)\n"
            "a = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
            "libc = ctypes.CDLL(None)\n"
            "assert libc.munmap(ctypes.c_void_p(a + 4096), ctypes.c_size_t(4096)) == 0\n"
            "libc.syscall(ctypes.c_long(16), ctypes.c_long(1000), ctypes.c_long(5),"
            " ctypes.c_void_p(a))\n"
            "os._exit(0)"
        )
        with play(text, answer) as process:
            outcome(process)
        assert len(raised) == 2

    def test_close_is_seen_and_closes(self) -> None:
        seen: list[tuple[str, int]] = []

        def answer(call: Call) -> Answer:
            seen.append((call.name, call.fd))
            return LET_GO_ON

        text = "os.fstat(1003); os.close(1003); print(fails(os.fstat, 1003))"
        with play(text, answer) as process:
            assert outcome(process) == "EBADF"
        assert seen == [("close", 1003)]

    def test_other_calls_and_descriptors_are_not_seen(self) -> None:
        seen: list[Call] = []

        def answer(call: Call) -> Answer:
            seen.append(call)
            return LET_GO_ON

        text = (
            "r, w = os.pipe(); os.dup2(w, 999); os.write(999, b'abc'); print(os.read(r, 3))\n"
            "os.close(999); os.fstat(1000); os.lseek(1000, 0, 0); fails(os.close, -1)"
        )
        with play(text, answer) as process:
            assert outcome(process) == "b'abc'"
        assert seen == []

    def test_one_ioctl_is_seen_below(self) -> None:
        def answer(call: Call) -> Answer:
            return Returned(5) if call.arguments[1] == seccomp.KVM_SET_DEVICE_ATTR else LET_GO_ON

        with play("print(fcntl.ioctl(0, 0x4018aee1, 0))", answer) as process:
            assert outcome(process) == "5"

    @pytest.mark.parametrize(
        ("at", "text"),
        [
            (None, "n = fcntl.ioctl(1000, 5); assert n < 1000; os.write(n, b'through')"),
            (900, "assert fcntl.ioctl(1000, 5) == 900; os.write(900, b'through')"),
            (1005, "assert fcntl.ioctl(1000, 5) == 1005; os.write(1005, b'through')"),
            (2000, "assert fcntl.ioctl(1000, 5) == 2000; os.write(2000, b'through')"),
        ],
    )
    def test_descriptor_is_given_and_used(self, at: int | None, text: str) -> None:
        read_end, write_end = os.pipe()

        def answer(call: Call) -> Answer:
            return Returned(call.add_fd(write_end, at)) if call.name == "ioctl" else LET_GO_ON

        try:
            with play(text, answer) as process:
                outcome(process)
                assert process.error is None
            assert os.read(read_end, 99) == b"through"
        finally:
            os.close(read_end)
            os.close(write_end)

    def test_descriptor_beyond_the_limit_is_refused(self) -> None:
        with play(
            "print(fails(fcntl.ioctl, 1000, 5))", lambda call: Returned(call.add_fd(1, 1 << 30))
        ) as process:
            assert outcome(process) == "EIO"
            assert isinstance(process.error, KernelError)
            assert process.error.errno == errno.EBADF

    def test_signals_do_not_repeat_a_call(self) -> None:
        count = 0

        def answer(call: Call) -> Answer:
            nonlocal count
            count += 1
            os.kill(call.pid, signal.SIGUSR1)
            # Gives the signal a chance to be there first.
            call.read(call.arguments[1], call.arguments[2])
            return Returned(count)

        text = (
            "import signal; seen = []\n"
            "signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))\n"
            "for n in range(1, 201): assert os.write(1000, bytes(65536)) == n\n"
            "print(len(seen))"
        )
        with play(text, answer) as process:
            assert int(outcome(process)) > 0
        assert count == 200


@needs_player
class TestManyAtOnce:
    def test_slow_answer_does_not_hold_another(self) -> None:
        slow, fast = threading.Event(), threading.Event()

        def answer(call: Call) -> Answer:
            if call.fd == 1000:
                slow.set()
                return Returned(int(fast.wait(TIMEOUT_S)))
            assert slow.wait(TIMEOUT_S)
            fast.set()
            return Returned(2)

        text = (
            "got = []\n"
            "t = threading.Thread(target=lambda: got.append(fcntl.ioctl(1000, 5)))\n"
            "t.start(); got.append(fcntl.ioctl(1001, 5)); t.join(); print(sorted(got))"
        )
        with play(text, answer, threads=2) as process:
            assert outcome(process) == "[1, 2]"

    @pytest.mark.parametrize("threads", [1, 3])
    def test_threads_have_each_their_answers(self, threads: int) -> None:
        callers = set()

        def answer(call: Call) -> Answer:
            callers.add(call.pid)
            return Returned(call.fd * 1000 + call.arguments[2])

        text = (
            "wrong = []\n"
            "def run(fd):\n"
            " wrong.extend(n for n in range(100) if fcntl.ioctl(fd, 5, n) != fd * 1000 + n)\n"
            "all = [threading.Thread(target=run, args=(1000 + n,)) for n in range(5)]\n"
            "for t in all: t.start()\n"
            "for t in all: t.join()\n"
            "print(wrong)"
        )
        with play(text, answer, threads=threads) as process:
            assert outcome(process) == "[]"
        assert len(callers) == 5

    def test_what_it_forks_is_played_to(self) -> None:
        pids = []

        def answer(call: Call) -> Answer:
            pids.append(call.pid)
            data = call.read(call.arguments[1], call.arguments[2])
            return Returned(len(data))

        text = (
            "pid = os.fork()\n"
            "assert os.write(1000, b'abc') == 3\n"
            "if not pid: os._exit(0)\n"
            "assert os.waitpid(pid, 0)[1] == 0; print(pid)"
        )
        with play(text, answer) as process:
            child = int(outcome(process))
            assert sorted(pids) == sorted([process.pid, child])

    def test_descriptors_stay_over_exec(self) -> None:
        text = (
            "os.execv(sys.executable, [sys.executable, '-c', 'import os; os.write(1063, b\"\")'])"
        )
        with play(text, returning(0)) as process:
            outcome(process)


@needs_player
class TestFailures:
    def test_exception_is_the_caller_s_eio_and_is_kept(self) -> None:
        told: list[BaseException] = []
        errors = [ValueError("first"), KeyError("second")]
        left = list(errors)

        def answer(call: Call) -> Answer:
            if left:
                raise left.pop(0)
            return Returned(7)

        text = "print(*(fails(fcntl.ioctl, 1000, 5) for _ in 'ab'), fcntl.ioctl(1000, 5))"
        with play(text, answer, on_error=told.append) as process:
            assert outcome(process) == "EIO EIO 7"
            assert process.error is errors[0]
        assert told == errors

    @pytest.mark.parametrize(
        "wrong", [None, 5, Returned(1 << 63), Failed(0), Failed(-5), Failed(4096), Returned]
    )
    def test_what_is_no_answer_is_an_error(self, wrong: object) -> None:
        with pytest.raises(ValueError, match="is no answer"):
            checked(wrong)

    def test_no_answer_is_the_caller_s_eio(self) -> None:
        answer: Callable[[Call], Answer] = lambda call: None  # type: ignore[assignment,return-value] # noqa: E731
        with play("print(fails(os.close, 1000))", answer) as process:
            assert outcome(process) == "EIO"
            assert isinstance(process.error, ValueError)

    def test_child_killed_in_the_middle_ends_the_call_quietly(self) -> None:
        inside, killed, over = (threading.Event() for _ in range(3))
        raised: list[type[BaseException]] = []

        def answer(call: Call) -> Answer:
            address = call.arguments[1]
            call.read(address, 3)
            inside.set()
            assert killed.wait(TIMEOUT_S)
            assert not call.is_waiting()
            for access in (
                lambda: call.read(address, 3),
                lambda: call.write(address, b"abc"),
                lambda: call.add_fd(1),
            ):
                try:
                    access()
                except Vanished as error:
                    raised.append(type(error))
            over.set()
            call.read(address, 3)
            raise AssertionError

        with play("os.write(1000, b'abc')", answer) as process:
            assert inside.wait(TIMEOUT_S)
            process.kill()
            assert process.wait(TIMEOUT_S) == -signal.SIGKILL
            killed.set()
            assert over.wait(TIMEOUT_S)
            process.stop()
            assert process.error is None
        assert raised == [Vanished] * 3

    def test_child_killed_before_memory_was_touched(self) -> None:
        inside, killed = threading.Event(), threading.Event()

        def answer(call: Call) -> Answer:
            inside.set()
            assert killed.wait(TIMEOUT_S)
            call.write(call.arguments[1], b"abc")
            raise AssertionError

        with play("os.read(1000, 3)", answer) as process:
            assert inside.wait(TIMEOUT_S)
            process.kill()
            process.wait(TIMEOUT_S)
            killed.set()
            process.stop()
            assert process.error is None

    def test_answered_call_can_do_nothing_more(self) -> None:
        calls: list[Call] = []

        def answer(call: Call) -> Answer:
            calls.append(call)
            return Returned(3)

        with play("os.write(1000, b'abc'); sys.stdin.read()", answer, stdin=-1):
            wait_until(lambda: calls and calls[0]._is_over, "answer")
            call = calls[0]
            assert not call.is_waiting()
            for access in (lambda: call.read(1, 1), lambda: call.add_fd(1)):
                with pytest.raises(Vanished):
                    access()

    def test_stopping_fails_what_waits_and_all_later(self) -> None:
        inside, free = threading.Event(), threading.Event()

        def answer(call: Call) -> Answer:
            inside.set()
            assert free.wait(TIMEOUT_S)
            return Returned(0)

        text = "print(fails(os.read, 1000, 5), fails(os.close, 1001)); os.fstat(1001)"
        with play(text, answer) as process:
            assert inside.wait(TIMEOUT_S)
            process._disconnect()
            # The answer is not there yet, and the child goes on.
            assert outcome(process) == "ENOSYS ENOSYS"
            free.set()
            process.stop()
            process.stop()
            assert process.error is None

    def test_stopping_by_its_end_fails_what_nobody_took(self) -> None:
        inside, free = threading.Event(), threading.Event()

        def answer(call: Call) -> Answer:
            inside.set()
            assert free.wait(TIMEOUT_S)
            return Returned(1)

        text = (
            "t = threading.Thread(target=lambda: print(fails(fcntl.ioctl, 1000, 5)))\n"
            "t.start(); print(fails(fcntl.ioctl, 1001, 5)); t.join()"
        )
        with play(text, answer, threads=1) as process:
            assert inside.wait(TIMEOUT_S)
            process._disconnect()
            assert outcome(process).split() == ["ENOSYS", "ENOSYS"]
            free.set()

    def test_player_that_dies_leaves_enosys(self, tmp_path: Path) -> None:
        told = tmp_path / "told"
        child = python(
            "e = fails(os.read, 1000, 1)\n"
            f"with open({str(told)!r} + '.new', 'w') as f: f.write(e)\n"
            f"os.rename({str(told)!r} + '.new', {str(told)!r})"
        )
        text = (
            "import os, sys\n"
            "from switchover.player.process import PlayedProcess\n"
            "PlayedProcess(sys.argv[1:], lambda call: os.kill(os.getpid(), 9)).wait()"
        )
        done = subprocess.run([sys.executable, "-c", text, *child], timeout=TIMEOUT_S)
        assert done.returncode == -signal.SIGKILL
        wait_until(told.exists, "word of the child")
        assert told.read_text() == "ENOSYS"

    def test_broken_listener_does_not_hang_the_child(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(self: object) -> None:
            raise KernelError("SECCOMP_IOCTL_NOTIF_RECV", OSError(errno.ENOMEM, "none"))

        monkeypatch.setattr(seccomp.Listener, "receive", broken)
        with play("print(fails(os.read, 1000, 1))", go_on) as process:
            assert outcome(process) == "ENOSYS"
            assert isinstance(process.error, KernelError)


@needs_player
class TestProcess:
    @pytest.mark.parametrize("status", [0, 1, 77, 126, 127])
    def test_exit_status_passes_through(self, status: int) -> None:
        with play(f"sys.exit({status})", go_on) as process:
            assert process.wait(TIMEOUT_S) == status
            assert process.poll() == status

    def test_signals_pass_through(self) -> None:
        text = (
            "import signal\n"
            "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(5))\n"
            "print('x', flush=True)\n"
            "while True: signal.pause()"
        )
        with play(text, go_on) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert process.poll() is None
            with pytest.raises(TimeoutError, match=str(process.pid)):
                process.wait(0)
            process.send_signal(signal.SIGUSR1)
            assert process.wait(TIMEOUT_S) == 5

    def test_ends_what_still_runs(self) -> None:
        with play("import signal; signal.pause()", go_on) as process:
            pass
        assert process.poll() == -signal.SIGKILL
        process.close()

    def test_is_terminated(self) -> None:
        with play("import signal; signal.pause()", go_on) as process:
            process.terminate()
            assert process.wait(TIMEOUT_S) == -signal.SIGTERM

    def test_threads_end_with_the_process(self) -> None:
        with play("", go_on, threads=3) as process:
            outcome(process)
            for worker in process._workers:
                worker.join()
            assert process.error is None

    def test_threads_are_named(self) -> None:
        names = []

        def answer(call: Call) -> Answer:
            names.append(threading.current_thread().name)
            return Returned(0)

        with play("fcntl.ioctl(1000, 5)", answer, threads=1) as process:
            outcome(process)
        assert names == ["player/0"]

    def test_pipes_and_pid_are_the_child_s(self) -> None:
        text = "print(os.getpid(), os.getsid(0)); sys.stderr.write(sys.stdin.read())"
        options = {"stdin": -1, "stderr": -1, "start_new_session": True}
        with play(text, go_on, **options) as process:
            assert process.stdin is not None and process.stderr is not None
            process.stdin.write(b"through")
            process.stdin.close()
            assert process.stderr.read() == b"through"
            assert outcome(process) == f"{process.pid} {process.pid}"

    def test_descriptors_are_passed(self) -> None:
        read_end, write_end = os.pipe()
        try:
            with play(f"os.write({write_end}, b'abc')", go_on, pass_fds=[write_end]) as process:
                outcome(process)
            assert os.read(read_end, 3) == b"abc"
        finally:
            os.close(read_end)
            os.close(write_end)

    def test_other_numbers_may_be_chosen(self) -> None:
        text = "os.write(70, b''); os.fstat(71); print(fails(os.fstat, 72))"
        with play(text, returning(0), first_fd=70, reserved=2) as process:
            assert outcome(process) == "EBADF"

    def test_many_descriptors_here_are_not_in_the_way(self) -> None:
        taken = [os.dup(0) for _ in range(120)]
        try:
            text = "print(os.write(90, b''), sorted(map(int, os.listdir('/proc/self/fd')))[:4])"
            with play(text, returning(4), first_fd=80) as process:
                assert outcome(process) == "4 [0, 1, 2, 3]"
        finally:
            for descriptor in taken:
                os.close(descriptor)

    def test_as_an_ordinary_user(self) -> None:
        if os.getuid() != 0:
            pytest.skip("this is not root: all the other tests run as an ordinary user already")
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("no setpriv in PATH, by which root becomes an ordinary user")
        text = (
            "import sys\n"
            "from switchover.player.call import Returned\n"
            "from switchover.player.process import PlayedProcess, why_not\n"
            "assert why_not() is None\n"
            "def answer(call):\n"
            " call.write(call.arguments[1], call.read(call.arguments[1], 3)[::-1])\n"
            " return Returned(call.add_fd(1, 900))\n"
            "with PlayedProcess(sys.argv[1:], answer) as process:\n"
            " status = process.wait()\n"
            " sys.exit(str(process.error) if process.error else status)"
        )
        child = (
            "import ctypes; b = ctypes.create_string_buffer(b'abc')\n"
            "n = ctypes.CDLL(None).write(1000, b, 3); print(os.getuid(), n, b.value)"
        )
        # What it may more than an ordinary user is to find the interpreter in root's home.
        may = "-all,+dac_read_search"
        user = ("--reuid=65534", "--regid=65534", "--clear-groups")
        caps = (f"--inh-caps={may}", f"--ambient-caps={may}", f"--bounding-set={may}")
        done = subprocess.run(
            [setpriv, *user, *caps, sys.executable, "-c", text, *python(child)],
            stdout=subprocess.PIPE,
            timeout=TIMEOUT_S,
        )
        assert (done.returncode, done.stdout) == (0, b"65534 900 b'cba'\n")


class TestNotStarted:
    @needs_player
    def test_program_that_is_not_there(self) -> None:
        with pytest.raises(UsageError) as caught:
            PlayedProcess(["/nonexistent/program"], go_on)
        expected = f"cannot run /nonexistent/program: {os.strerror(errno.ENOENT)}"
        assert str(caught.value) == expected

    @needs_player
    def test_descriptor_that_is_passed_and_reserved(self) -> None:
        number = os.dup2(0, 300)
        try:
            with pytest.raises(UsageError, match=r"descriptor 300 .* open already"):
                play("", go_on, first_fd=299, reserved=2, pass_fds=[number])
        finally:
            os.close(number)

    @pytest.mark.parametrize(
        "options", [{"first_fd": 2}, {"reserved": -1}, {"threads": 0}, {"arguments": []}]
    )
    @needs_player
    def test_what_cannot_be_is_refused(self, options: dict[str, object]) -> None:
        arguments = options.pop("arguments", ["true"])
        with pytest.raises(UsageError, match="a played process needs"):
            PlayedProcess(arguments, go_on, **options)  # type: ignore[arg-type]

    @needs_player
    def test_launcher_that_ends_early(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(player_process, "_LAUNCHER", "raise SystemExit(9)")
        with pytest.raises(UsageError, match="the launcher ended with status 9"):
            play("", go_on)

    @needs_player
    def test_without_the_launcher_s_interpreter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "/nonexistent/python")
        with pytest.raises(UsageError, match="cannot run /nonexistent/python"):
            PlayedProcess(["true"], go_on)

    @pytest.mark.parametrize(
        ("name", "value"), [("platform", "darwin"), ("maxsize", (1 << 31) - 1)]
    )
    def test_on_another_machine(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: object
    ) -> None:
        monkeypatch.setattr(sys, name, value)
        reason = why_not()
        assert reason is not None
        assert reason.startswith("calls of a process can be answered on Linux on x86-64 only")
        with pytest.raises(UsageError) as caught:
            PlayedProcess(["true"], go_on)
        assert str(caught.value) == reason

    def test_on_an_older_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def old() -> None:
            raise KernelError("SECCOMP_X", OSError(errno.EINVAL, "Invalid argument"))

        monkeypatch.setattr(seccomp, "check", old)
        if os.uname().machine == "x86_64":
            assert why_not() == "the kernel refuses SECCOMP_X: Invalid argument"
            with pytest.raises(KernelError):
                PlayedProcess(["true"], go_on)
