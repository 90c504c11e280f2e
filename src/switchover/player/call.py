"""A call of another process that waits for an answer, and the answers that it can get."""

import os
from dataclasses import dataclass
from errno import EFAULT, EINVAL, EIO

from ..errors import KernelError
from ..kernel import seccomp
from ..kernel.seccomp import Listener, Notification

_ERRNOS = range(1, 4096)
_VALUES = range(-(1 << 63), 1 << 63)
_LOW_WORD = 0xFFFF_FFFF


class Vanished(Exception):
    """The call waits no longer: who made it was killed, or nothing is answered any more."""


class BadAddress(Exception):
    """There is no memory where the call says; unless it is caught, the call fails with EFAULT."""


@dataclass(frozen=True, slots=True)
class Returned:
    """An answer: the call returns a value, of 64 bits with a sign."""

    value: int


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer: the call fails."""

    errno: int


class LetGoOn:
    """The type of `LET_GO_ON`."""


LET_GO_ON = LetGoOn()
"""An answer: the kernel makes the call, as if nobody had asked."""

Answer = Returned | Failed | LetGoOn


class Call:
    """A call that waits. It can be used until it is answered, by one thread.

    Args:
        listener: Where it came from.
        notification: What came.
    """

    def __init__(self, listener: Listener, notification: Notification) -> None:
        self._listener = listener
        self._id = notification.id
        self._memory = -1
        self._is_over = False
        self.pid = notification.pid
        """The thread that makes it, by its number in the kernel."""
        self.name = seccomp.NAMES.get(notification.nr, str(notification.nr))
        self.arguments = notification.arguments
        """All six, unsigned, whatever the call takes."""

    @property
    def fd(self) -> int:
        """The descriptor that it is about."""
        return self.arguments[0] & _LOW_WORD

    def __repr__(self) -> str:
        arguments = ", ".join(f"{argument:#x}" for argument in self.arguments[1:])
        return f"{self.name}({self.fd}, {arguments}) of thread {self.pid}"

    def is_waiting(self) -> bool:
        """Whether an answer would still reach somebody."""
        try:
            return not self._is_over and self._listener.is_valid(self._id)
        except KernelError:
            return False

    def read(self, address: int, size: int) -> bytes:
        """Copies memory of the process; also what it may not read itself.

        Args:
            address: Where.
            size: How much. It is reserved here first: whoever takes it from the call bounds it.

        Raises:
            Vanished: The call waits no longer.
            BadAddress: Not all of it is there.
        """
        memory = self._opened()
        parts = []
        try:
            while size > 0:
                parts.append(os.pread(memory, size, address))
                size -= self._gone_through(len(parts[-1]))
                address += len(parts[-1])
        except (OSError, OverflowError) as error:
            raise self._no_memory(address, error) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copies to memory of the process; also to what is its own and it may not write itself.

        Raises:
            Vanished: The call waits no longer.
            BadAddress: Not all of it is there; some may be written.
        """
        memory = self._opened()
        rest = memoryview(data).cast("B")
        try:
            while rest:
                count = self._gone_through(os.pwrite(memory, rest, address))
                address += count
                rest = rest[count:]
        except (OSError, OverflowError) as error:
            raise self._no_memory(address, error) from error

    def _opened(self) -> int:
        """The memory, which stays that of this process even if its number is given away."""
        if self._is_over:
            raise Vanished("the call was answered already")
        if self._memory < 0:
            try:
                self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise Vanished(f"there is no thread {self.pid}") from error
            except OSError as error:
                if not self.is_waiting():
                    raise Vanished(f"there is no thread {self.pid}") from error
                raise KernelError(f"open of /proc/{self.pid}/mem", error) from error
            # Between the call and now its thread may have gone and another have come.
            if not self.is_waiting():
                raise Vanished(f"thread {self.pid} waits no longer")
        return self._memory

    def _gone_through(self, count: int) -> int:
        """What went through, if it counts: of memory that is gone nothing goes."""
        if count == 0 or not self.is_waiting():
            raise Vanished(f"thread {self.pid} waits no longer")
        return count

    def _no_memory(self, address: int, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno not in (EIO, EFAULT, EINVAL):
            return KernelError(f"access to /proc/{self.pid}/mem", error)
        return BadAddress(f"thread {self.pid} has no memory at {address:#x}")

    def add_fd(self, source_fd: int, at: int | None = None) -> int:
        """Gives a descriptor to the process. It is not closed on exec there.

        Args:
            source_fd: The descriptor, here, where it stays open too.
            at: Its number there; what was there is closed. None: the lowest free one.

        Returns:
            Its number there.

        Raises:
            Vanished: The call waits no longer.
            KernelError: The process may not have so many, or not so high a number.
        """
        if self._is_over:
            raise Vanished("the call was answered already")
        try:
            return self._listener.add_fd(self._id, source_fd, at)
        except KernelError as error:
            if not self.is_waiting():
                raise Vanished(f"thread {self.pid} waits no longer") from error
            raise

    def finish(self, answer: Answer) -> None:
        """Answers it, if somebody still waits, and gives back what was taken for it.

        This is the player's: `answer` returns its answer.

        Raises:
            KernelError: The kernel takes no such answer.
        """
        self._is_over = True
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        match answer:
            case Returned(value):
                self._listener.respond(self._id, value=value)
            case Failed(errno):
                self._listener.respond(self._id, errno=errno)
            case _:
                self._listener.respond(self._id, continues=True)


def checked(answer: object) -> Answer:
    """An answer, if it is one that the kernel takes.

    Raises:
        ValueError: It is none.
    """
    match answer:
        case Returned(int(value)) if value in _VALUES:
            return Returned(value)
        case Failed(int(errno)) if errno in _ERRNOS:
            return Failed(errno)
        case LetGoOn():
            return LET_GO_ON
    raise ValueError(f"{answer!r} is no answer to a call")
