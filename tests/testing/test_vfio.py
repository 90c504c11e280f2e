"""A QEMU with played devices for tests, without a QEMU."""

from pathlib import Path

import pytest

from switchover.player.vfio import Event
from switchover.testing import Peer
from switchover.testing.vfio import VfioQemu


def event(device: str, call: str, detail: str, result: int) -> Event:
    return Event(0, device, call, detail, result, 0)


def test_states_are_those_that_were_reached_by_one_device() -> None:
    qemu = VfioQemu(Peer((10, 0), Path("/nowhere/qemu")), [])
    qemu.events += [
        event("a", "SET MIG_DEVICE_STATE", "PRE_COPY", 0),
        event("b", "SET MIG_DEVICE_STATE", "RESUMING", 0),
        event("a", "SET MIG_DEVICE_STATE", "STOP_COPY", -5),
        event("a", "GET MIG_DEVICE_STATE", "PRE_COPY", 0),
        event("a", "SET MIG_DEVICE_STATE", "RUNNING", 0),
    ]
    assert qemu.states("a") == ["PRE_COPY", "RUNNING"]
    assert qemu.states("b") == ["RESUMING"]


def test_nothing_is_played_before_the_start() -> None:
    with pytest.raises(AssertionError):
        VfioQemu(Peer((10, 0), Path("/nowhere/qemu")), []).played.stop()
