"""What a device with VFIO's migration interface can be asked, whoever plays it.

The names are the kernel's (include/uapi/linux/vfio.h), and so is what each call means.
"""

from collections.abc import Sequence
from typing import Protocol

from ..model.vfio import PciConfig, PrecopyInfo, VfioFlag, VfioState


class PrecopyDevice(Protocol):
    """A device whose state can be read, most of it while it runs.

    Every call may raise `DeviceError`, whose `errno` is the kernel's; none blocks for longer than a
    real device does, which may be seconds.
    """

    @property
    def flags(self) -> VfioFlag:
        """What it can do."""
        ...

    @property
    def state(self) -> VfioState:
        """Where it is."""
        ...

    def set_state(self, state: VfioState) -> None:
        """Asks for a state (VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE); see `model.vfio.find_way`.

        Raises:
            DeviceError: It cannot go there, and is where `state` now says.
        """
        ...

    def reset(self) -> None:
        """Forgets everything, and is RUNNING (VFIO_DEVICE_RESET)."""
        ...

    def precopy_info(self) -> PrecopyInfo:
        """What can be read now (VFIO_MIG_GET_PRECOPY_INFO); in the PRE_COPY states only."""
        ...

    def stop_copy_bytes(self) -> int:
        """What there may be to read once it is stopped (VFIO_DEVICE_FEATURE_MIG_DATA_SIZE)."""
        ...

    def read_into(self, buffer: memoryview) -> int | None:
        """Reads the next of its state, in the saving states.

        Returns:
            How many bytes; in STOP_COPY 0 where that was all; in the PRE_COPY states None where
            there is nothing for now (ENOMSG).
        """
        ...

    def write(self, data: memoryview) -> None:
        """Gives it the next of its state, all of it, in RESUMING."""
        ...

    def when_ready(self, ready: "Ready") -> None:
        """Calls `ready` once it is ready for the switchover.

        Called when its initial data was written. A kernel's device is ready when the write
        returns; one of another kind may call later, from any thread.
        """
        ...

    @property
    def config(self) -> PciConfig:
        """Its PCI configuration."""
        ...

    @config.setter
    def config(self, config: PciConfig) -> None: ...

    def start_dma_logging(self, page_size: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Notes from now on what it writes into memory (VFIO_DEVICE_FEATURE_DMA_LOGGING_START).

        Args:
            page_size: The unit, in bytes.
            ranges: Where, as addresses of the device and lengths in bytes.
        """
        ...

    def stop_dma_logging(self) -> None:
        """Notes it no longer (VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP)."""
        ...

    def report_dma(self, page_size: int, iova: int, length: int) -> bytes:
        """What it wrote since it was last asked (VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT).

        Args:
            page_size: The unit, in bytes.
            iova: The first address.
            length: Bytes from there on.

        Returns:
            A bit for each page, little-endian, in whole 64-bit words.
        """
        ...


class Ready(Protocol):
    """Told that a device is ready for the switchover."""

    def __call__(self) -> None:
        """It is."""
        ...
