"""The tracker that compares: what it has besides what every tracker has."""

import numpy as np
import pytest
from tests.tracker.test_base import new_memory, no_marks

from switchover.tracker.compare import CompareTracker


def test_a_write_that_changes_nothing_is_none() -> None:
    memory = new_memory()
    tracker = CompareTracker(memory)
    tracker.start()
    memory[3] = 0
    memory[4] = 1
    memory[4] = 0
    dirty = no_marks(memory)
    tracker.sync(dirty)
    assert not dirty.any()


@pytest.mark.parametrize("place", [0, 1, 7, 8, 2047, 4095])
def test_each_byte_of_a_page_is_looked_at(place: int) -> None:
    memory = new_memory()
    tracker = CompareTracker(memory)
    tracker.start()
    memory[6, place] = 1
    dirty = no_marks(memory)
    tracker.sync(dirty)
    assert np.flatnonzero(dirty).tolist() == [6]


def test_what_is_sent_is_as_it_was_at_the_last_sync() -> None:
    memory = new_memory()
    tracker = CompareTracker(memory)
    assert tracker.content is memory
    tracker.start()
    memory[2] = 1
    assert not tracker.content.any()
    tracker.sync(no_marks(memory))
    memory[2] = 3
    assert (tracker.content[2] == 1).all()


def test_before_its_start_it_marks_nothing() -> None:
    memory = new_memory()
    tracker = CompareTracker(memory)
    memory[:] = 1
    dirty = no_marks(memory)
    tracker.sync(dirty)
    assert not dirty.any()
