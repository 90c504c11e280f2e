"""Property tests that give the same verdict on every run, and limits for what they may cost."""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def stable(max_examples: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The settings of a property test: the same examples each time, and no clock."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@contextmanager
def memory_limit(peak_bytes: int) -> Iterator[None]:
    """What is done inside holds no more than so many bytes at any one time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= peak_bytes, f"{peak} bytes were held at once, expected at most {peak_bytes}"


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """The data with a few bytes changed, put in, taken out, or a piece of it said twice."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        size = draw(st.sampled_from([1, 1, 1, 2, 4, 8, 64, 4104]))
        match draw(st.sampled_from(["flip", "write", "insert", "delete", "duplicate"])):
            case "flip" if at < len(changed):
                changed[at] ^= 1 << draw(st.integers(0, 7))
            case "write":
                written = draw(st.binary(min_size=1, max_size=8))
                changed[at : at + len(written)] = written
            case "insert":
                changed[at:at] = draw(st.binary(min_size=1, max_size=16))
            case "delete":
                del changed[at : at + size]
            case "duplicate":
                changed[at:at] = changed[at : at + size]
    return bytes(changed)
