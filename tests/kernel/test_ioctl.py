"""Numbers of ioctls, and what a refused call says."""

import ctypes
import errno
import os
import platform
from collections.abc import Iterator

import pytest

from switchover.errors import KernelError
from switchover.kernel.ioctl import io, ioctl, ior, iowr, syscall

FIONREAD = 0x541B
"""How many bytes can be read; older than the formula."""
FIOCLEX = 0x5451
"""Sets close-on-exec; takes no argument."""


class Integer(ctypes.Structure):
    _fields_ = (("value", ctypes.c_int),)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize(
    ("made", "number"),
    [
        pytest.param(io(0x12, 104), 0x1268, id="BLKSSZGET"),
        pytest.param(io(ord(";"), 117), 0x3B75, id="VFIO_DEVICE_FEATURE"),
        pytest.param(ior(ord("v"), 1, 8), 0x8008_7601, id="FS_IOC_GETVERSION"),
        pytest.param(ior(ord("T"), 0x30, 4), 0x8004_5430, id="TIOCGPTN"),
        pytest.param(iowr(ord("f"), 11, 32), 0xC020_660B, id="FS_IOC_FIEMAP"),
        pytest.param(iowr(ord("X"), 119, 4), 0xC004_5877, id="FIFREEZE"),
        pytest.param(iowr(0xAA, 0x03, 40), 0xC028_AA03, id="UFFDIO_COPY"),
    ],
)
def test_numbers_are_those_that_are_known(made: int, number: int) -> None:
    assert made == number


def test_the_kernel_writes_into_the_argument(pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    os.write(write_end, b"abc")
    argument = Integer()
    assert ioctl(read_end, "FIONREAD", FIONREAD, argument) == 0
    assert argument.value == 3


def test_there_may_be_no_argument(pipe: tuple[int, int]) -> None:
    os.set_inheritable(pipe[0], True)
    assert ioctl(pipe[0], "FIOCLEX", FIOCLEX) == 0
    assert not os.get_inheritable(pipe[0])


@pytest.mark.parametrize("argument", [None, Integer()])
def test_no_descriptor_is_a_bad_one(argument: Integer | None) -> None:
    with pytest.raises(KernelError) as caught:
        ioctl(-1, "FIONREAD", FIONREAD, argument)
    assert (caught.value.call, caught.value.errno) == ("FIONREAD", errno.EBADF)


def test_refused_ioctl_is_named(pipe: tuple[int, int]) -> None:
    with pytest.raises(KernelError) as caught:
        ioctl(pipe[0], "UFFDIO_COPY", iowr(0xAA, 0x03, 40), Integer())
    expected = f"the kernel refuses UFFDIO_COPY: {os.strerror(errno.ENOTTY)}"
    assert str(caught.value) == expected
    assert (caught.value.call, caught.value.errno) == ("UFFDIO_COPY", errno.ENOTTY)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls of x86-64")
class TestSyscall:
    def test_gives_what_the_kernel_returned(self) -> None:
        assert syscall("getpid", 39) == os.getpid()

    def test_refused_call_is_named(self) -> None:
        with pytest.raises(KernelError) as caught:
            syscall("close", 3, 1 << 30)
        assert str(caught.value) == f"the kernel refuses close: {os.strerror(errno.EBADF)}"
        assert (caught.value.call, caught.value.errno) == ("close", errno.EBADF)
