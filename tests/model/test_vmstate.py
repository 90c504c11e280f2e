"""Described device state as plain data."""

import dataclasses

import pytest

from switchover.model.vmstate import VmstateDescription, VmstateField, VmstateType

FIELD = VmstateField("x", VmstateType.UINT8)


def test_types_have_the_names_of_qemus_descriptions() -> None:
    widths = [8, 16, 32, 64]
    assert [kind.value for kind in VmstateType] == [
        "bool",
        *(f"int{width}" for width in widths),
        *(f"uint{width}" for width in widths),
        "buffer",
        "unused_buffer",
        "struct",
    ]


def test_a_field_is_one_value_of_every_version_unless_it_says_more() -> None:
    assert (FIELD.count, FIELD.size, FIELD.struct, FIELD.version_id) == (None, 0, None, 0)


def test_a_description_is_of_version_1_and_whole_unless_it_says_more() -> None:
    description = VmstateDescription("device", (FIELD,))
    assert (description.version_id, description.minimum_version_id) == (1, 1)
    assert description.subsections == ()


def test_descriptions_are_values() -> None:
    description = VmstateDescription("device", (FIELD,))
    assert len({description, VmstateDescription("device", (FIELD,))}) == 1
    assert description != VmstateDescription("device", (FIELD, FIELD))
    with pytest.raises(dataclasses.FrozenInstanceError):
        description.name = "other"  # type: ignore[misc]
