"""One VFIO device, as its guest has it and as a migration moves it.

It asks the device for its states and sizes in the order in which QEMU does (hw/vfio/migration.c).
What goes on the wire is not known here.
"""

import threading
from collections.abc import Callable

from ..errors import DeviceError, GuestError
from ..model.vfio import PRE_COPY_STATES, PrecopyInfo, VfioFlag, VfioState, vfio_idstr
from .device import PrecopyDevice

READ_BYTES = 1 << 20
"""As much as QEMU reads at once."""
UNKNOWN_STOP_COPY_BYTES = 100 << 30
"""What a device that cannot say is taken to have, as in QEMU: so much fits in no downtime."""

_NOTHING = PrecopyInfo(0, 0)


class VfioMigration:
    """A device of a guest.

    The guest calls `prepare_stop` and `stop` when it has stopped its CPUs, and `cont` before it
    lets them run on; the migration calls the rest, from a thread of its own, which may have to wait
    for the other until the device has done what it was asked for. A device that refuses says so by
    `DeviceError`.

    Args:
        name: Its name in the guest.
        device: What it is.

    Attributes:
        idstr: Its name in the stream.
        device: What it is.
        initial_bytes: Initial data that is still to be read, as far as it is known.
        dirty_bytes: Other data that can be read now, as far as it is known.
        is_reinit: Whether new initial data has come up that nobody has dealt with.
    """

    def __init__(self, name: str, device: PrecopyDevice) -> None:
        self.idstr = vfio_idstr(name)
        self.device = device
        self.initial_bytes = 0
        self.dirty_bytes = 0
        self.is_reinit = False
        self._is_saving = False
        self._lock = threading.RLock()

    @property
    def has_precopy(self) -> bool:
        """Whether its state can be read while it runs."""
        return VfioFlag.PRE_COPY in self.device.flags

    @property
    def is_in_precopy(self) -> bool:
        """Whether it is being read while it runs."""
        return self.device.state in PRE_COPY_STATES

    # The guest

    def prepare_stop(self) -> None:
        """Has it leave other devices alone; every device does before one of them is stopped."""
        if VfioFlag.P2P not in self.device.flags:
            return
        with self._lock:
            if self.device.state == VfioState.PRE_COPY:
                self.device.set_state(VfioState.PRE_COPY_P2P)
                # The last moment at which it can be asked.
                self.refresh()
            elif self.device.state == VfioState.RUNNING:
                self.device.set_state(VfioState.RUNNING_P2P)

    def stop(self) -> None:
        """Stops it; one that is being read can be read on."""
        with self._lock:
            if self.is_in_precopy:
                if VfioFlag.P2P not in self.device.flags:
                    self.refresh()
                self.device.set_state(VfioState.STOP_COPY)
            elif self.device.state not in (VfioState.STOP, VfioState.STOP_COPY):
                self.device.set_state(VfioState.STOP)

    def cont(self) -> None:
        """Lets it run. One that cannot is reset, as QEMU does it: it has lost its state then."""
        with self._lock:
            if self.device.state != VfioState.PRE_COPY:
                self._run()

    def _run(self) -> None:
        try:
            self.device.set_state(VfioState.RUNNING)
        except DeviceError:
            self.device.reset()

    # The source

    def begin_save(self) -> None:
        """Makes it ready to be read: at once if it runs and can, else once it is stopped."""
        with self._lock:
            self._is_saving = True
            self.is_reinit = False
            self.refresh()
            # It is all new.
            self.is_reinit = False
            state = self.device.state
            if state not in PRE_COPY_STATES | {VfioState.RUNNING, VfioState.STOP}:
                raise GuestError(
                    f"device '{self.idstr}' cannot be migrated from state {state.name}: expected "
                    "RUNNING or STOP"
                )

    def refresh(self) -> None:
        """Asks it what can be read; one that was stopped and runs again is read anew."""
        with self._lock:
            if self._is_saving and self.has_precopy and self.device.state == VfioState.RUNNING:
                self.device.set_state(VfioState.PRE_COPY)
                self.is_reinit = True
            info = self.device.precopy_info() if self.is_in_precopy else _NOTHING
            self.initial_bytes, self.dirty_bytes = info.initial_bytes, info.dirty_bytes
            self.is_reinit = self.is_reinit or info.is_reinit

    def stop_copy_bytes(self) -> int:
        """What there may be to be read once it is stopped."""
        with self._lock:
            try:
                return self.device.stop_copy_bytes()
            except DeviceError:
                return UNKNOWN_STOP_COPY_BYTES

    def read_precopy(self, buffer: memoryview) -> int:
        """Reads the next of its state while it runs.

        Returns:
            How many bytes; 0 where there is nothing for now.
        """
        with self._lock:
            return self._read(buffer) if self.is_in_precopy else 0

    def read_stop_copy(self, buffer: memoryview) -> int:
        """Reads the next of its state once it is stopped.

        Returns:
            How many bytes; 0 where that was all.
        """
        with self._lock:
            if self.device.state != VfioState.STOP_COPY:
                self.device.set_state(VfioState.STOP_COPY)
            return self._read(buffer)

    def _read(self, buffer: memoryview) -> int:
        size = self.device.read_into(buffer) or 0
        if size == 0:
            self.initial_bytes = self.dirty_bytes = 0
        initial = min(self.initial_bytes, size)
        self.initial_bytes -= initial
        self.dirty_bytes -= min(self.dirty_bytes, size - initial)
        return size

    def end_save(self, *, is_moved: bool) -> None:
        """It is read no longer.

        Args:
            is_moved: Whether the destination has it. Else it goes on here, now or by `cont`.
        """
        with self._lock:
            self._is_saving = False
            if self.device.state == VfioState.STOP_COPY:
                self.device.set_state(VfioState.STOP)
            elif self.is_in_precopy and not is_moved:
                self._run()

    # The destination

    def begin_load(self) -> None:
        """Makes it ready to be written, whatever was begun before."""
        with self._lock:
            if self.device.state == VfioState.RESUMING:
                self.device.reset()
            self.device.set_state(VfioState.RESUMING)

    def write(self, data: memoryview) -> None:
        """Gives it the next of its state."""
        with self._lock:
            if self.device.state != VfioState.RESUMING:
                raise GuestError(
                    f"device '{self.idstr}' takes no data in state {self.device.state.name}"
                )
            self.device.write(data)

    def when_ready(self, ready: Callable[[], None]) -> None:
        """Calls `ready` once the device is ready for the switchover, its initial data written."""
        self.device.when_ready(ready)

    def end_load(self) -> None:
        """It has everything; one whose state makes no sense says so now and not once it runs."""
        with self._lock:
            self.device.set_state(VfioState.STOP)
