"""What every byte pipe can do, and how to wait on several."""

import os
import select
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self

Buffer = bytes | memoryview

_LONGEST_WAIT_MS = (1 << 31) - 1
"""What poll takes; who waits for longer is woken early, as by anything else."""


class Channel(Protocol):
    """One connection, file or pipe, which closes itself at the end of a `with` block.

    One thread writes it, one reads it.

    Attributes:
        name: What it is called in errors.
        has_return_path: Whether the other side can answer.
    """

    name: str
    has_return_path: bool

    def fileno(self) -> int:
        """Its descriptor, to wait on."""
        ...

    def recv_into(self, buffer: memoryview) -> int:
        """Waits for bytes and reads at least one; 0 when no more will come.

        Raises:
            ChannelError: The pipe broke.
        """
        ...

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Writes all of the buffers.

        Raises:
            ChannelError: The pipe broke, or the other side does not read.
        """
        ...

    def finish(self) -> None:
        """Waits until what was written is as safe as this kind of channel can make it.

        Raises:
            ChannelError: It is not.
        """
        ...

    def shutdown(self) -> None:
        """Wakes whoever waits on it, on both sides; may be called from any thread."""
        ...

    def close(self) -> None:
        """Gives it back; may be called twice."""
        ...

    def __enter__(self) -> Self:
        """Does nothing."""
        ...

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        ...


class Closing:
    """Closes itself at the end of a `with` block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives back what is held."""
        raise NotImplementedError


def wait_readable(filenos: Iterable[int], timeout_ns: int | None) -> set[int]:
    """Those of the descriptors that can be read, or have come to their end.

    Args:
        filenos: The descriptors.
        timeout_ns: How long to wait for the first, some weeks at most; None to wait without end.
    """
    poll = select.poll()
    for fileno in filenos:
        poll.register(fileno, select.POLLIN)
    # Rounded up: waking a moment too early would mean to wait again for nothing.
    timeout_ms = None if timeout_ns is None else -(-max(timeout_ns, 0) // 1_000_000)
    if timeout_ms is not None:
        timeout_ms = min(timeout_ms, _LONGEST_WAIT_MS)
    return {fileno for fileno, _ in poll.poll(timeout_ms)}


def reason(error: OSError | ValueError | OverflowError) -> str:
    """What the system says of a call that failed, or Python of an argument that cannot be one."""
    if not isinstance(error, OSError):
        return str(error)
    # The resolver counts downwards, and brings its own text.
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)
