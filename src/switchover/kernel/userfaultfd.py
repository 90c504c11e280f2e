"""Write protection that the kernel lifts by itself and remembers: userfaultfd, WP_ASYNC.

Source: include/uapi/linux/userfaultfd.h; Linux 6.7 and newer. Needs no privilege.
"""

import ctypes
import os

from .ioctl import ioctl, ior, iowr, syscall

_SYS_USERFAULTFD = 323
"""x86-64."""
_USER_MODE_ONLY = 1
_API = 0xAA
_FEATURE_PAGEFAULT_FLAG_WP = 1 << 0
_FEATURE_WP_UNPOPULATED = 1 << 13
_FEATURE_WP_ASYNC = 1 << 15
_REGISTER_MODE_WP = 1 << 1


class _Api(ctypes.Structure):
    _fields_ = (
        ("api", ctypes.c_uint64),
        ("features", ctypes.c_uint64),
        ("ioctls", ctypes.c_uint64),
    )


class _Range(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Register(ctypes.Structure):
    _fields_ = (("range", _Range), ("mode", ctypes.c_uint64), ("ioctls", ctypes.c_uint64))


UFFDIO_API = iowr(_API, 0x3F, ctypes.sizeof(_Api))
UFFDIO_REGISTER = iowr(_API, 0x00, ctypes.sizeof(_Register))
UFFDIO_UNREGISTER = ior(_API, 0x01, ctypes.sizeof(_Range))


class WriteProtection:
    """Memory of this process whose pages can be asked whether they were written.

    Raises:
        KernelError: This kernel does not have it, or not for everybody.
    """

    def __init__(self) -> None:
        flags = os.O_CLOEXEC | _USER_MODE_ONLY
        self._fileno = syscall("userfaultfd", _SYS_USERFAULTFD, flags)
        features = _FEATURE_PAGEFAULT_FLAG_WP | _FEATURE_WP_UNPOPULATED | _FEATURE_WP_ASYNC
        try:
            ioctl(self._fileno, "UFFDIO_API", UFFDIO_API, _Api(_API, features))
        except BaseException:
            self.close()
            raise

    def register(self, address: int, size: int) -> None:
        """Adds a range, whose bounds are multiples of the page size."""
        argument = _Register(_Range(address, size), _REGISTER_MODE_WP)
        ioctl(self._fileno, "UFFDIO_REGISTER", UFFDIO_REGISTER, argument)

    def unregister(self, address: int, size: int) -> None:
        """Gives a range back."""
        ioctl(self._fileno, "UFFDIO_UNREGISTER", UFFDIO_UNREGISTER, _Range(address, size))

    def close(self) -> None:
        """Gives everything back; may be called twice."""
        if self._fileno >= 0:
            os.close(self._fileno)
            self._fileno = -1
