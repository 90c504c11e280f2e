"""Events are values that can be matched and compared."""

import copy
import dataclasses
from typing import get_args

import pytest

from switchover.model.configuration import Configuration
from switchover.model.device import DeviceState
from switchover.model.section import SectionHeader
from switchover.protocol.event import (
    NEED_DATA,
    Configured,
    Event,
    LiveSectionsEnded,
    NeedData,
    Pinged,
    ReturnPathOpened,
    SectionEnding,
    SectionItem,
    SectionStarted,
    StreamEnded,
    SwitchoverStarted,
)

HEADER = SectionHeader(1, "ram", 0, 4)
EVENTS: list[Event] = [
    Configured(Configuration("none")),
    ReturnPathOpened(),
    Pinged(1),
    SwitchoverStarted(),
    SectionStarted(HEADER, True),
    SectionEnding(HEADER),
    SectionItem(HEADER, b"item"),
    LiveSectionsEnded(),
    StreamEnded(DeviceState(b"", b"", ())),
]


def test_these_are_all_of_them() -> None:
    assert [type(event) for event in EVENTS] == list(get_args(Event))


@pytest.mark.parametrize("event", EVENTS)
def test_events_are_values(event: Event) -> None:
    assert copy.copy(event) == event
    assert [other == event for other in EVENTS].count(True) == 1
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError, AttributeError)):
        event.header = HEADER  # type: ignore[union-attr, misc]


def test_there_is_one_need_of_data() -> None:
    assert list(NeedData) == [NEED_DATA]
