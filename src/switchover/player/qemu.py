"""An unmodified QEMU with played VFIO devices: its arguments, and who answers for its descriptors.

QEMU's iommufd back end (from 9.0 on) takes a device as two open descriptors. Page:
docs/vfio-without-hardware.md.
"""

import subprocess
from collections.abc import Sequence
from typing import Any

from ..errors import UsageError
from .process import PlayedProcess
from .vfio import Observer, PlayedDevice, Player

IOMMUFD = 1000
"""The first descriptor that is played; the devices' follow it."""
RESERVED = 64
"""Descriptors that are there from the start: the iommufd, and those of devices, later ones too."""
_IOMMUFD_ID = "switchover-iommufd"
_ASK_S = 30.0
"""More than any QEMU takes to list what it has."""


def device_properties(name: str, fd: int) -> dict[str, str | int]:
    """What QEMU is told of one device, as `device_add` takes it."""
    return {
        "driver": "vfio-pci",
        "iommufd": _IOMMUFD_ID,
        "fd": str(fd),
        "enable-migration": "on",
        "rombar": 0,
        "id": name,
    }


def device_arguments(name: str, fd: int) -> list[str]:
    """The same on its command line."""
    (_, driver), *properties = device_properties(name, fd).items()
    return ["-device", ",".join([str(driver), *(f"{key}={value}" for key, value in properties)])]


def why_not(program: str) -> str | None:
    """Why a QEMU cannot have played devices, if it says so itself.

    Args:
        program: The QEMU, looked for as a shell does. It is asked, which takes a moment.

    Returns:
        A sentence; None if nothing is known against it, as of one that cannot be asked.
    """
    try:
        asked = subprocess.run(
            [program, "-object", "help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ASK_S,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    listed = asked.stdout.split()
    if asked.returncode != 0 or "memory-backend-ram" not in listed or "iommufd" in listed:
        return None
    return (
        f"{program} has no iommufd back end, to which devices are played: expected QEMU 9.0 or "
        f"newer, built with it"
    )


class PlayedQemu(PlayedProcess):
    """A QEMU that runs with these devices, until it exits or the block ends.

    Args:
        command: The QEMU and its arguments, to which those of the devices are added.
        devices: The devices.
        observe: Told of each call that was answered.
        popen: As of `PlayedProcess`.
    """

    def __init__(
        self,
        command: Sequence[str],
        devices: Sequence[PlayedDevice],
        observe: Observer,
        **popen: Any,
    ) -> None:
        if len(devices) >= RESERVED:
            raise UsageError(f"{len(devices)} devices cannot be played, but {RESERVED - 1} can")
        by_fd = {IOMMUFD + 1 + place: device for place, device in enumerate(devices)}
        self.player = Player(by_fd, IOMMUFD, IOMMUFD + RESERVED, observe)
        arguments = [*command, "-object", f"iommufd,id={_IOMMUFD_ID},fd={IOMMUFD}"]
        for fd, device in by_fd.items():
            arguments += device_arguments(device.name, fd)
        super().__init__(
            arguments, self.player.answer, first_fd=IOMMUFD, reserved=RESERVED, **popen
        )

    def add_device(self, device: PlayedDevice) -> dict[str, str | int]:
        """Answers for one more device, which QEMU may then be told to plug in.

        Returns:
            The arguments of `device_add`.

        Raises:
            UsageError: There is no number left.
        """
        return device_properties(device.name, self.player.add_device(device))
