"""What a test may leave behind: nothing."""

import gc
import os
import threading
from collections.abc import Iterator

import pytest

_NAMES = "mig/", "test/"
"""How the engine's threads are called, and those of its tests: they are waited for."""


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails a test that leaves a descriptor open or a thread running."""
    threads = set(threading.enumerate())
    descriptors = _descriptors()
    yield
    left = set(threading.enumerate()) - threads
    assert not [thread.name for thread in left if thread.name.startswith(_NAMES)]
    for thread in left:  # A library's may be ending.
        thread.join(60)
        assert not thread.is_alive(), thread.name
    if _descriptors().items() - descriptors.items():
        gc.collect()  # Some of pytest's own hang in cycles.
    assert not _descriptors().items() - descriptors.items()


def _descriptors() -> dict[int, str]:
    """Each open descriptor with what it is; that of the directory itself is closed by then."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found
