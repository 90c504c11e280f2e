"""The built-in machine: RAM, a CPU that runs a real program on it, a serial port, a pacer.

The program (program.S) adds one to the first byte of each page of a region, in order, round and
round, and prints ticks. So anybody can check, in any copy of the memory, that the machine was moved
whole: `check_region`.
"""

from collections.abc import Sequence
from importlib import resources

import numpy as np

from ..errors import GuestError
from ..model.ramblock import TARGET_PAGE_SIZE, Bytes, RAMBlock
from ..vfio.migration import VfioMigration
from .base import Device, LiveDevice
from .cpu import R8, RDI, RSI, Cpu
from .pacer import Pacer
from .ram import GuestRAM
from .serial import Serial

MACHINE = "switchover-1"
"""The machine type's name; another layout of devices would be another."""
RAM_ONLY_MACHINE = "none"
RAM_BLOCK = "ram"

PROGRAM_ADDRESS = 0x1000
REGION_START = 0x10_0000
"""The first byte of the region; it reaches to the end of RAM unless told otherwise."""


class BuiltinMachine:
    """A machine that really runs.

    Args:
        ram_bytes: Its RAM, a multiple of 4096, at least 2 MiB.
        region_bytes: The part of it that the program dirties; None for all above the first MiB.
        pages_per_second: How fast: 0 for not at all, None for as fast as it goes.
        live_devices: Further devices, which are sent while the machine runs; those of VFIO are
            stopped and let run with it.
        ram_only: Whether nothing but the RAM is migrated, under the name of QEMU's machine `none`:
            what a QEMU `-M none` with as much memory takes.
    """

    def __init__(
        self,
        ram_bytes: int,
        *,
        region_bytes: int | None = None,
        pages_per_second: int | None = 0,
        live_devices: Sequence[LiveDevice | VfioMigration] = (),
        ram_only: bool = False,
    ) -> None:
        if ram_bytes % TARGET_PAGE_SIZE or ram_bytes < 2 * REGION_START:
            raise GuestError(
                f"a machine's RAM: expected a multiple of 4096, at least {2 * REGION_START}, "
                f"got {ram_bytes}"
            )
        largest = ram_bytes - REGION_START
        region_bytes = largest if region_bytes is None else region_bytes
        if region_bytes % TARGET_PAGE_SIZE or not 0 < region_bytes <= largest:
            raise GuestError(
                f"the region that is dirtied: expected a multiple of 4096, at most {largest}, "
                f"got {region_bytes}"
            )
        self.machine = RAM_ONLY_MACHINE if ram_only else MACHINE
        self.ram = (GuestRAM(RAMBlock(RAM_BLOCK, ram_bytes)),)
        self.live_devices = tuple(live_devices)
        self._vfio_devices = [one for one in live_devices if isinstance(one, VfioMigration)]
        self.serial = Serial()
        self.pacer = Pacer(pages_per_second)
        memory = self.ram[0].memory
        self.cpu = Cpu(memory, self.pacer, self.serial)
        devices = (self.cpu, self.pacer, self.serial)
        self.devices: Sequence[Device] = () if ram_only else devices
        self._reset(memory, region_bytes)

    def _reset(self, memory: Bytes, region_bytes: int) -> None:
        program = np.frombuffer(
            (resources.files(__package__) / "program.bin").read_bytes(), np.uint8
        )
        memory.reshape(-1)[PROGRAM_ADDRESS : PROGRAM_ADDRESS + len(program)] = program
        registers = [0] * 16
        registers[RDI] = registers[R8] = REGION_START
        registers[RSI] = REGION_START + region_bytes
        self.cpu.load({"regs": registers, "rip": PROGRAM_ADDRESS, "rflags": 2})

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self.cpu.is_running

    def cont(self) -> None:
        """Lets it run."""
        for device in self._vfio_devices:
            device.cont()
        self.cpu.cont()

    def stop(self) -> None:
        """Stops it, within a few milliseconds, between two steps of its program.

        Raises:
            DeviceError: The program is stopped, and a device is not: `cont` lets it run on.
        """
        self.cpu.stop()
        for device in self._vfio_devices:
            device.prepare_stop()
        for device in self._vfio_devices:
            device.stop()

    def check(self) -> None:
        """Checks the memory of a machine that is stopped; see `check_region`.

        Raises:
            GuestError: It is not what the program leaves.
        """
        registers = self.cpu.save()["regs"]
        first, page, end = (registers[register] for register in (R8, RDI, RSI))
        memory = self.ram[0].memory
        if not REGION_START <= first <= page < end <= memory.nbytes:
            raise GuestError(
                f"the CPU's registers are not the program's: the region is from {first:#x} to "
                f"{end:#x}, the next page at {page:#x}"
            )
        first, page, end = (address // TARGET_PAGE_SIZE for address in (first, page, end))
        check_region(memory[first:end], page - first)


def check_region(region: Bytes, next_page: int) -> None:
    """Checks that the program, and nothing else, wrote a region.

    All first bytes are equal but for one step: the pages before the next one are one ahead. All
    other bytes are zero.

    Args:
        region: Its pages, uint8 of shape (pages, 4096).
        next_page: The page that the program does next, from the first of the region.

    Raises:
        GuestError: Where it is not so.
    """
    marks = region[:, 0]
    expected = np.full(len(marks), marks[-1], np.uint8)
    expected[:next_page] += np.uint8(1)
    wrong = np.flatnonzero(marks != expected)
    if len(wrong):
        page = int(wrong[0])
        raise GuestError(
            f"page {page} of the region is not what the program left: expected "
            f"{expected[page]}, got {marks[page]}"
        )
    if region[:, 1:].any():
        raise GuestError("the program did not write what stands in the region")
