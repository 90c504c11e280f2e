"""Waiting for a condition, with a deadline: a test never sleeps for its own sake."""

import time
from collections.abc import Callable

TIMEOUT_S = 30.0
"""How long a thing may take that usually takes milliseconds, on a slow and busy machine."""

_POLL_S = 0.002


def wait_until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Returns once the condition holds; fails when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened in {timeout_s:g} s"
        time.sleep(_POLL_S)
