"""One real QEMU, started for a test, driven over QMP, and gone at the end.

It needs no thread and no event loop of the caller's: the QMP client runs on a private loop, which
turns only inside a call. QEMU is on a socket pair of our own from its start, so there is nothing to
wait for and its death is seen at once. Waiting is polling with a deadline.
"""

import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self, TypeVar, cast

from qemu.qmp import EventListener, Message, QMPClient, QMPError
from qemu.qmp.qmp_client import ExecuteError

from switchover.testing.guest import Guest
from switchover.testing.peer import Peer

T = TypeVar("T")

FINAL_STATUSES = frozenset({"completed", "failed", "cancelled"})

TIMEOUT_S = 30.0
"""How long a thing may take that usually takes milliseconds, on a slow and busy machine."""

_POLL_S = 0.01
_STOP_S = 5.0
_STDERR_LINES = 5


class Process(Protocol):
    """What is needed of a process that was started; `subprocess.Popen` has it."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    def poll(self) -> int | None:
        """Its exit status, if it has ended."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Waits until it has ended; gives its exit status."""
        ...

    def terminate(self) -> None:
        """Asks it to end."""
        ...

    def kill(self) -> None:
        """Ends it."""
        ...


_LATE = (subprocess.TimeoutExpired, TimeoutError)


class QemuError(RuntimeError):
    """A QEMU refused a command, did not come to a state in time, or died."""


class Qemu:
    """A context manager: one QEMU under TCG, without any device that is not asked for.

    Its files live in a temporary directory that goes away with it, and its first serial port
    writes into one of them. A second QMP monitor listens on `qmp_path`, for whoever else wants to
    drive this QEMU.

    Args:
        peer: Which QEMU.
        machine: The machine type, with its options if any: `pc`, `pc-i440fx-10.0`, `q35,hpet=off`.
        memory: The size of the guest's memory, as QEMU's `-m` takes it.
        guest: What runs in it. The destination of a migration takes the same one as its source.
        incoming: None, `defer`, or the URI that a migration comes from.
        paused: Whether it starts with `-S`, so that nothing runs before `cont`.
        extra: More QEMU arguments, at the end.
    """

    def __init__(
        self,
        peer: Peer,
        machine: str = "pc",
        memory: str = "64M",
        *,
        guest: Guest | None = None,
        incoming: str | None = None,
        paused: bool = False,
        extra: Sequence[str] = (),
    ) -> None:
        self.peer = peer
        self.machine = machine
        self.memory = memory
        self._guest = guest
        self._options = [
            *(["-S"] if paused else []),
            *(["-incoming", incoming] if incoming else []),
            *extra,
        ]
        self._events: list[Message] = []

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="switchover-"))
        self._runner = asyncio.Runner()
        self._client = QMPClient(f"QEMU {self.peer.name}")
        self._listener = EventListener()
        self._client.register_listener(self._listener)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = self._start(theirs.fileno())
        except BaseException:
            ours.close()
            self._clear()
            raise
        try:
            self._call(self._client.connect(ours), "the start")
        except BaseException:
            ours.close()
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    # -- the process ---------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """A directory of this QEMU's own, removed at the end."""
        return self._directory

    @property
    def qmp_path(self) -> Path:
        """The Unix socket of its second QMP monitor, which takes one client at a time."""
        return self._directory / "qmp"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process, not the guest in it, is still there."""
        return self._process.poll() is None

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that the process has had resident so far."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
        if line is None:
            raise QemuError(f"the memory of {self._gone()} cannot be measured")
        return int(line.split()[1]) * 1024

    def stderr(self) -> str:
        """All that it wrote to its standard error so far."""
        return self._text("stderr")

    def wait_exit(self, timeout: float = TIMEOUT_S) -> int:
        """Waits until the process has ended by itself, and gives its exit status."""
        try:
            return self._process.wait(timeout)
        except _LATE:
            raise QemuError(f"{self._name} is still running after {timeout:g} s") from None

    # -- QMP -----------------------------------------------------------------------------------

    def execute(self, command: str, **arguments: object) -> object:
        """Executes a QMP command and gives what it returns.

        Arguments whose names have a dash go in as `**{"exit-on-error": False}`.

        Raises:
            QemuError: QEMU refused it; the sentence ends in QEMU's own words. Or QEMU is gone.
        """
        return self._call(self._client.execute(command, arguments or None), command)

    def query(self, command: str) -> dict[str, Any]:
        """Executes a QMP command that returns an object."""
        return cast(dict[str, Any], self.execute(command))

    def wait_event(self, name: str, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """Waits for a QMP event, and gives the first one of the name that no call gave before.

        Events of other names stay for later calls.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._events += self._listener.clear()
            for place, event in enumerate(self._events):
                if event["event"] == name:
                    return dict(self._events.pop(place))
            seen = ", ".join(str(event["event"]) for event in self._events) or "none"
            self._pause(deadline, f"no event {name} in {timeout:g} s; other events: {seen}")

    def set_capabilities(self, *names: str, state: bool = True) -> None:
        """Turns migration capabilities on, or off."""
        capabilities = [{"capability": name, "state": state} for name in names]
        self.execute("migrate-set-capabilities", capabilities=capabilities)

    def set_parameters(self, parameters: Mapping[str, object]) -> None:
        """Sets migration parameters, by QEMU's names: `{"max-bandwidth": 1 << 20}`."""
        self.execute("migrate-set-parameters", **parameters)

    def migrate(self, uri: str) -> None:
        """Starts a migration and returns at once; `wait_status` waits for its end."""
        self.execute("migrate", uri=uri)

    def migrate_incoming(self, uri: str) -> None:
        """Listens on a URI, in a QEMU that was started with `incoming="defer"`.

        A QEMU from 9.1 stays when the migration then fails, and says why. An older one exits.
        """
        stay = {"exit-on-error": False} if self.peer.version >= (9, 1) else {}
        self.execute("migrate-incoming", uri=uri, **stay)

    def wait_status(self, status: str, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """Waits until the migration has a status, and gives what `query-migrate` then says.

        Raises:
            QemuError: The migration came to another end, or QEMU is gone: with QEMU's own word
                for why, and the last lines of its standard error. Or the time is up.
        """
        deadline = time.monotonic() + timeout
        while True:
            info = self.query("query-migrate")
            found = info.get("status", "none")
            if found == status:
                return info
            if found in FINAL_STATUSES:
                why = f": {info['error-desc']}" if "error-desc" in info else ""
                sentence = f"{self._name}: the migration is {found}, not {status}{why}"
                raise QemuError(sentence + self._last_words())
            late = f"the migration is {found} after {timeout:g} s, not {status}"
            self._pause(deadline, late)

    def wait_error(self, timeout: float = TIMEOUT_S) -> str:
        """Waits until the migration has an error, and gives it, whatever its status then is."""
        deadline = time.monotonic() + timeout
        while "error-desc" not in (info := self.query("query-migrate")):
            late = f"the migration is {info.get('status')} without an error after {timeout:g} s"
            self._pause(deadline, late)
        return str(info["error-desc"])

    def run_state(self) -> str:
        """The guest's run state by QEMU's name: `running`, `paused`, `inmigrate`, `postmigrate`."""
        return str(self.query("query-status")["status"])

    def wait_run_state(self, state: str, timeout: float = TIMEOUT_S) -> None:
        """Waits until the guest has a run state."""
        deadline = time.monotonic() + timeout
        while (found := self.run_state()) != state:
            self._pause(deadline, f"the guest is {found} after {timeout:g} s, not {state}")

    def save_memory(self, gpa: int, size_bytes: int) -> bytes:
        """A piece of the guest's memory. It is of one moment only if the guest is stopped."""
        path = self._directory / "memory"
        self.execute("pmemsave", val=gpa, size=size_bytes, filename=str(path))
        image = path.read_bytes()
        path.unlink()
        return image

    # -- the serial port -----------------------------------------------------------------------

    def serial(self) -> str:
        """All that the guest wrote to its first serial port so far, in this QEMU."""
        return self._text("serial")

    def wait_serial(self, wanted: str | Callable[[str], bool], timeout: float = TIMEOUT_S) -> str:
        """Waits until the serial output has a text in it, or satisfies a predicate.

        Returns:
            All the output so far.
        """
        is_there = (lambda text: wanted in text) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + timeout
        while not is_there(text := self.serial()):
            what = repr(wanted) if isinstance(wanted, str) else "what is waited for"
            late = f"the serial output has not {what} in {timeout:g} s; it ends in {text[-40:]!r}"
            self._pause(deadline, late)
        return text

    # -- within --------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"QEMU {'.'.join(map(str, self.peer.version))}"

    def _start(self, qmp_fd: int) -> Process:
        guest = self._guest.arguments(self._directory) if self._guest else []
        arguments = [
            *(str(self.peer.path), "-accel", "tcg", "-machine", self.machine, "-m", self.memory),
            *("-display", "none", "-nodefaults", "-no-user-config"),
            *("-chardev", f"socket,id=own,fd={qmp_fd}", "-mon", "chardev=own,mode=control"),
            *("-qmp", f"unix:{self.qmp_path},server=on,wait=off"),
            *("-serial", f"file:{self._directory / 'serial'}"),
            *guest,
            *self._options,
        ]
        with (self._directory / "stderr").open("wb") as stderr:
            return self._spawn(arguments, stderr, qmp_fd)

    def _spawn(self, arguments: Sequence[str], output: IO[bytes], qmp_fd: int) -> Process:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[qmp_fd],
            start_new_session=True,
        )

    def _text(self, name: str) -> str:
        path = self._directory / name
        return path.read_text("latin-1") if path.exists() else ""

    def _call(self, coroutine: Coroutine[Any, Any, T], what: str) -> T:
        """Runs one piece of QMP, with what goes wrong in it as one sentence."""
        try:
            return self._runner.run(asyncio.wait_for(coroutine, TIMEOUT_S))
        except ExecuteError as error:
            raise QemuError(f"{self._name} refuses {what}: {error}") from error
        except TimeoutError:
            raise QemuError(f"{self._name} does not answer {what} in {TIMEOUT_S:g} s") from None
        except (QMPError, OSError) as error:
            raise QemuError(f"{what} fails, as {self._gone()}") from error

    def _pause(self, deadline: float, late: str) -> None:
        """Lets QMP events in for a moment, unless the deadline has passed or QEMU is gone."""
        if not self.is_running:
            raise QemuError(f"{self._gone()}; {late}")
        if time.monotonic() >= deadline:
            raise QemuError(f"{self._name}: {late}")
        self._runner.run(asyncio.sleep(_POLL_S))

    def _gone(self) -> str:
        """How the process ended, or that it did not, with its last words."""
        try:
            end = f"exited with status {self._process.wait(_STOP_S)}"
        except _LATE:
            end = "closed its monitor but still runs"
        return f"{self._name} {end}{self._last_words()}"

    def _last_words(self) -> str:
        """The end of the standard error as the end of a sentence, if there is any."""
        last = " | ".join(self.stderr().splitlines()[-_STDERR_LINES:])
        return f"; it said: {last}" if last else ""

    def _stop(self) -> None:
        """Ends the process, whatever its state, and removes its files."""
        try:
            if self.is_running:
                self._runner.run(self._quit())
            self._end_process()
            self._runner.run(self._disconnect())
        finally:
            self._clear()

    async def _quit(self) -> None:
        try:
            await asyncio.wait_for(self._client.execute("quit"), _STOP_S)
        except (QMPError, OSError, TimeoutError):
            return  # it is gone, or hangs: the process is dealt with next

    async def _disconnect(self) -> None:
        try:
            await self._client.disconnect()
        except (QMPError, OSError, EOFError):
            return  # the connection broke before; that was reported where it mattered

    def _end_process(self) -> None:
        for end in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(_STOP_S)
                return
            except _LATE:
                end()
        self._process.wait()

    def _clear(self) -> None:
        self._runner.close()
        shutil.rmtree(self._directory, ignore_errors=True)
