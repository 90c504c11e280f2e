"""Files and pipes: channels that go one way, and the file that appears only when it is whole."""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import ChannelError, UsageError
from .base import Buffer, Closing

_MODE = 0o600
"""A parked guest is the guest's memory: nobody else's business."""


class DescriptorChannel(Closing):
    """A file or a pipe, by its descriptor.

    Args:
        fileno: The descriptor, which is this object's from now on.
        name: What it is called in errors.
    """

    has_return_path = False

    def __init__(self, fileno: int, name: str) -> None:
        self.name = name
        self._fileno = fileno

    def fileno(self) -> int:
        """Its descriptor, to wait on."""
        return self._fileno

    def recv_into(self, buffer: memoryview) -> int:
        """Waits for bytes and reads at least one; 0 when no more will come."""
        try:
            return os.readv(self._fileno, [buffer])
        except OSError as error:
            raise ChannelError(f"{self.name}: reading failed: {error.strerror}") from error

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Writes all of the buffers."""
        try:
            for buffer in buffers:
                left = memoryview(buffer)
                while left:
                    left = left[os.write(self._fileno, left) :]
        except OSError as error:
            raise ChannelError(f"{self.name}: writing failed: {error.strerror}") from error

    def finish(self) -> None:
        """Flushes a file to disk; for a pipe there is nothing to be done."""
        try:
            if stat.S_ISREG(os.fstat(self._fileno).st_mode):
                os.fsync(self._fileno)
        except OSError as error:
            raise ChannelError(f"{self.name}: flushing failed: {error.strerror}") from error

    def shutdown(self) -> None:
        """Does nothing: there is nobody to be woken."""

    def close(self) -> None:
        """Closes the descriptor."""
        if self._fileno >= 0:
            os.close(self._fileno)
            self._fileno = -1


def open_file(path: str, name: str) -> DescriptorChannel:
    """A channel that reads a file.

    Raises:
        ChannelError: It cannot be opened.
    """
    try:
        return DescriptorChannel(os.open(path, os.O_RDONLY | os.O_CLOEXEC), name)
    except OSError as error:
        raise ChannelError(f"cannot open {name}: {error.strerror}") from error


class AtomicFile(DescriptorChannel):
    """A file that takes its name only when it is whole and on disk.

    Until `finish` it stands beside its place under another name; `close` without `finish` removes
    it. Whatever had the name before keeps it until then.

    Args:
        path: The name that it is to have.
        name: What it is called in errors.

    Raises:
        ChannelError: It cannot be written there.
        UsageError: Something other than a file has that name.
    """

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self._path = Path(path)
        self._partial: Path | None = None
        if self._path.exists() and not self._path.is_file():
            raise UsageError(f"{self._path} is not a file, and will not be replaced by one")
        # Behind a link the file is written where the link leads.
        self._path = self._path.resolve()
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fileno = os.open(partial, flags, _MODE)
        except OSError as error:
            raise ChannelError(f"cannot write {self._path}: {error.strerror}") from error
        self._partial = partial
        super().__init__(fileno, name or str(self._path))

    def finish(self) -> None:
        """Flushes the file to disk and gives it its name, for good."""
        super().finish()
        assert self._partial is not None
        try:
            os.rename(self._partial, self._path)
            self._partial = None
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise ChannelError(f"{self.name}: renaming failed: {error.strerror}") from error

    def close(self) -> None:
        """Closes the file, and removes it if it was not finished."""
        super().close()
        if self._partial is not None:
            with suppress(OSError):
                os.unlink(self._partial)
            self._partial = None
