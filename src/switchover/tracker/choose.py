"""Which tracker this machine gets, and why."""

from dataclasses import dataclass

from ..errors import KernelError
from ..model.ramblock import Bytes
from .base import DirtyTracker
from .compare import CompareTracker
from .pagemap_scan import PagemapScanTracker


@dataclass(frozen=True, slots=True)
class TrackerChoice:
    """A tracker that has started, and the reason for it.

    Attributes:
        tracker: The tracker.
        reason: One sentence.
    """

    tracker: DirtyTracker
    reason: str


def start_tracker(memory: Bytes) -> TrackerChoice:
    """The best tracker for that memory, started.

    Args:
        memory: uint8 of shape (pages, 4096).
    """
    try:
        scan = PagemapScanTracker(memory)
        try:
            scan.start()
        except BaseException:
            scan.stop()
            raise
    except KernelError as error:
        compare = CompareTracker(memory)
        compare.start()
        return TrackerChoice(compare, f"{compare.name}, as {error}")
    return TrackerChoice(scan, f"{scan.name}: the kernel notes every write")
