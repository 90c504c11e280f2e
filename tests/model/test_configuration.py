"""What a CONFIGURATION says when it says no more than a name."""

import dataclasses

import pytest

from switchover.model.configuration import Configuration


def test_all_but_the_machine_may_be_left_out() -> None:
    configuration = Configuration("none")
    assert dataclasses.astuple(configuration) == ("none", None, (), None)


def test_a_configuration_is_a_value() -> None:
    assert Configuration("none") == Configuration("none") != Configuration("none", 12)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Configuration("none").machine = "pc"  # type: ignore[misc]
