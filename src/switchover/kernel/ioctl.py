"""Numbers of ioctls, and the one way to call them. Source: include/uapi/asm-generic/ioctl.h."""

import ctypes
import fcntl
import os

from ..errors import KernelError

_WRITE = 1
_READ = 2


def ior(group: int, number: int, size: int) -> int:
    """_IOR: the kernel writes an argument of `size` bytes."""
    return _number(_READ, group, number, size)


def iowr(group: int, number: int, size: int) -> int:
    """_IOWR: the kernel reads an argument of `size` bytes and writes it back."""
    return _number(_READ | _WRITE, group, number, size)


def _number(direction: int, group: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | group << 8 | number


def ioctl(fileno: int, name: str, number: int, argument: ctypes.Structure) -> int:
    """Calls an ioctl on a structure, which the kernel may change.

    Args:
        fileno: The descriptor.
        name: The ioctl's name in the kernel's headers, for the error.
        number: Its number.
        argument: Its argument.

    Returns:
        What the kernel returned.

    Raises:
        KernelError: The kernel refused.
    """
    try:
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
