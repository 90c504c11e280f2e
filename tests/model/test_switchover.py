"""What a machine type's name tells of SWITCHOVER_ACK and SWITCHOVER_START."""

import pytest

from switchover.model.switchover import (
    SwitchoverAckMode,
    machine_version,
    sends_switchover_start,
    switchover_ack_mode,
)

LEGACY, PER_DEVICE = SwitchoverAckMode.LEGACY, SwitchoverAckMode.PER_DEVICE


@pytest.mark.parametrize(
    ("machine", "version", "mode", "starts"),
    [
        ("pc-q35-2.4", (2, 4), LEGACY, False),
        ("pc-q35-9.2", (9, 2), LEGACY, False),
        ("pc-q35-10.0", (10, 0), LEGACY, True),
        ("pc-i440fx-10.0", (10, 0), LEGACY, True),
        ("pc-q35-11.0", (11, 0), LEGACY, True),
        ("pc-q35-11.1", (11, 1), PER_DEVICE, True),
        ("pc-i440fx-11.2", (11, 2), PER_DEVICE, True),
        ("pc-q35-12.0", (12, 0), PER_DEVICE, True),
        ("switchover-1", None, LEGACY, True),
        ("none", None, None, False),
        ("microvm", None, None, False),
        ("virt-11.1", None, None, False),
        ("pc-q35-11.1-mine", None, None, False),
        ("my-pc-q35-11.1", None, None, False),
        ("pc-q35-noble", None, None, False),
        ("", None, None, False),
    ],
)
def test_the_name_tells(
    machine: str, version: tuple[int, int] | None, mode: SwitchoverAckMode | None, starts: bool
) -> None:
    assert machine_version(machine) == version
    assert switchover_ack_mode(machine) is mode
    assert sends_switchover_start(machine) is starts
