"""A real device, through Linux. NO HARDWARE WAS TRIED: there was none.

It does what include/uapi/linux/vfio.h says, and was tested with a kernel that is played. What is
not here is a driver for the guest: nobody maps the guest's memory for the device, shows its
registers to a CPU or passes its interrupts on.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EINVAL, EIO, ENOMSG, EPROTO
from types import TracebackType
from typing import Self

from ..errors import DeviceError, KernelError
from ..kernel.ioctl import ioctl
from ..kernel.vfio import (
    PCI_CONFIG_REGION_INDEX,
    PRECOPY_INFO_REINIT,
    Ioctl,
    Region,
    VfioCalls,
)
from ..model.vfio import DATA_STATES, PciConfig, PrecopyInfo, VfioFlag, VfioState
from .device import Ready

_NO_FILENO = -1

_PCI_IDS = slice(0, 4)
"""Vendor and device."""
_PCI_COMMAND = slice(4, 6)


class KernelVfioDevice:
    """A VFIO device of the kernel, a `PrecopyDevice`. One thread at a time may call it.

    It owns its descriptor, and that of the data session in which it is. What the kernel refuses is
    a `DeviceError` with the kernel's errno, whose cause is the call. Where a data descriptor is
    needed and there is none, the errno is EBADF, as from a call on a descriptor of -1.

    Whether new initial data has come up (VFIO_PRECOPY_INFO_REINIT) a kernel tells if it knows
    VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2; with an older one it is never so.

    Args:
        name: What it is called in errors.
        fileno: Its descriptor, ready for use: from its group, or bound to an iommufd. It stays the
            caller's if this raises.
        ioctl: Makes the calls.

    Raises:
        DeviceError: It cannot be migrated, or says so (ENOTTY).

    Attributes:
        flags: What it can do.
    """

    def __init__(self, name: str, fileno: int, *, ioctl: Ioctl = ioctl) -> None:
        self._name = name
        self._calls = VfioCalls(ioctl)
        self._fileno = fileno
        self._data_fileno = _NO_FILENO
        with self._doing("be migrated"):
            self.flags = VfioFlag(self._calls.migration_flags(fileno))
        self._has_precopy_flags = False
        if VfioFlag.PRE_COPY in self.flags:
            with suppress(KernelError):
                self._calls.enable_precopy_flags(fileno)
                self._has_precopy_flags = True
        self._interrupts = PciConfig(b"")

    @classmethod
    def open(cls, name: str, path: str, iommufd: int, *, ioctl: Ioctl = ioctl) -> Self:
        """Opens a device by itself, and binds it to an iommufd.

        It reaches no memory: whoever owns the iommufd attaches an address space
        (VFIO_DEVICE_ATTACH_IOMMUFD_PT).

        Args:
            name: What it is called in errors.
            path: /dev/vfio/devices/vfio and a number.
            iommufd: A descriptor of /dev/iommu, which stays the caller's.
            ioctl: Makes the calls.

        Raises:
            DeviceError: It cannot be opened, or used by us, or migrated.
        """
        try:
            fileno = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(name, f"be opened as {path}", _errno_of(error)) from error
        try:
            VfioCalls(ioctl).bind_iommufd(fileno, iommufd)
            return cls(name, fileno, ioctl=ioctl)
        except KernelError as error:
            os.close(fileno)
            raise DeviceError(name, "be bound to an iommufd", _errno_of(error)) from error
        except BaseException:
            os.close(fileno)
            raise

    def close(self) -> None:
        """Gives it back; may be called twice. The kernel ends what it was doing."""
        self._set_data_fileno(_NO_FILENO)
        if self._fileno >= 0:
            fileno, self._fileno = self._fileno, _NO_FILENO
            os.close(fileno)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # States

    @property
    def state(self) -> VfioState:
        """Where it is, as the kernel says.

        Raises:
            DeviceError: It cannot say (EPROTO: in a state that has come up since).
        """
        step = "say in which state it is"
        with self._doing(step):
            state = self._calls.device_state(self._fileno)
        try:
            return VfioState(state)
        except ValueError as error:
            step = f"{step}: state {state} is not known"
            raise DeviceError(self._name, step, EPROTO) from error

    def set_state(self, state: VfioState) -> None:
        """Has it go to a state, which may take seconds.

        Its data descriptor is a new one where a data session begins, and is closed where one ends,
        also on a way that it did not go to the end.

        Raises:
            DeviceError: It cannot go there, and is where `state` now says. What to do then is the
                caller's to decide.
        """
        try:
            with self._doing(f"go to {state.name}"):
                data_fileno = self._calls.set_device_state(self._fileno, state)
        except DeviceError:
            # Where it got stuck nobody can say who does not ask. If that fails too, the data
            # descriptor stays until something succeeds.
            with suppress(DeviceError):
                if self.state not in DATA_STATES:
                    self._set_data_fileno(_NO_FILENO)
            raise
        if data_fileno >= 0 or state not in DATA_STATES:
            self._set_data_fileno(data_fileno)

    def reset(self) -> None:
        """Resets it: it is RUNNING, in no data session. A DMA log may go on.

        Raises:
            DeviceError: It cannot be reset (EINVAL: never).
        """
        with self._doing("be reset"):
            self._calls.reset(self._fileno)
        self._set_data_fileno(_NO_FILENO)
        self._interrupts = PciConfig(b"")

    def _set_data_fileno(self, fileno: int) -> None:
        old, self._data_fileno = self._data_fileno, fileno
        if old >= 0:
            os.close(old)

    # The source

    def precopy_info(self) -> PrecopyInfo:
        """What can be read now.

        Raises:
            DeviceError: It is in no PRE_COPY state (EINVAL, or EBADF outside of a data session).
        """
        with self._doing("tell what there is to read"):
            sizes = self._calls.precopy_sizes(self._data_fileno)
        # Of a device that was not told so the flags are no answer.
        is_reinit = self._has_precopy_flags and bool(sizes.flags & PRECOPY_INFO_REINIT)
        return PrecopyInfo(sizes.initial_bytes, sizes.dirty_bytes, is_reinit)

    def stop_copy_bytes(self) -> int:
        """What there may be to read once it is stopped.

        Raises:
            DeviceError: It cannot tell (ENOTTY: an older kernel).
        """
        with self._doing("tell what there is to read once it is stopped"):
            return self._calls.stop_copy_length(self._fileno)

    def read_into(self, buffer: memoryview) -> int | None:
        """Reads the next of its state; waits for the device where it has more but not yet.

        Returns:
            How many bytes; in STOP_COPY 0 where that was all; in the PRE_COPY states None where
            there is nothing for now (ENOMSG).

        Raises:
            DeviceError: It cannot be read.
        """
        with self._doing("be read"):
            try:
                return os.readv(self._data_fileno, [buffer])
            except OSError as error:
                if error.errno == ENOMSG:
                    return None
                raise

    # The destination

    def write(self, data: memoryview) -> None:
        """Gives it the next of its state, all of it, however little it takes at once.

        Raises:
            DeviceError: It takes it not; a part of it may have been taken.
        """
        with self._doing("be written"):
            while len(data):
                data = data[os.write(self._data_fileno, data) :]

    def when_ready(self, ready: Ready) -> None:
        """Calls `ready` at once: what was written was taken, and what it needed is there."""
        ready()

    # The PCI configuration

    @property
    def config(self) -> PciConfig:
        """Its configuration space as the kernel shows it.

        The kernel knows neither the levels of its pins nor the MSI-X table of the guest: those
        are the last that were set here, and nothing before.

        Raises:
            DeviceError: It cannot be read, or it has none (EINVAL).
        """
        step = "tell its PCI configuration"
        space = self._read_config(step, self._config_region(step))
        return PciConfig(space, self._interrupts.irq_state, self._interrupts.msix)

    @config.setter
    def config(self, config: PciConfig) -> None:
        """Takes over the command register, and keeps what there is of interrupts.

        The rest of the space is not written, as QEMU does not write it either: it belongs to the
        device as it is, or to the driver that shows it to the guest and passes interrupts on, and
        a register written without need may do something. The device must be the same kind.

        Raises:
            DeviceError: It cannot be written, or it is of another kind (EINVAL).
        """
        step = "take a PCI configuration"
        region = self._config_region(step)
        if len(config.space) != region.size:
            step = f"{step} of {len(config.space)} bytes: it has {region.size}"
            raise DeviceError(self._name, step, EINVAL)
        ids = self._read_config(step, region)[_PCI_IDS]
        if config.space[_PCI_IDS] != ids:
            step = f"{step} with the ids {config.space[_PCI_IDS].hex()}: it has {ids.hex()}"
            raise DeviceError(self._name, step, EINVAL)
        with self._doing(step):
            command = config.space[_PCI_COMMAND]
            os.pwrite(self._fileno, command, region.offset + _PCI_COMMAND.start)
        self._interrupts = config

    def _config_region(self, step: str) -> Region:
        with self._doing(step):
            region = self._calls.region(self._fileno, PCI_CONFIG_REGION_INDEX)
        if not region.size:
            raise DeviceError(self._name, f"{step}: it has none", EINVAL)
        return region

    def _read_config(self, step: str, region: Region) -> bytes:
        with self._doing(step):
            space = os.pread(self._fileno, region.size, region.offset)
        if len(space) != region.size:
            step = f"{step}: {len(space)} of {region.size} bytes can be read"
            raise DeviceError(self._name, step, EIO)
        return space

    # DMA logging

    def start_dma_logging(self, page_size: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Notes from now on what it writes into memory, by pages of that size or another.

        Raises:
            DeviceError: It does so already, or cannot with these ranges.
        """
        step = f"note writes to pages of {page_size} bytes in {len(ranges)} ranges"
        with self._doing(step):
            self._calls.start_dma_logging(self._fileno, page_size, ranges)

    def stop_dma_logging(self) -> None:
        """Notes it no longer.

        Raises:
            DeviceError: It did not.
        """
        with self._doing("stop noting writes"):
            self._calls.stop_dma_logging(self._fileno)

    def report_dma(self, page_size: int, iova: int, length: int) -> bytes:
        """What it wrote since it was last asked, a bit for each page.

        Raises:
            DeviceError: It notes nothing, or there is no such range. What it has noted is lost
                then: all memory may have been written.
        """
        step = f"report writes to {length} bytes at {iova:#x} by pages of {page_size} bytes"
        if page_size <= 0 or length <= 0 or iova < 0:
            raise DeviceError(self._name, step, EINVAL)
        with self._doing(step):
            return self._calls.report_dma(self._fileno, page_size, iova, length)

    # Errors

    @contextmanager
    def _doing(self, step: str) -> Iterator[None]:
        try:
            yield
        except (KernelError, OSError) as error:
            raise DeviceError(self._name, step, _errno_of(error)) from error


def _errno_of(error: KernelError | OSError) -> int:
    # A call that failed has one; an OSError made by hand need not.
    return error.errno or EIO
