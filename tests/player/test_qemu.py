"""What a QEMU with played devices is started with."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.player.playing import needs_player

from switchover.errors import UsageError
from switchover.player.qemu import (
    IOMMUFD,
    RESERVED,
    PlayedQemu,
    device_arguments,
    device_properties,
    why_not,
)
from switchover.player.vfio import PlayedDevice
from switchover.vfio.options import parse_options
from switchover.vfio.sim import VfioSim


def device(name: str) -> PlayedDevice:
    return PlayedDevice(name, VfioSim(parse_options("state=4K,initial=4K,allocate=0s", name)))


def test_command_line_and_device_add_say_the_same() -> None:
    properties = device_properties("nic", 1001)
    option, text = device_arguments("nic", 1001)
    driver, *rest = text.split(",")
    assert (option, driver) == ("-device", properties.pop("driver"))
    assert dict(each.split("=") for each in rest) == {
        key: str(value) for key, value in properties.items()
    }


@needs_player
def test_numbers_of_later_devices_follow_until_there_are_none_left() -> None:
    command = [sys.executable, "-c", "import sys; print(*sys.argv[1:])"]
    devices = [device("a"), device("b")]
    with PlayedQemu(command, devices, lambda event: None, stdout=subprocess.PIPE) as qemu:
        numbers = [qemu.add_device(device(f"late{place}"))["fd"] for place in range(RESERVED - 3)]
        assert numbers == [str(IOMMUFD + 3 + place) for place in range(RESERVED - 3)]
        with pytest.raises(UsageError, match="there is no descriptor for device 'late'"):
            qemu.add_device(device("late"))
        assert qemu.stdout is not None
        printed = qemu.stdout.read().decode().split()
    assert printed[:2] == ["-object", f"iommufd,id=switchover-iommufd,fd={IOMMUFD}"]
    assert printed[2:] == [
        *device_arguments("a", IOMMUFD + 1),
        *device_arguments("b", IOMMUFD + 2),
    ]


def test_more_devices_than_there_are_numbers() -> None:
    devices = [device(f"nic{place}") for place in range(RESERVED)]
    with pytest.raises(UsageError, match=f"{RESERVED} devices cannot be played, but"):
        PlayedQemu(["true"], devices, lambda event: None)


@pytest.mark.parametrize(
    ("listed", "is_fine"),
    [
        ("memory-backend-ram\niommufd", True),
        ("memory-backend-ram\nrng-random", False),
        ("something else", True),
    ],
)
def test_back_end_is_looked_for_in_what_qemu_lists(
    tmp_path: Path, listed: str, is_fine: bool
) -> None:
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = '-object help' ] && echo '{listed}'\n")
    program.chmod(0o755)
    reason = why_not(str(program))
    assert (reason is None) == is_fine
    assert reason is None or reason.startswith(f"{program} has no iommufd back end")


@pytest.mark.parametrize("program", ["true", "false", "/nowhere/qemu"])
def test_what_cannot_be_asked_is_not_refused(program: str) -> None:
    assert why_not(program) is None
