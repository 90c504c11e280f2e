"""The kernel notes writes: userfaultfd write protection and PAGEMAP_SCAN (Linux 6.7 and newer)."""

from ..kernel.pagemap import Pagemap
from ..kernel.userfaultfd import WriteProtection
from ..model.ramblock import TARGET_PAGE_BITS, Bytes
from .base import DirtyPages


class PagemapScanTracker:
    """Asks the kernel.

    Args:
        memory: uint8 of shape (pages, 4096), at a page boundary of an anonymous or shared mapping.

    Raises:
        KernelError: This kernel cannot.
    """

    name = "pagemap-scan"

    def __init__(self, memory: Bytes) -> None:
        self._memory = memory
        self._address = memory.ctypes.data
        self._size = memory.nbytes
        self._protection = WriteProtection()
        try:
            self._pagemap = Pagemap()
        except BaseException:
            self._protection.close()
            raise

    @property
    def content(self) -> Bytes:
        """The memory."""
        return self._memory

    def start(self) -> None:
        """From now on every write is noted."""
        self._protection.register(self._address, self._size)
        for _ in self._pagemap.fetch_written(self._address, self._size):
            pass

    def sync(self, dirty: DirtyPages) -> None:
        """Marks the pages written since the last call, or since `start`."""
        for start, stop in self._pagemap.fetch_written(self._address, self._size):
            first = (start - self._address) >> TARGET_PAGE_BITS
            dirty[first : (stop - self._address) >> TARGET_PAGE_BITS] = True

    def stop(self) -> None:
        """Notes no more."""
        self._protection.close()
        self._pagemap.close()
