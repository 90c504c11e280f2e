"""Parameters have QEMU's defaults."""

import dataclasses

import pytest

from switchover.model.parameter import Parameters


def test_the_defaults_are_qemus() -> None:
    assert dataclasses.asdict(Parameters()) == {
        "max_bandwidth": 134217728,
        "downtime_limit_ms": 300,
        "avail_switchover_bandwidth": 0,
        "switchover_ack_timeout_ms": 0,
        "switchover_ack_timeout_policy": "cancel",
    }


def test_parameters_are_values() -> None:
    assert Parameters(downtime_limit_ms=300) == Parameters() != Parameters(max_bandwidth=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Parameters().max_bandwidth = 0  # type: ignore[misc]
