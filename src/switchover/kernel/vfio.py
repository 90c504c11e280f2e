"""The migration of a VFIO device: the ioctls of its descriptors, each as it is.

Source: include/uapi/linux/vfio.h. Linux 5.18 brought the states, 6.1 the DMA log, 6.2 what can be
read while a device runs, 6.6 devices that are opened by themselves. NO HARDWARE WAS TRIED: the
numbers and sizes are held against the header, and the calls against nothing that is a device.
"""

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from .ioctl import io, ioctl

_TYPE = ord(";")
_BASE = 100

VFIO_DEVICE_GET_REGION_INFO = io(_TYPE, _BASE + 8)
VFIO_DEVICE_RESET = io(_TYPE, _BASE + 11)
VFIO_DEVICE_FEATURE = io(_TYPE, _BASE + 17)
VFIO_DEVICE_BIND_IOMMUFD = io(_TYPE, _BASE + 18)
VFIO_MIG_GET_PRECOPY_INFO = io(_TYPE, _BASE + 21)

_FEATURE_GET = 1 << 16
_FEATURE_SET = 1 << 17

PCI_CONFIG_REGION_INDEX = 7
PRECOPY_INFO_REINIT = 1 << 0
"""In the flags of a `PrecopySizes`, if the device was told MIG_PRECOPY_INFOv2."""

_WORD_BITS = 64


class Feature(IntEnum):
    """What VFIO_DEVICE_FEATURE is about (VFIO_DEVICE_FEATURE_*)."""

    MIGRATION = 1
    MIG_DEVICE_STATE = 2
    DMA_LOGGING_START = 6
    DMA_LOGGING_STOP = 7
    DMA_LOGGING_REPORT = 8
    MIG_DATA_SIZE = 9
    MIG_PRECOPY_INFOv2 = 12


# The data of the features.


class _Migration(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64),)


class _MigState(ctypes.Structure):
    _fields_ = (("device_state", ctypes.c_uint32), ("data_fd", ctypes.c_int32))


class _MigDataSize(ctypes.Structure):
    _fields_ = (("stop_copy_length", ctypes.c_uint64),)


class _LoggingControl(ctypes.Structure):
    _fields_ = (
        ("page_size", ctypes.c_uint64),
        ("num_ranges", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("ranges", ctypes.c_uint64),
    )


class _LoggingRange(ctypes.Structure):
    _fields_ = (("iova", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _LoggingReport(ctypes.Structure):
    _fields_ = (
        ("iova", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("page_size", ctypes.c_uint64),
        ("bitmap", ctypes.c_uint64),
    )


# The arguments of the calls. Each begins with its size.


class _Feature(ctypes.Structure):
    _fields_: ClassVar[Sequence[tuple[str, type[Any]]]] = (
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )


class _MigrationFeature(_Feature):
    _fields_ = (("data", _Migration),)


class _MigStateFeature(_Feature):
    _fields_ = (("data", _MigState),)


class _MigDataSizeFeature(_Feature):
    _fields_ = (("data", _MigDataSize),)


class _LoggingControlFeature(_Feature):
    _fields_ = (("data", _LoggingControl),)


class _LoggingReportFeature(_Feature):
    _fields_ = (("data", _LoggingReport),)


class _RegionInfo(ctypes.Structure):
    _fields_ = (
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("index", ctypes.c_uint32),
        ("cap_offset", ctypes.c_uint32),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
    )


class _BindIommufd(ctypes.Structure):
    """Without the token that a newer kernel takes: it asks for no more than this."""

    _fields_ = (
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("iommufd", ctypes.c_int32),
        ("out_devid", ctypes.c_uint32),
    )


class _PrecopyInfo(ctypes.Structure):
    _fields_ = (
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("initial_bytes", ctypes.c_uint64),
        ("dirty_bytes", ctypes.c_uint64),
    )


class PrecopySizes(NamedTuple):
    """What VFIO_MIG_GET_PRECOPY_INFO tells."""

    initial_bytes: int
    dirty_bytes: int
    flags: int


class Region(NamedTuple):
    """A part of a device, as it can be reached through its descriptor."""

    size: int
    offset: int


class Ioctl(Protocol):
    """Makes an ioctl, as `kernel.ioctl.ioctl` does."""

    def __call__(
        self, fileno: int, name: str, number: int, argument: ctypes.Structure | None = None
    ) -> int:
        """Changes the argument and returns a number, or raises KernelError."""
        ...


class VfioCalls:
    """The calls. Each raises KernelError, with its name, if the kernel refuses it.

    Args:
        ioctl: What makes them.
    """

    def __init__(self, ioctl: Ioctl = ioctl) -> None:
        self._ioctl = ioctl

    # On a device's descriptor

    def bind_iommufd(self, fileno: int, iommufd: int) -> int:
        """Gives a device that was opened by itself to an iommufd, before all other calls.

        Returns:
            Its id there.
        """
        argument = _BindIommufd(ctypes.sizeof(_BindIommufd), 0, iommufd)
        self._ioctl(fileno, "VFIO_DEVICE_BIND_IOMMUFD", VFIO_DEVICE_BIND_IOMMUFD, argument)
        return int(argument.out_devid)

    def reset(self, fileno: int) -> None:
        """Resets a device; its state is RUNNING then."""
        self._ioctl(fileno, "VFIO_DEVICE_RESET", VFIO_DEVICE_RESET)

    def region(self, fileno: int, index: int) -> Region:
        """Where a region of a device is; its size is 0 if there is none."""
        argument = _RegionInfo(ctypes.sizeof(_RegionInfo), 0, index)
        self._ioctl(fileno, "VFIO_DEVICE_GET_REGION_INFO", VFIO_DEVICE_GET_REGION_INFO, argument)
        return Region(argument.size, argument.offset)

    def migration_flags(self, fileno: int) -> int:
        """What a device can do (VFIO_MIGRATION_*)."""
        argument = _MigrationFeature()
        self._get(fileno, Feature.MIGRATION, argument)
        return int(argument.data.flags)

    def device_state(self, fileno: int) -> int:
        """Where a device is (VFIO_DEVICE_STATE_*)."""
        argument = _MigStateFeature(data=_MigState(data_fd=-1))
        self._get(fileno, Feature.MIG_DEVICE_STATE, argument)
        return int(argument.data.device_state)

    def set_device_state(self, fileno: int, state: int) -> int:
        """Moves a device to a state.

        Returns:
            The descriptor of a data session that has begun, which is the caller's; else -1.
        """
        argument = _MigStateFeature(data=_MigState(state, -1))
        self._set(fileno, Feature.MIG_DEVICE_STATE, argument)
        return int(argument.data.data_fd)

    def stop_copy_length(self, fileno: int) -> int:
        """The estimated bytes of what a device gives once it is stopped."""
        argument = _MigDataSizeFeature()
        self._get(fileno, Feature.MIG_DATA_SIZE, argument)
        return int(argument.data.stop_copy_length)

    def enable_precopy_flags(self, fileno: int) -> None:
        """Has the flags of `precopy_sizes` mean something, until the device is closed."""
        self._set(fileno, Feature.MIG_PRECOPY_INFOv2, _Feature())

    def start_dma_logging(
        self, fileno: int, page_size: int, ranges: Sequence[tuple[int, int]]
    ) -> int:
        """Has a device note what it writes into ranges of an address and a length.

        Returns:
            The page size that it has chosen; the one that was asked for is a hint.
        """
        array = (_LoggingRange * len(ranges))(*(_LoggingRange(*each) for each in ranges))
        control = _LoggingControl(page_size, len(ranges), 0, ctypes.addressof(array))
        argument = _LoggingControlFeature(data=control)
        self._set(fileno, Feature.DMA_LOGGING_START, argument)
        return int(argument.data.page_size)

    def stop_dma_logging(self, fileno: int) -> None:
        """Has it note that no longer."""
        self._set(fileno, Feature.DMA_LOGGING_STOP, _Feature())

    def report_dma(self, fileno: int, page_size: int, iova: int, length: int) -> bytes:
        """What a device wrote to since it was last asked.

        Args:
            fileno: The device.
            page_size: The unit, in bytes, from 1 on.
            iova: The first address.
            length: Bytes from there on.

        Returns:
            A bit for each page, little-endian, in whole 64-bit words.
        """
        pages = -(-length // page_size)
        # The kernel sets bits, and clears none.
        bitmap = np.zeros(-(-pages // _WORD_BITS), np.uint64)
        report = _LoggingReport(iova, length, page_size, bitmap.ctypes.data)
        self._get(fileno, Feature.DMA_LOGGING_REPORT, _LoggingReportFeature(data=report))
        return bitmap.astype("<u8", copy=False).tobytes()

    # On the descriptor of a data session

    def precopy_sizes(self, data_fileno: int) -> PrecopySizes:
        """What a device that runs has to give now."""
        argument = _PrecopyInfo(ctypes.sizeof(_PrecopyInfo))
        self._ioctl(data_fileno, "VFIO_MIG_GET_PRECOPY_INFO", VFIO_MIG_GET_PRECOPY_INFO, argument)
        return PrecopySizes(argument.initial_bytes, argument.dirty_bytes, argument.flags)

    # Both ways of the one call that has many

    def _get(self, fileno: int, feature: Feature, argument: _Feature) -> None:
        self._call(fileno, feature, _FEATURE_GET, argument)

    def _set(self, fileno: int, feature: Feature, argument: _Feature) -> None:
        self._call(fileno, feature, _FEATURE_SET, argument)

    def _call(self, fileno: int, feature: Feature, operation: int, argument: _Feature) -> None:
        argument.argsz = ctypes.sizeof(argument)
        argument.flags = operation | feature
        name = f"VFIO_DEVICE_FEATURE_{feature.name}"
        self._ioctl(fileno, name, VFIO_DEVICE_FEATURE, argument)
