"""Waiting for what another thread does, with an end to it."""

import time
from collections.abc import Callable, Iterator

DEADLINE_S = 60
LEAVE_S = 0.0002
"""For so long whoever waits leaves the interpreter to others: otherwise they may have no turn."""


def turns_until(condition: Callable[[], object], what: str) -> Iterator[None]:
    """Gives turn after turn until something is so.

    Raises:
        AssertionError: It takes too long.
    """
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"after {DEADLINE_S} s there is no {what}"
        yield
        time.sleep(LEAVE_S)


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Waits until something is so.

    Raises:
        AssertionError: It takes too long.
    """
    for _ in turns_until(condition, what):
        pass
