"""What the tests of dirty pages need of the kernel, and what the skip says is there instead."""

import errno
import platform
import re

import pytest

from switchover.errors import KernelError
from switchover.kernel.userfaultfd import WriteProtection

OLDEST = (6, 7)


def _missing() -> str | None:
    """What is missing; None where it must work."""
    machine, release = platform.machine(), platform.release()
    if machine != "x86_64":
        return f"userfaultfd by its x86-64 number is needed, this is {machine}"
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is None or tuple(map(int, found.groups())) < OLDEST:
        return f"userfaultfd with WP_ASYNC is needed (Linux 6.7 or newer), this is Linux {release}"
    try:
        WriteProtection().close()
    except KernelError as error:
        # What a container's filter says. Anything else is ours to answer for, and fails the tests.
        if error.call == "userfaultfd" and error.errno in (errno.EPERM, errno.ENOSYS):
            return f"userfaultfd is needed, but here {error}"
    return None


_reason = _missing()
needs_written_pages = pytest.mark.skipif(_reason is not None, reason=_reason or "")
"""Marks a test for which the kernel must tell which pages were written."""
