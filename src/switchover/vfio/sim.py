"""`vfio-sim`: a SIMULATED device with the kernel's VFIO migration interface. No hardware is in it.

It stands for a device such as a network card's virtual function, whose driver cannot go on at the
destination before it has allocated what the initial data asks for. What is real: the bytes of its
state, which travel, change while it runs, and arrive; and the destination's memory, which is
allocated, touched and indexed. What is an input and no measurement: the rest of the time. How long
the allocation takes in all, and how fast the device gives and takes its state, is what the options
say, and it is waited for. It can also be told to fail, and to tell wrong sizes.
"""

import hashlib
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from errno import EBADF, EINVAL, ENOTTY

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError, GuestError
from ..model.ramblock import TARGET_PAGE_SIZE, Bytes
from ..model.vfio import (
    DATA_STATES,
    PRE_COPY_STATES,
    PciConfig,
    PrecopyInfo,
    VfioFlag,
    VfioState,
    find_way,
    opens_data,
)
from .device import Ready
from .dma_log import DmaLog
from .options import DataSize, SimOptions, Step, Told
from .rate import Rate
from .records import RecordReader, whole_size
from .saving import Saving, page_count

_PAGE_WORDS = TARGET_PAGE_SIZE // 8
_PATTERN = np.uint64(0x9E37_79B9_7F4A_7C15)
"""Odd, so that no two words of a state are equal."""

_CONFIG_BYTES = 256
_VENDOR, _DEVICE = b"VS", b"IM"
"""In memory they read VSIM; as numbers, 0x5356 and 0x4d49, they are nobody's in the list of PCI ids
(2023-04-11), so that no driver takes the device for one that it knows."""
_CLASS = 0xFF
"""A device that fits in no class."""
_CONFIG_HEADER = struct.Struct("<2s2sHHBBBB")
"""Vendor, device, command, status, revision, interface, subclass, class."""


def _plain_config() -> PciConfig:
    """No registers to be mapped, no interrupts, no capabilities."""
    ids = _CONFIG_HEADER.pack(_VENDOR, _DEVICE, 0, 0, 1, 0, 0, _CLASS)
    return PciConfig(ids.ljust(_CONFIG_BYTES, b"\0"))


def _words(options: SimOptions, is_empty: bool) -> NDArray[np.uint64]:
    """The memory of a state, in whole pages, each of which is really there."""
    count = page_count(options.state_bytes) * _PAGE_WORDS
    first = (zlib.crc32(options.id.encode()) << 32) + 1
    try:
        if is_empty:
            words = np.empty(count, np.uint64)
            words[:] = 0
            return words
        words = np.arange(first, first + count, dtype=np.uint64)
    except (MemoryError, ValueError) as error:
        raise GuestError(
            f"the {options.state_bytes} bytes of device '{options.id}' do not fit in memory"
        ) from error
    words *= _PATTERN
    return words


class VfioSim:
    """The simulated device, a `PrecopyDevice`. One thread at a time may call it.

    Where Linux has no data descriptor that could be used so, the errno is EBADF; else what does
    not fit is EINVAL. What the options say to fail has the errno that they say.

    Args:
        options: What it is like.
        is_empty: Whether its state is all zero, as a destination's is; else it is a pattern that
            its name gives, and no two words of it are equal.
        clock: The time in nanoseconds, monotonic.
        sleep: Waits for seconds: the simulated part of what takes time.

    Attributes:
        options: What it is like.
        flags: What it can do.
        memory: The bytes of its state. What a destination was given is there.
        config: Its PCI configuration.
        allocated_ns: When the destination had allocated for the initial data that it has; None
            before, and again where new initial data begins.
    """

    def __init__(
        self,
        options: SimOptions,
        *,
        is_empty: bool = False,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.options = options
        self.flags = VfioFlag.STOP_COPY
        if options.has_precopy:
            self.flags |= VfioFlag.PRE_COPY
        if options.has_p2p:
            self.flags |= VfioFlag.P2P
        self.config = _plain_config()
        self.allocated_ns: int | None = None
        self._clock = clock
        self._sleep = sleep
        words = _words(options, is_empty)
        self._counters = words[::_PAGE_WORDS]
        self.memory: Bytes = words.view(np.uint8)[: options.state_bytes]
        self._state = VfioState.RUNNING
        self._saving: Saving | None = None
        self._loading: RecordReader | None = None
        self._source = Rate(options.save_rate, clock, sleep)
        self._destination = Rate(options.load_rate, clock, sleep)
        self._dma_log = DmaLog(options.id)
        self._resources: Bytes | None = None
        self._index: NDArray[np.int64] | None = None

    @property
    def state(self) -> VfioState:
        """Where it is."""
        return self._state

    def digest(self) -> str:
        """A hash of its state, by which two devices can be compared."""
        return hashlib.sha256(self.memory.data).hexdigest()

    # States

    def set_state(self, state: VfioState) -> None:
        """Goes to a state, one single move at a time.

        Raises:
            DeviceError: There is no way, or a destination that does not have its whole state is to
                leave RESUMING (EINVAL); or a move is to fail. It stays in the state that it has
                reached.
        """
        way = find_way(self._state, state, self.flags)
        if way is None:
            raise self._error(f"go from {self._state.name} to {state.name}", EINVAL)
        self._advance()
        for following in way:
            self._move(following)

    def reset(self) -> None:
        """Is RUNNING, and knows nothing of a migration; its memory stays."""
        self._state = VfioState.RUNNING
        self._saving = self._loading = None
        self._resources = self._index = self.allocated_ns = None
        self._dma_log.forget()

    def _move(self, following: VfioState) -> None:
        step = f"go from {self._state.name} to {following.name}"
        self._may_fail(Step.into(following), step)
        if self._loading is not None and not self._loading.is_whole:
            raise self._error(f"{step}: its state is not whole", EINVAL)
        is_stopped = following == VfioState.STOP_COPY
        if following not in DATA_STATES:
            self._saving = self._loading = None
        elif opens_data(self._state, following):
            self._open(following)
        elif is_stopped and self._saving is not None:
            self._saving.stop()
        self._state = following

    def _open(self, following: VfioState) -> None:
        if following == VfioState.RESUMING:
            self._resources = self._index = self.allocated_ns = None
            self._loading = RecordReader(
                self.options.id, self.memory, self._on_start, self._allocate
            )
        else:
            is_stopped = following == VfioState.STOP_COPY
            self._saving = Saving(
                self.options, self.memory, self._counters, self._clock(), is_stopped
            )

    # The source

    def precopy_info(self) -> PrecopyInfo:
        """What reads still give while it runs, exactly, but for lies.

        Raises:
            DeviceError: It is in no PRE_COPY state (EINVAL), or this is to fail.
        """
        step = f"tell what there is to read in {self._state.name}"
        if self._saving is None or self._state not in PRE_COPY_STATES:
            raise self._error(step, EINVAL)
        self._may_fail(Step.PRECOPY_INFO, step)
        self._advance()
        is_reinit, self._saving.is_reinit = self._saving.is_reinit, False
        return PrecopyInfo(
            self.options.told(Told.INITIAL, self._saving.initial_size),
            self.options.told(Told.DIRTY, self._saving.dirty_size),
            is_reinit,
        )

    def stop_copy_bytes(self) -> int:
        """What reads give in all once it is stopped: exactly, or as the options have it.

        Raises:
            DeviceError: It is to be one that cannot tell (ENOTTY), or this is to fail.
        """
        step = "tell what there is to read once it is stopped"
        self._may_fail(Step.DATA_SIZE, step)
        if self.options.data_size == DataSize.ERROR:
            raise self._error(step, ENOTTY)
        self._advance()
        if self._saving is None or self.options.data_size == DataSize.WHOLE:
            size = whole_size(self.options.state_bytes, self.options.initial_bytes)
        else:
            size = self._saving.stop_copy_size
        return self.options.told(Told.STOP_COPY, size)

    def read_into(self, buffer: memoryview) -> int | None:
        """Reads the next of its state: of one record at most, so never across the initial data.

        Waits until the bytes are due.

        Returns:
            How many bytes; in STOP_COPY 0 where that was all; in the PRE_COPY states None where
            there is nothing for now. 0 for a buffer that takes nothing, as in Linux.

        Raises:
            DeviceError: It is in no saving state (EBADF), or this is to fail.
        """
        step = f"be read in {self._state.name}"
        if self._saving is None:
            raise self._error(step, EBADF)
        self._may_fail(Step.READ, step)
        if not len(buffer):
            return 0
        self._source.skip()
        self._advance()
        size = self._saving.read_into(np.frombuffer(buffer, np.uint8))
        if size == 0:
            return None if self._state in PRE_COPY_STATES else 0
        self._source.wait(size)
        return size

    def _advance(self) -> None:
        if self._saving is not None:
            self._saving.advance(self._clock())

    # The destination

    def write(self, data: memoryview) -> None:
        """Takes the next of its state, and waits until the bytes are due.

        The write that completes the initial data allocates, which takes its time.

        Raises:
            DeviceError: It is not in RESUMING (EBADF), the data does not fit (EINVAL), or this is
                to fail.
        """
        step = f"be written in {self._state.name}"
        if self._loading is None:
            raise self._error(step, EBADF)
        self._may_fail(Step.WRITE, step)
        if len(data):
            self._destination.skip()
            self._loading.write(np.frombuffer(data, np.uint8))
            self._destination.wait(len(data))

    def when_ready(self, ready: Ready) -> None:
        """Calls `ready` at once, unless it is one that never gets ready."""
        if not self.options.never_acks:
            ready()

    def _on_start(self) -> None:
        self._resources = self._index = self.allocated_ns = None

    def _allocate(self) -> None:
        began_ns = self._clock()
        if self.options.allocate_ns:
            self._resources = np.ones(self.options.state_bytes, np.uint8)
            self._index = np.argsort(self._counters)
        left_ns = self.options.allocate_ns - (self._clock() - began_ns)
        if left_ns > 0:
            self._sleep(left_ns / 1e9)  # the simulated part
        self.allocated_ns = self._clock()
        self._destination.skip()

    # DMA logging

    def note_dma(self, iova: int, length: int) -> None:
        """Has it write into the guest's memory there, as far as its log is concerned."""
        self._dma_log.note(iova, length)

    def start_dma_logging(self, page_size: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Notes from now on what it writes into memory.

        Raises:
            DeviceError: As `DmaLog.start`.
        """
        self._dma_log.start(page_size, ranges)

    def stop_dma_logging(self) -> None:
        """Notes it no longer.

        Raises:
            DeviceError: It did not (EINVAL).
        """
        self._dma_log.stop()

    def report_dma(self, page_size: int, iova: int, length: int) -> bytes:
        """What it wrote since it was last asked, a bit for each page.

        Raises:
            DeviceError: As `DmaLog.report`.
        """
        return self._dma_log.report(page_size, iova, length)

    # Errors

    def _error(self, step: str, errno: int) -> DeviceError:
        return DeviceError(self.options.id, step, errno)

    def _may_fail(self, step: Step, sentence: str) -> None:
        failure = self.options.failure
        if failure is not None and failure.step == step:
            raise self._error(sentence, failure.errno)
