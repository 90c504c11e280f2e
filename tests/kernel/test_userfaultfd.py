"""userfaultfd: the numbers are those of include/uapi/linux/userfaultfd.h, and the calls work."""

import ctypes
import errno
import mmap
import os

import numpy as np
import pytest
from tests.kernel.headers import header
from tests.kernel.needed import needs_written_pages

from switchover.errors import KernelError
from switchover.kernel import userfaultfd
from switchover.kernel.userfaultfd import WriteProtection

IOCTLS = {
    # direction << 30 | size << 16 | 0xAA << 8 | number
    "UFFDIO_API": 3 << 30 | 24 << 16 | 0xAA << 8 | 0x3F,
    "UFFDIO_REGISTER": 3 << 30 | 32 << 16 | 0xAA << 8 | 0x00,
    "UFFDIO_UNREGISTER": 2 << 30 | 16 << 16 | 0xAA << 8 | 0x01,
}
CONSTANTS = {
    "_API": "UFFD_API",
    "_USER_MODE_ONLY": "UFFD_USER_MODE_ONLY",
    "_FEATURE_PAGEFAULT_FLAG_WP": "UFFD_FEATURE_PAGEFAULT_FLAG_WP",
    "_FEATURE_WP_UNPOPULATED": "UFFD_FEATURE_WP_UNPOPULATED",
    "_FEATURE_WP_ASYNC": "UFFD_FEATURE_WP_ASYNC",
    "_REGISTER_MODE_WP": "UFFDIO_REGISTER_MODE_WP",
}
STRUCTS = {"_Api": 24, "_Range": 16, "_Register": 32}


def address_of(memory: mmap.mmap) -> int:
    return np.frombuffer(memory, np.uint8).ctypes.data


class TestNumbers:
    @pytest.mark.parametrize(("name", "number"), IOCTLS.items())
    def test_ioctls_are_what_the_formula_gives(self, name: str, number: int) -> None:
        assert getattr(userfaultfd, name) == number

    def test_what_the_installed_header_has_is_the_same(self) -> None:
        installed = header("userfaultfd.h")
        for name, number in IOCTLS.items():
            if installed.has(name):
                assert installed.number(name) == number
        for ours, theirs in CONSTANTS.items():
            if installed.has(theirs):
                assert getattr(userfaultfd, ours) == installed.constant(theirs)

    @pytest.mark.parametrize(("struct", "size"), STRUCTS.items())
    def test_structs_have_their_size(self, struct: str, size: int) -> None:
        assert ctypes.sizeof(getattr(userfaultfd, struct)) == size


@needs_written_pages
class TestWriteProtection:
    def test_is_given_back_once_and_may_be_twice(self) -> None:
        protection = WriteProtection()
        protection.close()
        protection.close()

    def test_takes_ranges_and_gives_them_back(self) -> None:
        memory = mmap.mmap(-1, 8 * mmap.PAGESIZE)
        protection = WriteProtection()
        try:
            address = address_of(memory)
            protection.register(address, 2 * mmap.PAGESIZE)
            protection.register(address + 4 * mmap.PAGESIZE, 4 * mmap.PAGESIZE)
            protection.unregister(address, 2 * mmap.PAGESIZE)
            memory[0 : 8 * mmap.PAGESIZE] = bytes(8 * mmap.PAGESIZE)
        finally:
            protection.close()

    @pytest.mark.parametrize("call", ["register", "unregister"])
    @pytest.mark.parametrize(
        ("offset", "size"), [(1, mmap.PAGESIZE), (0, mmap.PAGESIZE - 1), (0, 0)]
    )
    def test_range_that_is_not_of_pages_is_refused(self, call: str, offset: int, size: int) -> None:
        memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
        protection = WriteProtection()
        try:
            with pytest.raises(KernelError) as caught:
                getattr(protection, call)(address_of(memory) + offset, size)
        finally:
            protection.close()
        assert caught.value.call == f"UFFDIO_{call.upper()}"
        assert caught.value.errno == errno.EINVAL

    def test_kernel_without_the_features_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(userfaultfd, "_FEATURE_WP_ASYNC", 1 << 63)
        with pytest.raises(KernelError) as caught:
            WriteProtection()
        assert str(caught.value) == f"the kernel refuses UFFDIO_API: {os.strerror(errno.EINVAL)}"


def test_kernel_without_the_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userfaultfd, "_SYS_USERFAULTFD", 100_000)
    with pytest.raises(KernelError) as caught:
        WriteProtection()
    assert str(caught.value) == f"the kernel refuses userfaultfd: {os.strerror(errno.ENOSYS)}"
