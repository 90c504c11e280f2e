"""Every test of the engine gives back what it took."""

from collections.abc import Iterator

import pytest
from tests.channel.leaks import nothing_left
from tests.engine.live import stop_machines

__all__ = ["machines_stop", "nothing_left"]


@pytest.fixture(autouse=True)
def machines_stop(nothing_left: None) -> Iterator[None]:
    """No machine runs on, whatever came of the test."""
    yield
    stop_machines()
