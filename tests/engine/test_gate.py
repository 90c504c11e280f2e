"""When a source stops its machine, for any devices and any times: against a model of the ACKs.

The source is the real one, a step at a time, in invented time; so are its devices, and so is the
loader at the destination. Who is ready when is drawn, and the model counts nothing but what the
destination was told and what it answered.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from tests.engine.live import TinyGuest
from tests.fuzzing import stable

from switchover.channel.base import Buffer, Closing
from switchover.engine.arrival import ArrivalLoader
from switchover.engine.live_vfio import VfioSource
from switchover.engine.precopy import PrecopySource
from switchover.engine.progress import Progress
from switchover.engine.ram_source import RAMSource
from switchover.model.capability import Capability
from switchover.model.parameter import Parameters
from switchover.model.switchover import SwitchoverAckMode
from switchover.protocol.switchover_ack import SwitchoverAckDestination
from switchover.vfio.device import Ready
from switchover.vfio.migration import VfioMigration
from switchover.vfio.options import DataSize, SimOptions
from switchover.vfio.sim import VfioSim
from switchover.wire.return_path import ReturnPathMessage, ReturnPathMessageType

LEGACY, PER_DEVICE = SwitchoverAckMode.LEGACY, SwitchoverAckMode.PER_DEVICE
ACK = ReturnPathMessage(ReturnPathMessageType.SWITCHOVER_ACK)
STEP_NS = 20_000_000
STEPS = 60
"""By then every example has come to its end that has one."""
NARROW_STEPS = 25
"""A device that goes on writing more than the line carries never comes to an end."""
FAST, NARROW = 1 << 50, 12 << 10


class InventedTime(threading.Event):
    """A clock that goes on with whoever waits, who is woken when that time has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 5_000_000_000

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.sleep(timeout)
        return False


class Pipe(Closing):
    """A channel whose other end is read by the same thread."""

    name = "pipe"
    has_return_path = True

    def __init__(self) -> None:
        self.data = bytearray()

    def fileno(self) -> int:
        return -1

    def send(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self.data += buffer

    def recv_into(self, buffer: memoryview) -> int:
        size = min(len(buffer), len(self.data))
        buffer[:size] = self.data[:size]
        del self.data[:size]
        return size

    def finish(self) -> None:
        pass

    def shutdown(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Schedule:
    """A device, and when it is ready at the destination.

    Attributes:
        options: What it is like.
        ready_after: How many steps behind each mark; the last goes for all that follow.
    """

    options: SimOptions
    ready_after: tuple[int, ...]


SIZES = [
    (state_bytes, min(initial, state_bytes), dirty_rate, data_size)
    for state_bytes in (0, 1, 4096, 9000, 20000)
    for initial in (0, 1, 5000, 20000)
    for dirty_rate in (0, 4096, 1 << 20)
    for data_size in (DataSize.LEFT, DataSize.WHOLE)
]
KINDS = [(True, True), (True, True), (True, False), (False, True), (False, False)]
"""Whether it has PRE_COPY, and P2P."""


@st.composite
def schedules(draw: st.DrawFn, name: str) -> Schedule:
    state_bytes, initial, dirty_rate, data_size = draw(st.sampled_from(SIZES))
    has_precopy, has_p2p = draw(st.sampled_from(KINDS))
    options = SimOptions(
        name,
        state_bytes,
        initial,
        dirty_rate=dirty_rate,
        allocate_ns=0,
        data_size=data_size,
        has_precopy=has_precopy,
        has_p2p=has_p2p,
        reinit_ns=tuple(sorted(draw(st.lists(st.integers(0, 12 * STEP_NS), max_size=3)))),
    )
    return Schedule(options, tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))))


@dataclass(frozen=True)
class Case:
    """An example.

    Attributes:
        devices: The devices.
        mode: Who counts.
        is_enabled: Whether the capability is on.
        bandwidth: What the line is said to carry: all that there is, or a few pages.
        hands: What somebody does by hand, by step: stops the machine, or lets it run again.
        is_running: Whether the machine runs at the beginning.
    """

    devices: tuple[Schedule, ...]
    mode: SwitchoverAckMode
    is_enabled: bool
    bandwidth: int
    hands: dict[int, str] = field(default_factory=dict)
    is_running: bool = True


HANDS = ["stop", "cont", "stop and cont"]
HANDS_AT = [0, 0, 0, 0, *range(16)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.integers(0, 3))
    return Case(
        tuple(draw(schedules(f"vf{number}")) for number in range(count)),
        draw(st.sampled_from([LEGACY, PER_DEVICE])),
        draw(st.sampled_from([True, True, True, False])),
        draw(st.sampled_from([FAST, FAST, NARROW])),
        draw(st.dictionaries(st.sampled_from(HANDS_AT), st.sampled_from(HANDS), max_size=2)),
        draw(st.booleans()),
    )


class Model:
    """Which ACKs the source has to wait for, as a reader of the stream sees it.

    Args:
        case: The example.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        self.marks = {one.options.id: 0 for one in case.devices if one.options.has_precopy}
        self.ready = dict.fromkeys(self.marks, 0)
        self._due: list[tuple[int, str]] = []
        self.acks = 0
        """Those that the source has."""

    def mark(self, step: int, name: str, ready_after: Sequence[int]) -> None:
        """The destination was told that a device's initial data is all there."""
        number = self.marks[name]
        self.marks[name] += 1
        self._due.append((step + ready_after[min(number, len(ready_after) - 1)], name))

    def answer(self, step: int) -> int:
        """How many ACKs the destination sends at a step."""
        due = [name for at, name in self._due if at <= step]
        self._due = [(at, name) for at, name in self._due if at > step]
        for name in due:
            self.ready[name] += 1
        if not self._case.is_enabled:
            return 0
        if self._case.mode == PER_DEVICE:
            self.acks += len(due)
            return len(due)
        if self.acks or not all(self.ready.values()):
            return 0
        self.acks = 1
        return 1

    def is_needed(self, fresh: set[str]) -> bool:
        """Whether an ACK is missing.

        Args:
            fresh: The devices with initial data that no mark stands behind.
        """
        if not self._case.is_enabled:
            return False
        if self._case.mode == LEGACY:
            return self.acks == 0
        return bool(fresh) or self.acks < sum(self.marks.values())


class Destination(VfioSim):
    """Tells the model of its marks.

    Args:
        options: What it is like.
        time: The time.
        marked: Told.
    """

    def __init__(
        self, options: SimOptions, time: InventedTime, marked: Callable[[str], None]
    ) -> None:
        super().__init__(options, is_empty=True, clock=time, sleep=time.sleep)
        self._marked = marked

    def when_ready(self, ready: Ready) -> None:
        # The mark stands behind all of the initial data.
        assert self.allocated_ns is not None
        self._marked(self.options.id)


class Run:
    """One example, from the first byte to the decision.

    Args:
        case: The example.
        clock: The time.
    """

    def __init__(self, case: Case, clock: InventedTime) -> None:
        self.case = case
        self.model = Model(case)
        self.step = 0
        self.sources = [
            VfioSim(one.options, clock=clock, sleep=clock.sleep) for one in case.devices
        ]
        self.destinations = [Destination(one.options, clock, self._marked) for one in case.devices]
        self._ready_after = {one.options.id: one.ready_after for one in case.devices}
        self.guest = self._guest(self.sources)
        if case.is_running:
            self.guest.cont()
        else:
            self.guest.stop()
        self.pipe = Pipe()
        self.progress = Progress()
        capabilities = {Capability.RETURN_PATH}
        if case.is_enabled:
            capabilities.add(Capability.SWITCHOVER_ACK)
        parameters = Parameters(0, 1000, avail_switchover_bandwidth=case.bandwidth)
        self.engine = PrecopySource(
            self.guest,
            self.pipe,
            frozenset(capabilities),
            parameters,
            self.progress,
            ack_mode=case.mode,
        )
        self.engine._wake = clock
        self.ram = RAMSource([])
        acks = SwitchoverAckDestination(
            is_enabled=case.is_enabled, devices=[f"{name}/vfio" for name in self.model.marks]
        )
        acks.mode = case.mode
        self.loader = ArrivalLoader(
            self._guest(self.destinations), lambda: acks, lambda name: None, Progress()
        )

    def _guest(self, sims: Sequence[VfioSim]) -> TinyGuest:
        devices = [VfioMigration(sim.options.id, sim) for sim in sims]
        return TinyGuest(live_devices=devices, devices=[], blocks={})

    def _marked(self, name: str) -> None:
        self.model.mark(self.step, name, self._ready_after[name])

    def deliver(self) -> None:
        """The destination takes what was written."""
        while self.pipe.data:
            for _ in self.loader.receive(self.pipe):
                pass

    def fresh(self) -> set[str]:
        """The devices with initial data that no mark stands behind."""
        found = set()
        for live in self.engine._live:
            assert isinstance(live, VfioSource)
            sim = live._device.device
            assert isinstance(sim, VfioSim)
            if not live._device.is_in_precopy:
                continue
            assert sim._saving is not None
            if sim._saving.initial_size or sim._saving.is_reinit or not sim._saving._is_started:
                found.add(sim.options.id)
        return found

    def go(self) -> bool:
        """Whether the machine was stopped, in the steps that there are."""
        self.engine._set_up(self.ram)
        self.deliver()
        steps = STEPS if self.case.bandwidth == FAST else NARROW_STEPS
        for self.step in range(steps):
            for _ in range(self.model.answer(self.step)):
                self.engine._handle(ACK)
            self._by_hand(self.case.hands.get(self.step, ""))
            if self._decide():
                return True
            self.engine._iterate(self.ram)
            self.deliver()
        return False

    def _by_hand(self, what: str) -> None:
        if "stop" in what:
            self.guest.stop()
        if "cont" in what:
            self.guest.cont()

    def _decide(self) -> bool:
        may_stop = self.engine._may_switch_over(self.ram)
        is_needed = self.guest.is_running and self.model.is_needed(self.fresh())
        has_little_left = self.progress.remaining_bytes <= self.case.bandwidth
        # A machine that stands still waits for nobody, and nobody for it.
        is_at_rest = not self.guest.is_running and not self.ram.dirty_pages
        assert may_stop == ((has_little_left or is_at_rest) and not is_needed)
        if not may_stop and self.progress.waiting_ns is not None:
            # What counts as waiting is the destination's part, and nothing else.
            assert is_needed and has_little_left
            assert self.case.mode == LEGACY or not self.fresh()
        return may_stop

    def switch_over(self) -> None:
        """Sends the rest."""
        self.engine._switch_over(self.ram)
        self.deliver()
        for source, destination in zip(self.sources, self.destinations, strict=True):
            assert source.digest() == destination.digest()


def run(case: Case) -> Run:
    clock = InventedTime()
    with patch.object(time, "monotonic_ns", clock):
        one = Run(case, clock)
        is_stopped = one.go()
        if is_stopped:
            one.switch_over()
        one.engine._finish_live(is_moved=is_stopped)
    # With a line that carries all there is, nothing but an ACK can be in the way for good.
    if case.bandwidth == FAST:
        assert is_stopped
    return one


@stable(200)
@given(cases())
def test_machine_is_stopped_when_the_last_ack_is_there_and_no_later(case: Case) -> None:
    run(case)


def device(name: str = "vf0", ready_after: tuple[int, ...] = (3,), **values: Any) -> Schedule:
    values = {"state_bytes": 9000, "initial": 5000, "allocate_ns": 0, **values}
    return Schedule(SimOptions(name, **values), ready_after)


def test_case_without_devices_goes_at_once_per_device() -> None:
    assert run(Case((), PER_DEVICE, True, FAST)).step == 0


def test_case_that_nobody_asked_goes_at_once() -> None:
    assert run(Case((device(),), LEGACY, False, FAST)).step == 0


def test_case_of_two_devices_waits_for_the_later_one() -> None:
    for mode in (LEGACY, PER_DEVICE):
        one = run(Case((device("vf0", (2,)), device("vf1", (9,))), mode, True, FAST))
        assert one.step > 9
        assert one.model.marks == {"vf0": 1, "vf1": 1}


def test_case_of_new_initial_data_waits_twice_per_device_only() -> None:
    schedule = device(reinit_ns=(STEP_NS,), ready_after=(5, 9))
    twice = run(Case((schedule,), PER_DEVICE, True, FAST))
    once = run(Case((schedule,), LEGACY, True, FAST))
    assert (twice.model.marks, once.model.marks) == ({"vf0": 2}, {"vf0": 1})
    assert twice.step > once.step


def test_case_of_a_stop_by_hand_waits_no_longer() -> None:
    case = Case((device(ready_after=(50,)),), PER_DEVICE, True, FAST, {4: "stop"})
    assert run(case).step == 4


def test_case_of_a_stop_and_cont_by_hand_waits_anew() -> None:
    case = Case((device(ready_after=(5, 5)),), PER_DEVICE, True, FAST, {4: "stop and cont"})
    assert run(case).model.marks == {"vf0": 2}


def test_case_of_a_stopped_machine_that_is_let_run_waits_as_any() -> None:
    for mode in (LEGACY, PER_DEVICE):
        case = Case((device(ready_after=(5,)),), mode, True, FAST, {0: "cont"}, is_running=False)
        one = run(case)
        assert one.model.marks == {"vf0": 1}
        assert one.step > 5


def test_case_of_a_stopped_machine_goes_at_once() -> None:
    case = Case((device(),), LEGACY, True, FAST, is_running=False)
    assert run(case).step == 0
