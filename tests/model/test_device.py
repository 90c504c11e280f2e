"""Device sections as places in the bytes that hold them."""

import dataclasses

import pytest

from switchover.model.device import DeviceSection, DeviceState
from switchover.model.section import SectionHeader

SECTION = DeviceSection(SectionHeader(0, "timer", 0, 2), start=18, size=24)


def test_a_section_says_where_its_body_is() -> None:
    data = bytes(18) + b"x" * 24 + bytes(5)
    state = DeviceState(data, b"{}", (SECTION,))
    assert state.data[SECTION.start : SECTION.start + SECTION.size] == b"x" * 24


def test_device_state_is_a_value() -> None:
    state = DeviceState(b"", b"{}", (SECTION,))
    assert state == dataclasses.replace(state) != dataclasses.replace(state, data=b"\0")
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.data = b"\0"  # type: ignore[misc]
