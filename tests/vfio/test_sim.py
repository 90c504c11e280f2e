"""The simulated device: states, refusals, time and everything that its options change."""

import errno
from itertools import product
from os import strerror

import numpy as np
import pytest
from tests.vfio.invented import MIB, PAGE, InventedTime, Pair

from switchover.errors import DeviceError
from switchover.model.vfio import (
    PRE_COPY_STATES,
    SAVING_STATES,
    PciConfig,
    PrecopyInfo,
    VfioFlag,
    VfioState,
    find_way,
)
from switchover.vfio.device import PrecopyDevice
from switchover.vfio.options import DataSize, Failure, SimOptions, Step, parse_options
from switchover.vfio.records import HEADER, Kind, whole_size
from switchover.vfio.sim import VfioSim

S = VfioState
STATES = [state for state in S if state != S.ERROR]
KINDS = list(product([False, True], repeat=2))
SECOND = 10**9
EMPTY_START = HEADER.pack(Kind.START, 0, 0)


def device(text: str = "", time: InventedTime | None = None, *, is_empty: bool = False) -> VfioSim:
    defaults = [
        option
        for option in ("state=64K", "allocate=0s")
        if not any(given.startswith(option[:6]) for given in text.split(","))
    ]
    options = parse_options(",".join([*defaults, *filter(None, [text])]), "vf0")
    return (time or InventedTime()).device(options, is_empty=is_empty)


def kind(has_precopy: bool, has_p2p: bool, failure: Failure | None = None) -> VfioSim:
    """One without state, so that RESUMING can be left by a START alone."""
    options = SimOptions(
        "vf0", 0, allocate_ns=0, has_precopy=has_precopy, has_p2p=has_p2p, failure=failure
    )
    return InventedTime().device(options)


def refusal(caught: pytest.ExceptionInfo[DeviceError], code: int, step: str) -> None:
    assert (caught.value.device, caught.value.errno) == ("vf0", code)
    assert str(caught.value) == f"device 'vf0' cannot {step}: {strerror(code)}"


def drained(sim: PrecopyDevice) -> list[bytes]:
    buffer = bytearray(MIB)
    pieces = []
    while size := sim.read_into(memoryview(buffer)):
        pieces.append(bytes(buffer[:size]))
    return pieces


# States


@pytest.mark.parametrize(("has_precopy", "has_p2p"), KINDS)
def test_flags_are_what_it_can(has_precopy: bool, has_p2p: bool) -> None:
    flags = kind(has_precopy, has_p2p).flags
    assert VfioFlag.STOP_COPY in flags
    assert (VfioFlag.PRE_COPY in flags, VfioFlag.P2P in flags) == (has_precopy, has_p2p)
    assert kind(has_precopy, has_p2p).state == S.RUNNING


@pytest.mark.parametrize(("has_precopy", "has_p2p"), KINDS)
@pytest.mark.parametrize(("start", "goal"), list(product(STATES, S)))
def test_it_goes_wherever_there_is_a_way(
    start: VfioState, goal: VfioState, has_precopy: bool, has_p2p: bool
) -> None:
    sim = kind(has_precopy, has_p2p)
    if find_way(S.RUNNING, start, sim.flags) is None:
        return
    sim.set_state(start)
    assert sim.state == start
    if start == S.RESUMING:
        sim.write(memoryview(EMPTY_START))
    if find_way(start, goal, sim.flags) is None:
        with pytest.raises(DeviceError) as caught:
            sim.set_state(goal)
        refusal(caught, errno.EINVAL, f"go from {start.name} to {goal.name}")
        assert sim.state == start
        return
    sim.set_state(goal)
    assert sim.state == goal
    # Its data are where they may be.
    if goal in SAVING_STATES:
        assert sim.read_into(memoryview(bytearray(100))) == HEADER.size
    if goal in PRE_COPY_STATES:
        sim.precopy_info()
    if goal == S.RESUMING and start != S.RESUMING:
        sim.write(memoryview(EMPTY_START))


@pytest.mark.parametrize(("has_precopy", "has_p2p"), KINDS)
@pytest.mark.parametrize(("start", "goal", "failing"), list(product(STATES, STATES, STATES)))
def test_a_move_that_fails_leaves_it_where_it_is(
    start: VfioState, goal: VfioState, failing: VfioState, has_precopy: bool, has_p2p: bool
) -> None:
    sim = kind(has_precopy, has_p2p, Failure(Step.into(failing), errno.EIO))
    to_start = find_way(S.RUNNING, start, sim.flags)
    way = find_way(start, goal, sim.flags)
    if to_start is None or failing in to_start or way is None or failing not in way:
        return
    sim.set_state(start)
    if start == S.RESUMING:
        sim.write(memoryview(EMPTY_START))
    with pytest.raises(DeviceError) as caught:
        sim.set_state(goal)
    here = (start, *way)[way.index(failing)]
    refusal(caught, errno.EIO, f"go from {here.name} to {failing.name}")
    assert sim.state == here


@pytest.mark.parametrize("start", STATES)
def test_a_reset_forgets_the_session_and_keeps_the_memory(start: VfioState) -> None:
    sim = device()
    sim.start_dma_logging(PAGE, [(0, PAGE)])
    sim.set_state(start)
    before = sim.digest()
    sim.reset()
    assert (sim.state, sim.digest(), sim.allocated_ns) == (S.RUNNING, before, None)
    with pytest.raises(DeviceError):
        sim.read_into(memoryview(bytearray(9)))
    with pytest.raises(DeviceError):
        sim.write(memoryview(b"x"))
    with pytest.raises(DeviceError):
        sim.stop_dma_logging()
    sim.set_state(S.STOP_COPY)
    assert sum(map(len, drained(sim))) == whole_size(1 << 16, 1 << 16)


# Calls out of place


@pytest.mark.parametrize("state", STATES)
def test_what_is_asked_in_the_wrong_state_is_refused(state: VfioState) -> None:
    sim = device()
    sim.set_state(state)
    if state not in PRE_COPY_STATES:
        with pytest.raises(DeviceError) as caught:
            sim.precopy_info()
        refusal(caught, errno.EINVAL, f"tell what there is to read in {state.name}")
    if state not in SAVING_STATES:
        with pytest.raises(DeviceError) as caught:
            sim.read_into(memoryview(bytearray(9)))
        refusal(caught, errno.EBADF, f"be read in {state.name}")
    if state != S.RESUMING:
        with pytest.raises(DeviceError) as caught:
            sim.write(memoryview(b"x"))
        refusal(caught, errno.EBADF, f"be written in {state.name}")
    assert sim.stop_copy_bytes() == whole_size(1 << 16, 1 << 16)
    assert sim.state == state


@pytest.mark.parametrize("state", [S.PRE_COPY, S.PRE_COPY_P2P, S.STOP_COPY])
def test_a_buffer_that_takes_nothing_gets_nothing(state: VfioState) -> None:
    sim = device()
    sim.set_state(state)
    assert sim.read_into(memoryview(bytearray())) == 0
    assert len(drained(sim)) == 2


@pytest.mark.parametrize(
    ("step", "state", "sentence"),
    [
        ("read", S.PRE_COPY, "be read in PRE_COPY"),
        ("read", S.STOP_COPY, "be read in STOP_COPY"),
        ("write", S.RESUMING, "be written in RESUMING"),
        ("precopy-info", S.PRE_COPY_P2P, "tell what there is to read in PRE_COPY_P2P"),
        ("data-size", S.RUNNING, "tell what there is to read once it is stopped"),
    ],
)
def test_a_call_that_is_to_fail(step: str, state: VfioState, sentence: str) -> None:
    sim = device(f"fail={step}:ENOMEM")
    sim.set_state(state)
    calls = {
        "read": lambda: sim.read_into(memoryview(bytearray(9))),
        "write": lambda: sim.write(memoryview(EMPTY_START)),
        "precopy-info": sim.precopy_info,
        "data-size": sim.stop_copy_bytes,
    }
    for name, call in calls.items():
        if name == step:
            with pytest.raises(DeviceError) as caught:
                call()
            refusal(caught, errno.ENOMEM, sentence)
    assert sim.state == state


# Sizes


def test_how_much_is_left_can_be_told_in_three_ways() -> None:
    whole = whole_size(1 << 16, 1 << 16)
    for data_size in (DataSize.LEFT, DataSize.WHOLE):
        sim = device(f"data-size={data_size}")
        sim.set_state(S.PRE_COPY)
        assert sim.stop_copy_bytes() == whole
        drained(sim)
        assert sim.stop_copy_bytes() == (0 if data_size == DataSize.LEFT else whole)
    sim = device("data-size=error")
    with pytest.raises(DeviceError) as caught:
        sim.stop_copy_bytes()
    refusal(caught, errno.ENOTTY, "tell what there is to read once it is stopped")


def test_sizes_can_be_lies() -> None:
    sim = device("initial=4K,lie=initial*2:dirty+5:stop-copy-10")
    assert sim.stop_copy_bytes() == whole_size(1 << 16, 4096) - 10
    sim.set_state(S.PRE_COPY)
    assert sim.precopy_info() == PrecopyInfo(2 * (4096 + 2 * HEADER.size), 5)
    # What travels does not change.
    assert sum(map(len, drained(sim))) == 4096 + 2 * HEADER.size
    assert sim.precopy_info() == PrecopyInfo(0, 5)


# The destination


def test_the_allocation_takes_its_time() -> None:
    time = InventedTime()
    source, destination = device(time=time), device("allocate=1480ms", time, is_empty=True)
    source.set_state(S.PRE_COPY)
    destination.set_state(S.RESUMING)
    start, data = drained(source)
    destination.write(memoryview(start))
    destination.write(memoryview(data)[:-1])
    assert (destination.allocated_ns, time.slept_ns) == (None, [])
    began_ns = time.now_ns
    destination.write(memoryview(data)[-1:])
    assert time.slept_ns == [1_480_000_000]
    assert destination.allocated_ns == time.now_ns == began_ns + 1_480_000_000
    destination.set_state(S.RUNNING)
    assert destination.allocated_ns == time.now_ns
    assert destination.digest() == source.digest()
    # The next time it is new.
    destination.set_state(S.RESUMING)
    assert destination.allocated_ns is None


def test_an_allocation_that_took_long_is_not_waited_for() -> None:
    time = InventedTime()

    def slow_clock() -> int:
        time.now_ns += SECOND
        return time.now_ns

    options = SimOptions("vf0", 0, allocate_ns=SECOND)
    sim = VfioSim(options, clock=slow_clock, sleep=time.sleep)
    sim.set_state(S.RESUMING)
    sim.write(memoryview(EMPTY_START))
    assert sim.allocated_ns == time.now_ns
    assert time.slept_ns == []


@pytest.mark.parametrize("left", [1, 1 << 16, (1 << 16) + 2 * HEADER.size])
def test_a_state_that_is_not_whole_is_refused(left: int) -> None:
    source, sim = device(), device()
    source.set_state(S.STOP_COPY)
    sim.set_state(S.RESUMING)
    data = b"".join(drained(source))
    sim.write(memoryview(data)[:-left])
    with pytest.raises(DeviceError) as caught:
        sim.set_state(S.RUNNING)
    refusal(caught, errno.EINVAL, "go from RESUMING to STOP: its state is not whole")
    assert sim.state == S.RESUMING
    sim.write(memoryview(data)[-left:])
    sim.write(memoryview(b""))
    sim.set_state(S.RUNNING)


def test_data_of_a_device_of_another_size_is_refused() -> None:
    source, sim = device("state=68K"), device()
    source.set_state(S.STOP_COPY)
    sim.set_state(S.RESUMING)
    with pytest.raises(DeviceError) as caught:
        sim.write(memoryview(drained(source)[0]))
    refusal(caught, errno.EINVAL, "take a state of 69632 bytes, expected 65536")
    with pytest.raises(DeviceError, match="its state is not whole"):
        sim.set_state(S.STOP)


def test_the_source_says_how_much_is_initial_data() -> None:
    source, sim = device("initial=4K"), device("initial=8K", is_empty=True)
    source.set_state(S.PRE_COPY)
    sim.set_state(S.RESUMING)
    for piece in drained(source):
        sim.write(memoryview(piece))
    assert sim.allocated_ns is not None


@pytest.mark.parametrize(("text", "calls"), [("", 1), ("never-ack", 0)])
def test_it_is_ready_unless_it_never_is(text: str, calls: int) -> None:
    called: list[None] = []
    device(text).when_ready(lambda: called.append(None))
    assert len(called) == calls


# Rates


def test_reads_and_writes_wait_for_their_rates() -> None:
    time = InventedTime()
    rate = (1 << 16) + HEADER.size
    source = device(f"save-rate={rate}", time)
    destination = device(f"load-rate={2 * rate}", time)
    source.set_state(S.PRE_COPY)
    destination.set_state(S.RESUMING)
    time.now_ns += 100 * SECOND
    start, data = drained(source)
    start_ns = HEADER.size * SECOND // rate
    assert time.slept_ns == [start_ns, SECOND]
    time.slept_ns.clear()
    time.now_ns += 100 * SECOND
    destination.write(memoryview(start))
    destination.write(memoryview(data))
    assert time.slept_ns == [start_ns // 2, SECOND // 2]


def test_an_allocation_is_no_time_to_catch_up_with() -> None:
    time = InventedTime()
    sim = time.device(SimOptions("vf0", 0, allocate_ns=SECOND, load_rate=HEADER.size))
    sim.set_state(S.RESUMING)
    sim.write(memoryview(EMPTY_START))
    assert time.slept_ns == [SECOND, SECOND]


def test_what_is_rewritten_while_a_read_waits_is_read_again() -> None:
    time = InventedTime()
    sim = device(f"save-rate={1 << 16},dirty-rate={2 * PAGE}", time)
    sim.set_state(S.PRE_COPY)
    buffer = memoryview(bytearray(MIB))
    sim.read_into(buffer)
    sim.read_into(buffer)
    assert sim.precopy_info() == PrecopyInfo(0, 2 * PAGE + HEADER.size)


# What it is made of


def test_a_source_has_a_pattern_that_its_name_gives() -> None:
    sim, same, other = device(), device(), device("id=other")
    words = sim.memory.view(np.uint64)
    assert len(np.unique(words)) == len(words)
    assert sim.digest() == same.digest() != other.digest()
    assert len(sim.digest()) == 64
    assert not device(is_empty=True).memory.any()


def test_a_state_need_not_be_of_whole_pages() -> None:
    assert len(device("state=4097,initial=1").memory) == 4097


def test_it_looks_like_a_plain_simulated_device() -> None:
    sim = device()
    assert len(sim.config.space) == 256
    assert sim.config.space[:16] == b"VSIM" + bytes.fromhex("00000000 01 0000ff 00000000")
    assert not any(sim.config.space[16:])
    config = PciConfig(bytes(4096))
    sim.config = config
    assert sim.config == config


def test_it_logs_its_writes() -> None:
    sim = device()
    sim.note_dma(0, PAGE)
    sim.start_dma_logging(PAGE, [(0, 8 * PAGE)])
    sim.note_dma(PAGE, 2 * PAGE)
    assert sim.report_dma(PAGE, 0, 8 * PAGE) == bytes([6, 0, 0, 0, 0, 0, 0, 0])
    assert sim.report_dma(PAGE, 0, 8 * PAGE) == bytes(8)
    sim.stop_dma_logging()
    with pytest.raises(DeviceError) as caught:
        sim.report_dma(PAGE, 0, PAGE)
    assert caught.value.errno == errno.EINVAL


def test_a_destination_can_be_a_source_next() -> None:
    pair = Pair(2 * MIB, MIB, dirty_rate=MIB)
    pair.move()
    pair.time.now_ns += SECOND
    pair.end()
    first = pair.destination
    first.set_state(S.RUNNING)
    first.set_state(S.STOP_COPY)
    second = pair.time.device(first.options, is_empty=True)
    second.set_state(S.RESUMING)
    for piece in drained(first):
        second.write(memoryview(piece))
    second.set_state(S.STOP)
    assert second.digest() == pair.source.digest()
