"""Guests whose memory and output tell whether a migration lost, repeated or mixed up anything.

The boot-sector guest (`bootsector.S`) adds one to the first byte of each page of a region, in
order, for ever, and prints a letter on the first serial port after each pass. The Linux guest is
Debian's kernel with busybox, and prints a count. Neither needs to know that it was migrated.

The checkers raise `GuestBroken`, which is an `AssertionError`: in a test they stand by themselves.
"""

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

from switchover.testing.peer import default_directory

PAGE_BYTES = 4096

REGION_START_GPA = 0x0010_0000
"""The first page that the boot-sector guest writes to. The same as in `bootsector.S`."""

REGION_END_GPA = 0x0110_0000
"""The page after the last one that the boot-sector guest writes to."""

REGION_BYTES = REGION_END_GPA - REGION_START_GPA

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

DISK_BYTES = 1 << 20
"""The firmware does not start from a disk of one sector behind an AHCI controller."""


# A microvm has no timer but the PIT to measure the TSC's rate against. Under an emulated CPU on a
# busy host that fails now and then, and the kernel waits for ever: so it is told one.
LINUX_COMMAND_LINE = "console=ttyS0 loglevel=1 panic=-1 tsc_early_khz=2000000"


class GuestBroken(AssertionError):
    """The guest is not in a state that it can have come into by itself."""


class Guest(Protocol):
    """What a QEMU is started with so that something runs in it."""

    def arguments(self, directory: Path) -> list[str]:
        """The QEMU arguments that make it run.

        The destination of a migration needs the same ones: they make devices.

        Args:
            directory: The one QEMU's own, where the guest may write what it needs.
        """
        ...


@dataclass(frozen=True, slots=True)
class BootSectorGuest:
    """Writes to each page of the region in order, and prints a letter after each pass.

    It runs on machines with a PC firmware and a disk controller: pc, q35, isapc.
    """

    def arguments(self, directory: Path) -> list[str]:
        """A disk of its own for each QEMU: two of them cannot lock one file for writing."""
        image = directory / "bootsector.img"
        image.write_bytes(boot_sector().ljust(DISK_BYTES, b"\0"))
        return ["-drive", f"file={image},format=raw,if=ide"]


@dataclass(frozen=True, slots=True)
class LinuxGuest:
    """Boots Linux and prints `tick N` some fifteen times a second, N counting up from 1.

    It runs on pc, q35 and microvm, and needs 128 MiB of memory.
    """

    kernel: Path
    initrd: Path

    def arguments(self, directory: Path) -> list[str]:
        """The kernel, its initial file system, and the serial console."""
        return [
            *("-kernel", str(self.kernel), "-initrd", str(self.initrd)),
            *("-append", LINUX_COMMAND_LINE, "-no-reboot"),
        ]


def boot_sector() -> bytes:
    """The 512 bytes of the boot-sector guest."""
    return (resources.files(__package__) / "bootsector.bin").read_bytes()


def find_linux_guest(directory: Path | None = None) -> LinuxGuest | None:
    """The Linux guest in the peers directory, or None: then `missing_guest_reason` says why."""
    guest = _linux_guest(directory)
    return guest if guest.kernel.exists() and guest.initrd.exists() else None


def missing_guest_reason(directory: Path | None = None) -> str:
    """One sentence: what of the Linux guest is not there, and what installs it."""
    guest = _linux_guest(directory)
    missing = [str(path) for path in (guest.kernel, guest.initrd) if not path.exists()]
    if not missing:
        raise ValueError(f"the Linux guest is not missing: it is in {guest.kernel.parent}")
    return (
        f"the Linux guest is needed, but there is no {' and no '.join(missing)};"
        " `make peers` installs it"
    )


def _linux_guest(directory: Path | None) -> LinuxGuest:
    place = (directory or default_directory()) / "guest"
    return LinuxGuest(place / "vmlinuz", place / "initrd")


def check_memory(image: bytes) -> int:
    """Checks the boot-sector guest's memory: all pages equal, but for the pass it is in.

    Args:
        image: The region, from `REGION_START_GPA` up to `REGION_END_GPA`.

    Returns:
        The number of whole passes, modulo 256: what the last page holds.

    Raises:
        GuestBroken: A page is not what the guest can have left there.
    """
    if len(image) != REGION_BYTES:
        raise GuestBroken(f"the region has {REGION_BYTES} bytes, this image {len(image)}")
    marks = image[::PAGE_BYTES]
    first = marks[0]
    ahead = len(marks) - len(marks.lstrip(bytes([first])))
    if ahead == len(marks):
        return first
    passes = (first - 1) % 256
    rest = marks[ahead:].lstrip(bytes([passes]))
    if rest:
        page = len(marks) - len(rest)
        expected = f"{first} or {passes}" if page == ahead else f"{passes}"
        raise GuestBroken(
            f"page {page} of {len(marks)}, at {REGION_START_GPA + page * PAGE_BYTES:#x}, holds"
            f" {rest[0]}, expected {expected}: the first {ahead} pages hold {first}"
        )
    return passes


def check_serial(text: str) -> int:
    """Checks the boot-sector guest's output: A to Z and round again, from A, nothing else.

    Args:
        text: All that it printed since it started, so with a migrated guest what it printed on
            the source and then what it printed on the destination.

    Returns:
        The number of letters, which is the number of passes that it has reported.

    Raises:
        GuestBroken: A letter is missing, repeated, or is none.
    """
    for place, letter in enumerate(text):
        expected = LETTERS[place % len(LETTERS)]
        if letter != expected:
            raise GuestBroken(
                f"letter {place} of the serial output is {letter!r}, expected {expected!r},"
                f" after {text[max(place - 8, 0) : place]!r}"
            )
    return len(text)


def check_progress(passes: int, letters: int) -> None:
    """Checks that the boot-sector guest's memory and output are of one moment.

    Args:
        passes: What `check_memory` returned.
        letters: What `check_serial` returned for the same, stopped guest.

    Raises:
        GuestBroken: It reported a pass that its memory does not show, or the other way round.
    """
    if (passes - letters) % 256 not in (0, 1):
        raise GuestBroken(
            f"the guest printed {letters} letters, {letters % 256} modulo 256,"
            f" but its memory shows {passes} passes modulo 256"
        )


def parse_ticks(text: str) -> list[int]:
    """The counts in the Linux guest's output, whole lines only."""
    return [int(count) for count in re.findall(r"tick (\d+)\r*\n", text)]


def check_ticks(text: str) -> int:
    """Checks that the Linux guest counts on without a gap or a repeat, from 1.

    Args:
        text: All that it printed since it started.

    Returns:
        The last count; 0 if it has not begun.

    Raises:
        GuestBroken: A count is missing or repeated.
    """
    ticks = parse_ticks(text)
    for expected, count in enumerate(ticks, start=1):
        if count != expected:
            raise GuestBroken(f"the guest printed tick {count}, expected tick {expected}")
    return len(ticks)
