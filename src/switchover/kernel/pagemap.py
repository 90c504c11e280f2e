"""Which pages were written: the ioctl PAGEMAP_SCAN.

Source: include/uapi/linux/fs.h; Linux 6.7 and newer.
"""

import ctypes
import os
from collections.abc import Iterator

import numpy as np

from ..errors import KernelError
from .ioctl import ioctl, iowr

_PATH = "/proc/self/pagemap"
_PM_SCAN_WP_MATCHING = 1 << 0
_PM_SCAN_CHECK_WPASYNC = 1 << 1
_PAGE_IS_WRITTEN = 1 << 1
_REGIONS = 16384
"""Runs of pages that one call can tell of: 384 KiB of result."""


class _ScanArgument(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "size",
            "flags",
            "start",
            "end",
            "walk_end",
            "vec",
            "vec_len",
            "max_pages",
            "category_inverted",
            "category_mask",
            "category_anyof_mask",
            "return_mask",
        )
    )


PAGEMAP_SCAN = iowr(ord("f"), 16, ctypes.sizeof(_ScanArgument))

_REGION = np.dtype([("start", np.uint64), ("end", np.uint64), ("categories", np.uint64)])


class Pagemap:
    """This process's page tables.

    Raises:
        KernelError: They cannot be opened.
    """

    def __init__(self) -> None:
        try:
            self._fileno = os.open(_PATH, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise KernelError(f"open {_PATH}", error) from error
        self._regions = np.zeros(_REGIONS, _REGION)

    def fetch_written(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """The runs of pages written since the last call, which are protected again as it goes.

        Args:
            address: The beginning of a range under a WriteProtection.
            size: Its bytes.

        Yields:
            First address and address behind the last, in ascending order.

        Raises:
            KernelError: The range is under none.
        """
        end = address + size
        while address < end:
            argument = _ScanArgument(
                size=ctypes.sizeof(_ScanArgument),
                flags=_PM_SCAN_WP_MATCHING | _PM_SCAN_CHECK_WPASYNC,
                start=address,
                end=end,
                vec=self._regions.ctypes.data,
                vec_len=_REGIONS,
                category_mask=_PAGE_IS_WRITTEN,
                return_mask=_PAGE_IS_WRITTEN,
            )
            count = ioctl(self._fileno, "PAGEMAP_SCAN", PAGEMAP_SCAN, argument)
            yield from self._regions[:count][["start", "end"]].tolist()
            address = argument.walk_end

    def close(self) -> None:
        """Gives it back; may be called twice."""
        if self._fileno >= 0:
            os.close(self._fileno)
            self._fileno = -1
