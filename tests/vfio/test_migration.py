"""The driver of one device: the states it asks for, what it makes of sizes, what refusals leave."""

import errno
from collections.abc import Callable
from itertools import pairwise

import pytest
from tests.vfio.invented import MIB, InventedTime

from switchover.errors import DeviceError, GuestError
from switchover.model.vfio import PrecopyInfo, VfioFlag, VfioState
from switchover.vfio.migration import UNKNOWN_STOP_COPY_BYTES, VfioMigration
from switchover.vfio.options import (
    DataSize,
    Failure,
    Lie,
    SimOptions,
    Step,
    Told,
)
from switchover.vfio.records import HEADER, whole_size
from switchover.vfio.sim import VfioSim

S = VfioState
STATE, INITIAL = 20_000, 5000
INITIAL_SIZE = 2 * HEADER.size + INITIAL
"""What the initial data takes: START, and a record."""


class Watched(VfioSim):
    """Notes what it is asked for, and where it goes."""

    def __init__(self, options: SimOptions, time: InventedTime, *, is_empty: bool = False) -> None:
        super().__init__(options, is_empty=is_empty, clock=time.clock, sleep=time.sleep)
        self.asked: list[VfioState] = []
        self.went: list[VfioState] = []
        self.resets = 0

    def set_state(self, state: VfioState) -> None:
        self.asked.append(state)
        super().set_state(state)

    def _move(self, following: VfioState) -> None:
        super()._move(following)
        self.went.append(following)

    def reset(self) -> None:
        self.resets += 1
        super().reset()


class Driven:
    """A driver and its device.

    Args:
        has_precopy: Whether it has PRE_COPY.
        has_p2p: Whether it has P2P.
        failing: The step that fails.
        lies: Sizes that are wrong.
        reinit_ns: When its initial data is new again.
        dirty_rate: What it rewrites.
        data_size: What it says once it is stopped.
        is_empty: Whether it is a destination's.
    """

    def __init__(
        self,
        *,
        has_precopy: bool = True,
        has_p2p: bool = True,
        failing: Step | None = None,
        lies: tuple[Lie, ...] = (),
        reinit_ns: tuple[int, ...] = (),
        dirty_rate: int = 0,
        data_size: DataSize = DataSize.LEFT,
        is_empty: bool = False,
    ) -> None:
        self.time = InventedTime()
        options = SimOptions(
            "nic",
            STATE,
            INITIAL,
            allocate_ns=0,
            has_precopy=has_precopy,
            has_p2p=has_p2p,
            failure=None if failing is None else Failure(failing, errno.EIO),
            lies=lies,
            reinit_ns=reinit_ns,
            dirty_rate=dirty_rate,
            data_size=data_size,
        )
        self.sim = Watched(options, self.time, is_empty=is_empty)
        self.driver = VfioMigration("nic", self.sim)
        self.buffer = memoryview(bytearray(MIB))

    def state(self) -> VfioState:
        return self.sim.state

    @property
    def sizes(self) -> tuple[int, int]:
        return self.driver.initial_bytes, self.driver.dirty_bytes

    def stop(self) -> None:
        """As a guest does."""
        self.driver.prepare_stop()
        self.driver.stop()

    def stop_once(self) -> list[VfioState]:
        """Stops it, and says where it went."""
        before = len(self.sim.went)
        self.stop()
        return self.sim.went[before:]

    def drain(self, read: Callable[[memoryview], int]) -> list[bytes]:
        pieces = []
        while size := read(self.buffer):
            pieces.append(bytes(self.buffer[:size]))
        return pieces


def saving(**options: object) -> Driven:
    driven = Driven(**options)  # type: ignore[arg-type]
    driven.driver.begin_save()
    return driven


# The source


def test_names() -> None:
    driven = Driven()
    assert driven.driver.idstr == "nic/vfio"
    assert driven.driver.device is driven.sim
    assert driven.driver.has_precopy and not driven.driver.is_in_precopy
    assert not Driven(has_precopy=False).driver.has_precopy


@pytest.mark.parametrize(
    ("has_precopy", "has_p2p", "way"),
    [
        (True, True, [S.PRE_COPY, S.PRE_COPY_P2P, S.STOP_COPY, S.STOP]),
        (True, False, [S.PRE_COPY, S.STOP_COPY, S.STOP]),
        (False, True, [S.RUNNING_P2P, S.STOP, S.STOP_COPY, S.STOP]),
        (False, False, [S.STOP, S.STOP_COPY, S.STOP]),
    ],
)
def test_way_through_a_migration(has_precopy: bool, has_p2p: bool, way: list[VfioState]) -> None:
    driven = saving(has_precopy=has_precopy, has_p2p=has_p2p)
    read = b"".join(driven.drain(driven.driver.read_precopy))
    assert bool(read) == has_precopy
    driven.stop()
    read += b"".join(driven.drain(driven.driver.read_stop_copy))
    assert len(read) == whole_size(STATE, INITIAL)
    driven.driver.end_save(is_moved=True)
    assert driven.sim.went == way
    assert driven.sim.resets == 0
    destination = Driven(has_precopy=has_precopy, has_p2p=has_p2p, is_empty=True)
    destination.driver.begin_load()
    destination.driver.write(memoryview(read))
    destination.driver.end_load()
    destination.driver.cont()
    to_stop = [S.RUNNING_P2P, S.STOP] if has_p2p else [S.STOP]
    to_run = [S.RUNNING_P2P, S.RUNNING] if has_p2p else [S.RUNNING]
    assert destination.sim.went == [*to_stop, S.RESUMING, S.STOP, *to_run]
    assert destination.sim.digest() == driven.sim.digest()


@pytest.mark.parametrize("has_precopy", [False, True])
@pytest.mark.parametrize("has_p2p", [False, True])
def test_guest_that_is_stopped_before(has_precopy: bool, has_p2p: bool) -> None:
    driven = Driven(has_precopy=has_precopy, has_p2p=has_p2p)
    driven.stop()
    driven.driver.begin_save()
    assert driven.state() == S.STOP
    assert driven.sizes == (0, 0)
    assert driven.driver.stop_copy_bytes() == whole_size(STATE, INITIAL)
    assert driven.driver.read_precopy(driven.buffer) == 0
    driven.stop()
    assert driven.state() == S.STOP
    read = b"".join(driven.drain(driven.driver.read_stop_copy))
    assert len(read) == whole_size(STATE, INITIAL)
    assert driven.state() == S.STOP_COPY
    driven.driver.end_save(is_moved=False)
    assert driven.state() == S.STOP
    driven.driver.cont()
    assert driven.state() == S.RUNNING


@pytest.mark.parametrize("has_p2p", [False, True])
def test_guest_that_is_stopped_meanwhile_is_read_on(has_p2p: bool) -> None:
    driven = saving(has_p2p=has_p2p)
    read = driven.driver.read_precopy(driven.buffer)
    driven.stop()
    driven.stop()  # Once more is no more.
    assert driven.state() == S.STOP_COPY
    assert driven.driver.read_precopy(driven.buffer) == 0
    driven.driver.refresh()
    assert driven.sizes == (0, 0)
    rest = sum(map(len, driven.drain(driven.driver.read_stop_copy)))
    assert read + rest == whole_size(STATE, INITIAL)


@pytest.mark.parametrize("has_p2p", [False, True])
def test_cancel_lets_it_run_on(has_p2p: bool) -> None:
    driven = saving(has_p2p=has_p2p)
    driven.driver.read_precopy(driven.buffer)
    driven.driver.end_save(is_moved=False)
    assert driven.sim.went == [S.PRE_COPY, S.RUNNING]
    # It is nobody's business any more.
    driven.driver.refresh()
    assert driven.state() == S.RUNNING
    assert driven.sizes == (0, 0)
    driven.driver.end_save(is_moved=False)
    assert driven.state() == S.RUNNING


def test_cancel_behind_the_stop_leaves_it_to_the_guest() -> None:
    driven = saving()
    driven.stop()
    driven.driver.end_save(is_moved=False)
    assert driven.state() == S.STOP
    driven.driver.cont()
    assert driven.sim.went[-2:] == [S.RUNNING_P2P, S.RUNNING]


def test_cancel_between_prepare_and_stop() -> None:
    driven = saving()
    driven.driver.prepare_stop()
    assert driven.state() == S.PRE_COPY_P2P
    driven.driver.end_save(is_moved=False)
    assert driven.state() == S.RUNNING


def test_device_that_has_moved_is_left_as_it_is() -> None:
    driven = saving()
    driven.driver.end_save(is_moved=True)
    assert driven.state() == S.PRE_COPY


@pytest.mark.parametrize("has_p2p", [False, True])
def test_machine_that_was_stopped_and_runs_again_is_read_anew(has_p2p: bool) -> None:
    driven = saving(has_p2p=has_p2p)
    driven.drain(driven.driver.read_precopy)
    assert driven.sizes == (0, 0)
    driven.stop()
    driven.driver.cont()
    assert driven.state() == S.RUNNING
    assert not driven.driver.is_reinit
    driven.driver.refresh()
    assert driven.state() == S.PRE_COPY
    assert driven.driver.is_reinit
    assert driven.sizes == (INITIAL_SIZE, 0)
    read = sum(map(len, driven.drain(driven.driver.read_precopy)))
    driven.stop()
    read += sum(map(len, driven.drain(driven.driver.read_stop_copy)))
    assert read == whole_size(STATE, INITIAL)


def test_machine_that_is_let_run_without_having_stopped_is_not_read_anew() -> None:
    driven = saving()
    driven.driver.cont()
    assert driven.state() == S.PRE_COPY
    driven.driver.refresh()
    assert not driven.driver.is_reinit


def test_machine_that_is_let_run_between_prepare_and_stop() -> None:
    driven = saving()
    driven.driver.prepare_stop()
    driven.driver.cont()
    assert driven.state() == S.RUNNING
    driven.driver.refresh()
    assert (driven.state(), driven.driver.is_reinit) == (S.PRE_COPY, True)


def test_stopped_machine_that_is_let_run_in_the_middle_is_read_from_then_on() -> None:
    driven = Driven()
    driven.stop()
    driven.driver.begin_save()
    driven.driver.cont()
    driven.driver.refresh()
    assert (driven.state(), driven.driver.is_reinit) == (S.PRE_COPY, True)


def test_machine_without_precopy_that_was_stopped_and_runs_again() -> None:
    driven = saving(has_precopy=False)
    driven.stop()
    driven.driver.cont()
    driven.driver.refresh()
    assert (driven.state(), driven.driver.is_reinit) == (S.RUNNING, False)
    driven.stop()
    assert sum(map(len, driven.drain(driven.driver.read_stop_copy))) == whole_size(STATE, INITIAL)


def test_second_migration_begins_anew() -> None:
    driven = saving()
    driven.drain(driven.driver.read_precopy)
    driven.driver.is_reinit = True
    driven.driver.end_save(is_moved=False)
    driven.driver.begin_save()
    assert not driven.driver.is_reinit
    assert driven.sizes == (INITIAL_SIZE, 0)


@pytest.mark.parametrize("state", [S.RUNNING_P2P, S.STOP_COPY, S.RESUMING])
def test_state_from_which_none_can_be_migrated(state: VfioState) -> None:
    driven = Driven()
    driven.sim.set_state(state)
    with pytest.raises(GuestError) as caught:
        driven.driver.begin_save()
    assert str(caught.value) == (
        f"device 'nic/vfio' cannot be migrated from state {state.name}: expected RUNNING or STOP"
    )
    assert driven.state() == state


@pytest.mark.parametrize("has_p2p", [False, True])
def test_guest_stops_and_goes_on_without_a_migration(has_p2p: bool) -> None:
    driven = Driven(has_p2p=has_p2p)
    assert driven.stop_once() == ([S.RUNNING_P2P, S.STOP] if has_p2p else [S.STOP])
    assert driven.stop_once() == []
    driven.driver.cont()
    driven.driver.cont()
    assert driven.sim.asked[-2:] == [S.RUNNING, S.RUNNING]
    assert driven.state() == S.RUNNING


# Sizes


def test_initial_data_is_subtracted_first() -> None:
    driven = saving()
    driven.driver.initial_bytes, driven.driver.dirty_bytes = 100, 50
    small = memoryview(bytearray(HEADER.size))
    assert driven.driver.read_precopy(small) == 24
    assert driven.sizes == (76, 50)
    driven.driver.initial_bytes = 10
    assert driven.driver.read_precopy(small) == 24
    assert driven.sizes == (0, 36)
    assert driven.driver.read_precopy(driven.buffer) == INITIAL
    assert driven.sizes == (0, 0)


def test_sizes_are_those_of_the_device() -> None:
    driven = saving(dirty_rate=4096)
    assert driven.sizes == (INITIAL_SIZE, 0)
    driven.driver.read_precopy(driven.buffer)
    assert driven.sizes == (INITIAL_SIZE - HEADER.size, 0)
    driven.driver.read_precopy(driven.buffer)
    assert driven.sizes == (0, 0)
    driven.time.now_ns += 10**9
    assert driven.sizes == (0, 0)
    driven.driver.refresh()
    assert driven.sizes == (0, HEADER.size + 4096)
    driven.driver.read_precopy(driven.buffer)
    assert driven.sizes == (0, 0)


@pytest.mark.parametrize("more_bytes", [-INITIAL, 7, MIB])
def test_sizes_that_are_lies_end_with_the_data(more_bytes: int) -> None:
    lies = (Lie(Told.INITIAL, more_bytes=more_bytes), Lie(Told.DIRTY, more_bytes=9))
    driven = saving(lies=lies)
    assert driven.sizes == (INITIAL_SIZE + more_bytes, 9)
    assert sum(map(len, driven.drain(driven.driver.read_precopy))) == INITIAL_SIZE
    # An empty read says more than any size.
    assert driven.sizes == (0, 0)


def test_empty_read_of_a_device_that_is_stopped_zeroes_both() -> None:
    driven = saving()
    driven.driver.prepare_stop()
    assert driven.sizes == (INITIAL_SIZE, 0)
    driven.driver.stop()
    driven.driver.dirty_bytes = 1 << 40
    driven.drain(driven.driver.read_stop_copy)
    assert driven.sizes == (0, 0)


def test_stop_copy_size() -> None:
    driven = saving()
    assert driven.driver.stop_copy_bytes() == whole_size(STATE, INITIAL)
    driven.drain(driven.driver.read_precopy)
    assert driven.driver.stop_copy_bytes() == HEADER.size + STATE - INITIAL


@pytest.mark.parametrize("is_error", [False, True])
def test_stop_copy_size_that_is_not_known_fits_in_no_downtime(is_error: bool) -> None:
    driven = Driven(data_size=DataSize.ERROR) if is_error else Driven(failing=Step.DATA_SIZE)
    assert driven.driver.stop_copy_bytes() == UNKNOWN_STOP_COPY_BYTES == 100 * 1024**3


def test_new_initial_data_is_noted_once() -> None:
    driven = saving(reinit_ns=(1000, 5000))
    driven.drain(driven.driver.read_precopy)
    driven.driver.refresh()
    assert not driven.driver.is_reinit
    driven.time.now_ns += 1000
    driven.driver.refresh()
    assert driven.driver.is_reinit
    assert driven.sizes == (INITIAL_SIZE, 0)
    # Until somebody has dealt with it, and then not again.
    driven.driver.refresh()
    assert driven.driver.is_reinit
    driven.driver.is_reinit = False
    driven.driver.refresh()
    assert not driven.driver.is_reinit
    driven.time.now_ns += 4000
    driven.driver.refresh()
    assert driven.driver.is_reinit


def test_new_initial_data_is_noted_on_the_way_to_the_stop() -> None:
    driven = saving(reinit_ns=(1000,))
    driven.drain(driven.driver.read_precopy)
    driven.time.now_ns += 1000
    driven.driver.prepare_stop()
    assert driven.driver.is_reinit
    driven.driver.stop()
    driven.driver.refresh()
    assert driven.driver.is_reinit


def test_data_that_is_there_at_the_beginning_is_not_new() -> None:
    driven = saving(reinit_ns=(0,))
    assert not driven.driver.is_reinit


class Instant:
    """A device whose sizes are what a test says; only what a driver asks for is there."""

    flags = VfioFlag.STOP_COPY | VfioFlag.PRE_COPY
    state = S.PRE_COPY

    def __init__(self, info: PrecopyInfo) -> None:
        self.info = info

    def precopy_info(self) -> PrecopyInfo:
        return self.info


def test_sizes_without_end_are_taken_as_they_are() -> None:
    info = PrecopyInfo(2**64 - 1, 2**64 - 1)
    driver = VfioMigration("", Instant(info))  # type: ignore[arg-type]
    driver.refresh()
    assert driver.idstr == "vfio"
    assert (driver.initial_bytes, driver.dirty_bytes) == (2**64 - 1, 2**64 - 1)


# The destination


def transfer(failing: Step | None = None) -> tuple[Driven, bytes]:
    """A destination that has begun, and all that it needs."""
    source = saving()
    source.stop()
    data = b"".join(source.drain(source.driver.read_stop_copy))
    destination = Driven(is_empty=True, failing=failing)
    return destination, data


def test_destination_takes_data_and_runs() -> None:
    destination, data = transfer()
    destination.driver.begin_load()
    ready: list[None] = []
    for left, right in pairwise((0, 1, 24, 1000, len(data))):
        destination.driver.write(memoryview(data)[left:right])
    destination.driver.when_ready(lambda: ready.append(None))
    assert ready == [None]
    destination.driver.end_load()
    assert destination.state() == S.STOP
    destination.driver.cont()
    assert destination.state() == S.RUNNING


@pytest.mark.parametrize("state", [S.RUNNING, S.STOP, S.RESUMING])
def test_destination_begins_from_wherever_it_is(state: VfioState) -> None:
    destination, data = transfer()
    destination.sim.set_state(state)
    if state == S.RESUMING:
        destination.driver.write(memoryview(data)[:100])
    destination.driver.begin_load()
    assert destination.state() == S.RESUMING
    assert destination.sim.resets == (state == S.RESUMING)
    destination.driver.write(memoryview(data))
    destination.driver.end_load()


def test_destination_that_has_not_got_everything() -> None:
    destination, data = transfer()
    destination.driver.begin_load()
    destination.driver.write(memoryview(data)[:-1])
    with pytest.raises(DeviceError, match="its state is not whole"):
        destination.driver.end_load()
    assert destination.state() == S.RESUMING


@pytest.mark.parametrize("state", [S.RUNNING, S.STOP, S.PRE_COPY])
def test_data_in_the_wrong_state(state: VfioState) -> None:
    driven = Driven()
    driven.sim.set_state(state)
    with pytest.raises(GuestError) as caught:
        driven.driver.write(memoryview(b"x"))
    assert not isinstance(caught.value, DeviceError)
    assert str(caught.value) == f"device 'nic/vfio' takes no data in state {state.name}"


def test_migration_is_not_begun_by_a_destination() -> None:
    """Whoever only receives is not read when it runs."""
    destination, data = transfer()
    destination.driver.begin_load()
    destination.driver.write(memoryview(data))
    destination.driver.end_load()
    destination.driver.end_save(is_moved=False)
    assert destination.state() == S.STOP
    destination.driver.cont()
    destination.driver.refresh()
    assert destination.state() == S.RUNNING


# Steps that fail


def refused(call: Callable[[], object], step: str) -> None:
    with pytest.raises(DeviceError) as caught:
        call()
    assert caught.value.errno == errno.EIO
    assert str(caught.value) == f"device 'nic' cannot {step}: Input/output error"


def test_precopy_that_fails_leaves_it_running() -> None:
    driven = Driven(failing=Step.PRE_COPY)
    refused(driven.driver.begin_save, "go from RUNNING to PRE_COPY")
    assert driven.state() == S.RUNNING
    driven.driver.end_save(is_moved=False)
    assert driven.state() == S.RUNNING


def test_sizes_that_fail_leave_it_to_be_ended() -> None:
    driven = Driven(failing=Step.PRECOPY_INFO)
    refused(driven.driver.begin_save, "tell what there is to read in PRE_COPY")
    assert driven.state() == S.PRE_COPY
    driven.driver.end_save(is_moved=False)
    assert driven.state() == S.RUNNING


def test_read_that_fails_changes_nothing() -> None:
    driven = saving(failing=Step.READ)
    refused(lambda: driven.driver.read_precopy(driven.buffer), "be read in PRE_COPY")
    assert (driven.state(), driven.sizes) == (S.PRE_COPY, (INITIAL_SIZE, 0))
    driven.stop()
    refused(lambda: driven.driver.read_stop_copy(driven.buffer), "be read in STOP_COPY")
    driven.driver.end_save(is_moved=False)
    assert driven.state() == S.STOP


@pytest.mark.parametrize(
    ("failing", "has_precopy", "step", "left"),
    [
        (Step.PRE_COPY_P2P, True, "go from PRE_COPY to PRE_COPY_P2P", S.PRE_COPY),
        (Step.STOP_COPY, True, "go from PRE_COPY_P2P to STOP_COPY", S.PRE_COPY_P2P),
        (Step.RUNNING_P2P, False, "go from RUNNING to RUNNING_P2P", S.RUNNING),
        (Step.STOP, False, "go from RUNNING_P2P to STOP", S.RUNNING_P2P),
    ],
)
def test_stop_that_fails_can_be_undone(
    failing: Step, has_precopy: bool, step: str, left: VfioState
) -> None:
    driven = saving(failing=failing, has_precopy=has_precopy)
    refused(driven.stop, step)
    assert driven.state() == left
    driven.driver.end_save(is_moved=False)
    driven.driver.cont()
    assert driven.state() == S.RUNNING
    assert driven.sim.resets == 0


def test_stop_copy_that_fails_from_stop() -> None:
    driven = saving(failing=Step.STOP_COPY, has_precopy=False)
    driven.stop()
    read = driven.driver.read_stop_copy
    refused(lambda: read(driven.buffer), "go from STOP to STOP_COPY")
    assert driven.state() == S.STOP
    driven.driver.end_save(is_moved=False)
    driven.driver.cont()
    assert driven.state() == S.RUNNING


def test_last_stop_that_fails() -> None:
    driven = saving(failing=Step.STOP)
    driven.stop()
    refused(lambda: driven.driver.end_save(is_moved=True), "go from STOP_COPY to STOP")
    assert driven.state() == S.STOP_COPY
    # If it is to run all the same it is reset: it cannot go there.
    driven.driver.cont()
    assert (driven.state(), driven.sim.resets) == (S.RUNNING, 1)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_device_that_cannot_run_on_is_reset(is_stopped: bool) -> None:
    driven = saving(failing=Step.RUNNING)
    if is_stopped:
        driven.stop()
    driven.driver.end_save(is_moved=False)
    driven.driver.cont()
    assert driven.state() == S.RUNNING
    assert driven.sim.resets == 1


def test_resuming_that_fails() -> None:
    destination, _ = transfer(Step.RESUMING)
    refused(destination.driver.begin_load, "go from STOP to RESUMING")
    assert destination.state() == S.STOP


def test_write_that_fails() -> None:
    destination, data = transfer(Step.WRITE)
    destination.driver.begin_load()
    refused(lambda: destination.driver.write(memoryview(data)), "be written in RESUMING")
    assert destination.state() == S.RESUMING
    destination.driver.begin_load()
    assert (destination.state(), destination.sim.resets) == (S.RESUMING, 1)


def test_stop_of_a_destination_that_fails() -> None:
    destination, _ = transfer(Step.STOP)
    refused(destination.driver.begin_load, "go from RUNNING_P2P to STOP")
    assert destination.state() == S.RUNNING_P2P


def test_destination_that_cannot_run_is_reset() -> None:
    destination, data = transfer(Step.RUNNING)
    destination.driver.begin_load()
    destination.driver.write(memoryview(data))
    destination.driver.end_load()
    destination.driver.cont()
    assert (destination.state(), destination.sim.resets) == (S.RUNNING, 1)
