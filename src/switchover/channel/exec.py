"""A command whose standard input or output carries the stream."""

import subprocess
from typing import IO

from ..errors import ChannelError
from .base import reason
from .file import DescriptorChannel


class ExecChannel(DescriptorChannel):
    """Runs a command by the shell and reads its output, or writes its input.

    Args:
        command: The command line.
        writes: Whether the stream is written to the command, or read from it.

    Raises:
        ChannelError: It cannot be run.
    """

    def __init__(self, command: str, *, writes: bool) -> None:
        # A command that is written to has no output, as in QEMU: ours may be somebody's JSON.
        try:
            self._process = subprocess.Popen(
                command,
                shell=True,
                bufsize=0,
                stdin=subprocess.PIPE if writes else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if writes else subprocess.PIPE,
            )
        except (OSError, ValueError) as error:
            raise ChannelError(f"cannot run exec:{command}: {reason(error)}") from error
        pipe: IO[bytes] | None = self._process.stdin if writes else self._process.stdout
        assert pipe is not None
        self._pipe = pipe
        super().__init__(pipe.fileno(), f"exec:{command}")

    def recv_into(self, buffer: memoryview) -> int:
        """Waits for bytes and reads at least one; 0 once the command has ended well."""
        size = super().recv_into(buffer)
        if size == 0:
            self._wait()
        return size

    def finish(self) -> None:
        """Closes the pipe and waits until the command has ended well."""
        self._pipe.close()
        self._wait()

    def _wait(self) -> None:
        status = self._process.wait()
        if status != 0:
            raise ChannelError(f"{self.name}: the command ended with status {status}")

    def close(self) -> None:
        """Closes the pipe, and ends the command if it has not ended."""
        self._pipe.close()
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
