"""Which tracker is chosen, and the reason that is given."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from tests.kernel.needed import needs_written_pages
from tests.tracker.test_base import new_memory, no_marks

from switchover.errors import KernelError
from switchover.kernel import pagemap, userfaultfd
from switchover.model.ramblock import TARGET_PAGE_SIZE, Bytes
from switchover.tracker.choose import start_tracker
from switchover.tracker.compare import CompareTracker
from switchover.tracker.pagemap_scan import PagemapScanTracker

NOBODY = 65534
UNPRIVILEGED = f"""
import ctypes, os
from switchover.guest.ram import GuestRAM
from switchover.model.ramblock import RAMBlock
from switchover.tracker.choose import start_tracker
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
    # Who has changed its user may not look into itself, unless it says that it may.
    assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0
choice = start_tracker(GuestRAM(RAMBlock("ram", 1 << 20)).memory)
print(os.geteuid(), choice.reason)
choice.tracker.stop()
"""


def check_falls_back(memory: Bytes, reason: str) -> None:
    """Checks that the tracker for that memory compares, says why, and works."""
    choice = start_tracker(memory)
    assert isinstance(choice.tracker, CompareTracker)
    assert choice.reason == reason
    memory[3] = 1
    dirty = no_marks(memory)
    choice.tracker.sync(dirty)
    choice.tracker.stop()
    assert np.flatnonzero(dirty).tolist() == [3]


@needs_written_pages
class TestKernelThatCan:
    def test_notes_every_write(self) -> None:
        memory = new_memory()
        choice = start_tracker(memory)
        assert isinstance(choice.tracker, PagemapScanTracker)
        assert choice.reason == "pagemap-scan: the kernel notes every write"
        memory[3] = 0
        dirty = no_marks(memory)
        choice.tracker.sync(dirty)
        choice.tracker.stop()
        assert np.flatnonzero(dirty).tolist() == [3]

    def test_does_so_for_anybody(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED], capture_output=True, text=True, timeout=60
        )
        user = os.geteuid() or NOBODY
        assert done.stderr == ""
        assert done.stdout == f"{user} pagemap-scan: the kernel notes every write\n"

    def test_refuses_memory_that_is_no_whole_pages(self) -> None:
        memory = new_memory().reshape(-1)[8:-4088].reshape(-1, TARGET_PAGE_SIZE)
        expected = "compare, as the kernel refuses UFFDIO_REGISTER: Invalid argument"
        check_falls_back(memory, expected)

    def test_may_lack_the_features(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(userfaultfd, "_FEATURE_WP_ASYNC", 1 << 63)
        check_falls_back(
            new_memory(), "compare, as the kernel refuses UFFDIO_API: Invalid argument"
        )

    def test_may_lack_the_scan(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pagemap, "PAGEMAP_SCAN", pagemap.PAGEMAP_SCAN + 1)
        check_falls_back(
            new_memory(), "compare, as the kernel refuses PAGEMAP_SCAN: Invalid argument"
        )

    def test_may_hide_the_page_tables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pagemap, "_PATH", "/proc/self/missing")
        check_falls_back(
            new_memory(),
            "compare, as the kernel refuses open /proc/self/missing: No such file or directory",
        )

    def test_what_is_no_refusal_is_no_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        # Nothing is left open either.
        monkeypatch.setattr(PagemapScanTracker, "start", fail)
        with pytest.raises(ZeroDivisionError):
            start_tracker(new_memory())


def test_kernel_may_refuse_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, *_: int) -> int:
        raise KernelError(name, OSError(errno.EPERM, os.strerror(errno.EPERM)))

    monkeypatch.setattr(userfaultfd, "syscall", refuse)
    check_falls_back(
        new_memory(), "compare, as the kernel refuses userfaultfd: Operation not permitted"
    )
