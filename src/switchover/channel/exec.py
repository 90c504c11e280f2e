"""A command whose standard input or output carries the stream."""

import subprocess
from typing import IO

from ..errors import ChannelError
from .file import DescriptorChannel


class ExecChannel(DescriptorChannel):
    """Runs a command by the shell and reads its output, or writes its input.

    Args:
        command: The command line.
        writes: Whether the stream is written to the command, or read from it.
    """

    def __init__(self, command: str, *, writes: bool) -> None:
        self._process = subprocess.Popen(
            command,
            shell=True,
            bufsize=0,
            stdin=subprocess.PIPE if writes else subprocess.DEVNULL,
            stdout=None if writes else subprocess.PIPE,
        )
        pipe: IO[bytes] | None = self._process.stdin if writes else self._process.stdout
        assert pipe is not None
        self._pipe = pipe
        super().__init__(pipe.fileno(), f"exec:{command}")

    def finish(self) -> None:
        """Closes the pipe and waits until the command has ended well."""
        self._pipe.close()
        status = self._process.wait()
        if status != 0:
            raise ChannelError(f"{self.name}: the command ended with status {status}")

    def close(self) -> None:
        """Closes the pipe, which ends most commands, and waits for the command."""
        self._pipe.close()
        self._process.wait()
