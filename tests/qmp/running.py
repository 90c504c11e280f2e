"""`switchover run` in processes of their own, and a QMP client for each."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qemu.qmp import EventListener, Message, QMPClient
from qemu.qmp.qmp_client import ExecuteError
from tests.cli.command import Running, start

TIMEOUT_S = 30.0
_POLL_S = 0.01
_SMALL = ("--memory", "16M")


class Monitor:
    """A context manager: one QMP client, on a private loop that turns only inside a call.

    Args:
        path: The server's socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._events: list[Message] = []

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        self._client = QMPClient("test")
        self._listener = EventListener()
        self._client.register_listener(self._listener)
        self._runner.run(self._client.connect(str(self._path)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._runner.run(self._client.disconnect())
        except (EOFError, OSError):
            pass  # the server left first
        finally:
            self._runner.close()

    def execute(self, command: str, **arguments: object) -> Any:
        """Executes a command."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        call = self._client.execute(command, named or None)
        return self._runner.run(asyncio.wait_for(call, TIMEOUT_S))

    def refusal(self, command: str, **arguments: object) -> str:
        """Executes a command that is refused; why."""
        try:
            result = self.execute(command, **arguments)
        except ExecuteError as error:
            return f"{error.error.error.class_}: {error}"
        raise AssertionError(f"{command} was not refused: {result}")

    def set_capabilities(self, *names: str) -> None:
        """Switches capabilities on."""
        changes = [{"capability": name, "state": True} for name in names]
        self.execute("migrate-set-capabilities", capabilities=changes)

    @property
    def run_state(self) -> str:
        """The machine's state."""
        status = self.execute("query-status")
        assert status["running"] == (status["status"] == "running")
        return str(status["status"])

    def wait_status(self, *statuses: str) -> dict[str, Any]:
        """Waits until a migration is in a state."""
        deadline = time.monotonic() + TIMEOUT_S
        while (found := self.execute("query-migrate")).get("status") not in statuses:
            assert time.monotonic() < deadline, f"not {statuses}: {found}"
            self._runner.run(asyncio.sleep(_POLL_S))
        assert isinstance(found, dict)
        return found

    def events(self, last: str) -> list[tuple[str, Any]]:
        """The events up to one of a name, or with a status, that has come or will."""
        deadline = time.monotonic() + TIMEOUT_S
        seen: list[tuple[str, Any]] = []
        while True:
            self._events += self._listener.clear()
            while self._events:
                event = self._events.pop(0)
                assert list(event) == ["timestamp", "event", "data"][: len(event)]
                data = event.get("data", {})
                assert isinstance(data, dict)
                name = str(event["event"])
                seen.append((name, data.get("status", data.get("pass", data.get("reason")))))
                if last in seen[-1]:
                    return seen
            assert time.monotonic() < deadline, f"no {last} in {seen}"
            self._runner.run(asyncio.sleep(_POLL_S))


class Machine:
    """A machine that runs in a process of its own.

    Args:
        running: The process.
        directory: Where its files are.
    """

    def __init__(self, running: Running, directory: Path) -> None:
        self.running = running
        self.directory = directory
        self.qmp_path = directory / "qmp"
        while (line := running.read_line()) != f"QMP is at unix:{self.qmp_path}":
            assert line.startswith("listening on "), line

    def monitor(self) -> Monitor:
        """Another client."""
        return Monitor(self.qmp_path)

    @property
    def ticks(self) -> list[int]:
        """What it printed."""
        lines = (self.directory / "serial").read_text().splitlines()
        return [int(line.removeprefix("tick ")) for line in lines]


@contextmanager
def machine(directory: Path, *options: str) -> Iterator[Machine]:
    """Starts a machine, whose files are in a directory that is made."""
    directory.mkdir()
    serial = str(directory / "serial")
    qmp = f"unix:{directory / 'qmp'}"
    with start("run", "--qmp", qmp, "--serial", serial, *_SMALL, *options) as running:
        yield Machine(running, directory)


def listening_on(uri: str, destination: Monitor) -> str:
    """Has a destination listen; where the source has to go."""
    destination.execute("migrate-incoming", uri=uri, exit_on_error=False)
    (address,) = destination.execute("query-migrate")["socket-address"]
    if address["type"] == "unix":
        return f"unix:{address['path']}"
    return f"tcp:{address['host']}:{address['port']}"


def check_ticks(source: Machine, destination: Machine) -> None:
    """Checks that the machine counted on where it was; both processes have ended."""
    ticks = source.ticks + destination.ticks
    assert ticks == list(range(1, len(ticks) + 1))
    assert source.ticks and destination.ticks


def quits(one: Machine) -> None:
    """Has a machine's process end."""
    with one.monitor() as client:
        client.execute("quit")
    done = one.running.wait()
    assert done.exit_code == 0, done.stderr
    assert not re.search("Traceback|error", done.stderr)
    assert not one.qmp_path.exists()
