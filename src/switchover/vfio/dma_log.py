"""Which pages of memory a simulated device wrote to, as the kernel's DMA logging tells it.

Source: include/uapi/linux/vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_*.
"""

from collections.abc import Sequence
from errno import EINVAL, ENOMEM

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError
from ..model.ramblock import TARGET_PAGE_SIZE

_ADDRESSES = 1 << 64
_WORD_BITS = 64


class DmaLog:
    """The log of one device.

    Args:
        device: Its name.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._page_size = 0
        """0 while nothing is noted."""
        self._ranges: list[tuple[int, NDArray[np.bool_]]] = []
        """Of each range the number of its first page, and which of its pages were written to."""

    def start(self, page_size: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Notes from now on what is written into the ranges.

        Raises:
            DeviceError: It does so already, the page size is no power of two from 4096 on, or the
                ranges are none, not of whole pages, or overlap (EINVAL); they do not fit into
                memory (ENOMEM).
        """
        step = f"note writes to pages of {page_size} bytes in {len(ranges)} ranges"
        if self._page_size:
            raise DeviceError(self._device, f"{step}: it does so already", EINVAL)
        if page_size < TARGET_PAGE_SIZE or page_size & (page_size - 1) or not ranges:
            raise DeviceError(self._device, step, EINVAL)
        free_from = 0
        for iova, length in sorted(ranges):
            is_aligned = iova % page_size == 0 == length % page_size
            if not is_aligned or iova < free_from or length <= 0 or iova + length > _ADDRESSES:
                step = f"note writes to {length} bytes at {iova:#x} by pages of {page_size} bytes"
                raise DeviceError(self._device, step, EINVAL)
            free_from = iova + length
        try:
            self._ranges = [
                (iova // page_size, np.zeros(length // page_size, np.bool_))
                for iova, length in ranges
            ]
        except (MemoryError, ValueError) as error:
            raise DeviceError(self._device, step, ENOMEM) from error
        self._page_size = page_size

    def stop(self) -> None:
        """Notes it no longer.

        Raises:
            DeviceError: It did not (EINVAL).
        """
        if not self._page_size:
            raise DeviceError(self._device, "stop noting writes: it does not note them", EINVAL)
        self.forget()

    def forget(self) -> None:
        """Notes nothing, whatever was before."""
        self._page_size = 0
        self._ranges = []

    def note(self, iova: int, length: int) -> None:
        """The device writes there; what is in no range is not noted."""
        if not self._page_size or length <= 0:
            return
        first, end = iova // self._page_size, -(-(iova + length) // self._page_size)
        for start, written in self._ranges:
            written[max(first - start, 0) : max(end - start, 0)] = True

    def report(self, page_size: int, iova: int, length: int) -> bytes:
        """What was written to since the last report; forgets it.

        Returns:
            A bit for each page, little-endian, in whole 64-bit words.

        Raises:
            DeviceError: Nothing is noted, the page size is another one, or the pages are not whole
                or not all in one of the ranges (EINVAL).
        """
        if (
            page_size
            and page_size == self._page_size
            and iova % page_size == 0 == length % page_size
        ):
            for start, written in self._ranges:
                first = iova // page_size - start
                pages = written[max(first, 0) : max(first, 0) + length // page_size]
                if first >= 0 and 0 < len(pages) == length // page_size:
                    bits = np.packbits(pages, bitorder="little").tobytes()
                    pages[:] = False
                    words = -(-len(pages) // _WORD_BITS)
                    return bits.ljust(words * _WORD_BITS // 8, b"\0")
        step = f"report writes to {length} bytes at {iova:#x} by pages of {page_size} bytes"
        raise DeviceError(self._device, step, EINVAL)
