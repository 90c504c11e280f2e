"""Numbers of ioctls, and the one way to call them. Source: include/uapi/asm-generic/ioctl.h."""

import ctypes
import fcntl
import os
from errno import EBADF

from ..errors import KernelError

_NONE = 0
_WRITE = 1
_READ = 2


def io(group: int, number: int) -> int:
    """_IO: no argument, or one whose size the number does not tell."""
    return _number(_NONE, group, number, 0)


def ior(group: int, number: int, size: int) -> int:
    """_IOR: the kernel writes an argument of `size` bytes."""
    return _number(_READ, group, number, size)


def iowr(group: int, number: int, size: int) -> int:
    """_IOWR: the kernel reads an argument of `size` bytes and writes it back."""
    return _number(_READ | _WRITE, group, number, size)


def _number(direction: int, group: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | group << 8 | number


def ioctl(fileno: int, name: str, number: int, argument: ctypes.Structure | None = None) -> int:
    """Calls an ioctl on a structure, which the kernel may change, or on nothing.

    Args:
        fileno: The descriptor.
        name: The ioctl's name in the kernel's headers, for the error.
        number: Its number.
        argument: Its argument, if it has one.

    Returns:
        What the kernel returned.

    Raises:
        KernelError: The kernel refused.
    """
    if fileno < 0:
        # As the kernel would; Python raises ValueError.
        raise KernelError(name, OSError(EBADF, os.strerror(EBADF)))
    try:
        if argument is None:
            return int(fcntl.ioctl(fileno, number))
        return int(fcntl.ioctl(fileno, number, memoryview(argument).cast("B"), True))
    except OSError as error:
        raise KernelError(name, error) from error


_libc = ctypes.CDLL(None, use_errno=True)


def syscall(name: str, number: int, *arguments: int) -> int:
    """Makes a system call that Python has no name for.

    Raises:
        KernelError: The kernel refused.
    """
    result = int(_libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)))
    if result < 0:
        errno = ctypes.get_errno()
        raise KernelError(name, OSError(errno, os.strerror(errno)))
    return result
