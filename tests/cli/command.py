"""The command line, run in a process of its own or in the test's."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.testing import CliRunner

from switchover.cli.main import app

KEYS = {
    "status",
    "machine",
    "switchover_ack",
    "ram_bytes",
    "transferred_bytes",
    "pages",
    "zero_pages",
    "devices",
    "total_ms",
    "error",
    "remaining_bytes",
    "bandwidth",
    "dirty_sync_count",
    "tracking",
    "downtime_ms",
    "expected_downtime",
    "phases",
    "hint",
}
"""Those of the JSON object, whatever happened."""
ACK_KEYS = {
    "mode",
    "asked_ms",
    "sent_ms",
    "received_ms",
    "waiting_for",
    "waiting_ms",
    "timed_out",
}

_COMMAND = (sys.executable, "-m", "switchover")
_TIMEOUT_S = 60


class Done:
    """A command that has ended.

    Args:
        exit_code: What it ended with.
        stdout: What it printed.
        stderr: What it said.
    """

    def __init__(self, exit_code: int | None, stdout: str, stderr: str) -> None:
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def report(self) -> dict[str, Any]:
        """The JSON object, which is all that stands on standard output."""
        report = json.loads(self.stdout)
        assert isinstance(report, dict)
        assert set(report) == KEYS
        assert set(report["switchover_ack"]) == ACK_KEYS
        return report

    @property
    def error(self) -> str:
        """The one line that says why it failed."""
        prefix = "switchover: error: "
        (line,) = [line for line in self.stderr.splitlines() if line.startswith(prefix)]
        assert "Traceback" not in self.stderr
        return line.removeprefix(prefix)


def run_here(*arguments: str) -> Done:
    """Runs a command in this process, without the handling of signals."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


class Running:
    """A command in a process of its own.

    Args:
        process: The process.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def read_line(self) -> str:
        """The next line that it says."""
        assert self.process.stderr is not None
        return self.process.stderr.readline().rstrip("\n")

    def wait(self) -> Done:
        """Waits until it has ended."""
        stdout, stderr = self.process.communicate(timeout=_TIMEOUT_S)
        return Done(self.process.returncode, stdout, stderr)


@contextmanager
def start(*arguments: str, pass_fds: tuple[int, ...] = ()) -> Iterator[Running]:
    """Starts a command, which is killed if it has not ended behind the block."""
    with subprocess.Popen(
        [*_COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()
