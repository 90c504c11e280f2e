"""The command line of switchover, started as a user would and watched by a test."""

import json
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TIMEOUT_S = 100


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        exit_code: Its exit code.
        report: The JSON object that it printed.
        messages: What it printed on standard error.
        peak_rss_bytes: The most memory it had resident.
    """

    exit_code: int
    report: dict[str, Any]
    messages: str
    peak_rss_bytes: int


class Switchover:
    """A context manager: one `switchover COMMAND … --json`, killed at the end if it still runs."""

    def __init__(self, *arguments: str | Path) -> None:
        self._arguments = [sys.executable, "-m", "switchover", *map(str, arguments), "--json"]

    def __enter__(self) -> Self:
        self._output = tempfile.TemporaryFile()
        self._messages = tempfile.NamedTemporaryFile()
        self._process = subprocess.Popen(
            self._arguments, stdout=self._output, stderr=self._messages
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._output.close()
        self._messages.close()

    @property
    def messages(self) -> str:
        """What it printed on standard error so far."""
        return Path(self._messages.name).read_text()

    def wait_uri(self) -> str:
        """Where a `receive` listens, once it does."""
        return self.wait_message(r"^listening on (.+)$")[1]

    def wait_message(self, pattern: str) -> re.Match[str]:
        """Waits until a pattern matches what it printed on standard error."""
        while (found := re.search(pattern, self.messages, re.MULTILINE)) is None:
            try:
                self._process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"the command ended: {self.messages}")
        return found

    def kill(self) -> None:
        """Ends it without a chance to tidy up."""
        self._process.kill()
        self._process.wait()

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def wait(self) -> Outcome:
        """Waits until it ends."""
        peak_rss_bytes = 0
        while True:
            # What wait4 tells of a child's memory counts this process's own, before the exec.
            peak_rss_bytes = max(peak_rss_bytes, self._peak_rss_bytes())
            try:
                exit_code = self._process.wait(0.02)
                break
            except subprocess.TimeoutExpired:
                continue
        self._output.seek(0)
        text = self._output.read()
        assert text, self.messages
        report = json.loads(text)
        assert isinstance(report, dict)
        return Outcome(exit_code, report, self.messages, peak_rss_bytes)

    def _peak_rss_bytes(self) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0


def run(*arguments: str | Path) -> Outcome:
    """Runs a command to its end."""
    with Switchover(*arguments) as command:
        return command.wait()
