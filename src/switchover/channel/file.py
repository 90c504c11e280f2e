"""Files and pipes: channels that go one way, and the file that appears only when it is whole."""

import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import ChannelError, UsageError
from .base import Buffer, Closing, reason

_NAME_PART = 50
"""Characters of a file's name that stand in its name while it is not whole: all of them, and more
around them, might be too long for a name."""


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
            raise ChannelError(f"{self.name}: reading failed: {reason(error)}") from error

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Writes all of the buffers."""
        try:
            for buffer in buffers:
                left = memoryview(buffer)
                while left:
                    left = left[os.write(self._fileno, left) :]
        except OSError as error:
            raise ChannelError(f"{self.name}: writing failed: {reason(error)}") from error

    def finish(self) -> None:
        """Flushes a file to disk; for a pipe there is nothing to be done."""
        try:
            if stat.S_ISREG(os.fstat(self._fileno).st_mode):
                os.fsync(self._fileno)
        except OSError as error:
            raise ChannelError(f"{self.name}: flushing failed: {reason(error)}") from error

    def shutdown(self) -> None:
        """Does nothing: there is nobody to be woken."""

    def close(self) -> None:
        """Closes the descriptor."""
        fileno, self._fileno = self._fileno, -1
        if fileno >= 0:
            # What could be lost here, `finish` has flushed.
            with suppress(OSError):
                os.close(fileno)


def open_file(path: str, name: str) -> DescriptorChannel:
    """A channel that reads a file.

    Raises:
        ChannelError: It cannot be opened.
    """
    try:
        return DescriptorChannel(os.open(path, os.O_RDONLY | os.O_CLOEXEC), name)
    except (OSError, ValueError) as error:
        raise ChannelError(f"cannot open {name}: {reason(error)}") from error


class AtomicFile(DescriptorChannel):
    """A file that takes its name only when it is whole and on disk.

    Until `finish` it stands beside its place under another name; `close` without `finish` removes
    it. Whatever had the name before keeps it until then. Only its owner may read it: a parked guest
    is the guest's memory.

    Args:
        path: The name that it is to have.
        name: What it is called in errors.

    Raises:
        ChannelError: It cannot be written there.
        UsageError: Something other than a file has that name.
    """

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self._partial: Path | None = None
        self._directory = -1
        try:
            if not _may_be_replaced(path):
                raise UsageError(f"{path} is not a file, and will not be replaced by one")
            # Behind a link the file is written where the link leads.
            self._path = Path(os.path.realpath(path))
            # From the beginning: that it cannot be flushed should not come out at the end.
            self._directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            fileno, partial = tempfile.mkstemp(
                prefix=f".{self._path.name[:_NAME_PART]}.",
                suffix=".partial",
                dir=self._path.parent,
            )
        except (OSError, ValueError) as error:
            self._close_directory()
            raise ChannelError(f"cannot write {path}: {reason(error)}") from error
        self._partial = Path(partial)
        super().__init__(fileno, name or str(self._path))

    @property
    def is_finished(self) -> bool:
        """Whether it has its name."""
        return self._partial is None

    def finish(self) -> None:
        """Flushes the file to disk and gives it its name, for good."""
        super().finish()
        assert self._partial is not None
        try:
            os.rename(self._partial, self._path)
            self._partial = None
            os.fsync(self._directory)
        except OSError as error:
            raise ChannelError(f"{self.name}: renaming failed: {reason(error)}") from error

    def close(self) -> None:
        """Closes the file, and removes it if it was not finished."""
        super().close()
        if self._partial is not None:
            with suppress(OSError):
                os.unlink(self._partial)
        self._close_directory()

    def _close_directory(self) -> None:
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


def _may_be_replaced(path: str | Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True
