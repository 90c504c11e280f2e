"""The main job on what comes with the package: a running machine moves between two processes.

Each run starts a source and a destination, moves the built-in machine over loopback TCP while it
runs, and has the machine itself tell how it went: by its memory and by its ticks. The device whose
initial data makes the destination allocate is simulated (`switchover.guest.vfio_sim`).
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

from .channel.connection import Listener, connect
from .engine.arrival import ArrivingDestination
from .engine.incoming import ReceiveOptions
from .engine.precopy import PrecopySource
from .engine.progress import Progress
from .errors import MigrationError
from .guest.machine import BuiltinMachine
from .guest.serial import SerialLine
from .guest.vfio_sim import VfioSim
from .model.address import InetAddress
from .model.capability import Capability
from .model.parameter import Parameters
from .model.status import MigrationStatus
from .worker import Worker

RAM_BYTES = 512 << 20
IDLE_PAGES_PER_SECOND = 1000
"""4 MB a second: what is left when the initial data was sent is far below any threshold."""
BUSY_REGION_BYTES = 480 << 20
"""Far more than goes in the downtime limit, all of it dirty all of the time."""
REST_BYTES = 256 << 20
"""The busy guest rests once so much was sent behind the initial data: far more than fits in a
socket, so the destination has allocated and reads on."""
DOWNTIME_LIMIT_MS = 100
TICKS = 20
"""What the machine prints before and behind its move, at least."""
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Workload:
    """What the guest does meanwhile.

    Attributes:
        name: `idle` or `busy`.
        region_bytes: The memory that it dirties.
        pages_per_second: How fast; None for as fast as it goes, until it rests.
    """

    name: str
    region_bytes: int
    pages_per_second: int | None


IDLE = Workload("idle", 64 << 20, IDLE_PAGES_PER_SECOND)
BUSY = Workload("busy", BUSY_REGION_BYTES, None)


@dataclass(frozen=True, slots=True)
class DemoRun:
    """One move, as it went. Times in ms.

    Attributes:
        workload: What the guest did.
        switchover_ack: Whether the source waited for the ACK.
        status: `completed`, or what else.
        total_ms: From the connection to SHUT.
        downtime_ms: From the stop to SHUT, as the source measured it.
        guest_downtime_ms: The gap in the guest's ticks; there are 15 ms between two ticks at any
            time.
        ack_wait_ms: How long the guest ran on only because the ACK was waited for.
        transferred_bytes: Bytes of the stream.
        memory_verified: Whether the guest's memory is what its program left.
        ticks_continuous: Whether its ticks go on without a gap or a repeat in the count.
        allocated_after_stop: Whether the destination was still allocating when the guest was
            stopped.
        error: Why it failed.
    """

    workload: str
    switchover_ack: bool
    status: str
    total_ms: float | None = None
    downtime_ms: float | None = None
    guest_downtime_ms: float | None = None
    ack_wait_ms: float | None = None
    transferred_bytes: int = 0
    memory_verified: bool = False
    ticks_continuous: bool = False
    allocated_after_stop: bool | None = None
    error: str | None = None

    @property
    def is_right(self) -> bool:
        """Whether the machine was moved whole."""
        return (
            self.status == MigrationStatus.COMPLETED
            and self.memory_verified
            and self.ticks_continuous
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Setting:
    """What both processes must know of a run."""

    workload: Workload
    switchover_ack: bool
    state_bytes: int
    allocate_ns: int

    @property
    def capabilities(self) -> frozenset[Capability]:
        wanted = {Capability.RETURN_PATH}
        return frozenset(wanted | ({Capability.SWITCHOVER_ACK} if self.switchover_ack else set()))

    def device(self) -> VfioSim:
        return VfioSim("nic", self.state_bytes, self.allocate_ns)

    def machine(self, device: VfioSim) -> BuiltinMachine:
        return BuiltinMachine(
            RAM_BYTES,
            region_bytes=self.workload.region_bytes,
            pages_per_second=self.workload.pages_per_second,
            live_devices=[device],
        )


def run_demo(
    state_bytes: int, allocate_ns: int, announce: Callable[[str], None]
) -> Iterator[DemoRun]:
    """Moves the machine three times.

    Args:
        state_bytes: The simulated device's state, all of it initial data.
        allocate_ns: How long the destination takes to allocate for it.
        announce: Told what comes next.

    Yields:
        An idle guest without the ACK and with it, then a busy guest without it.
    """
    for workload, switchover_ack in ((IDLE, False), (IDLE, True), (BUSY, False)):
        announce(f"{workload.name} guest, {'with' if switchover_ack else 'without'} switchover-ack")
        yield _move(_Setting(workload, switchover_ack, state_bytes, allocate_ns))


def _move(setting: _Setting) -> DemoRun:
    """One move, between two new processes."""
    context = multiprocessing.get_context("spawn")
    with _Child(context, _run_destination, setting) as destination:
        address = destination.receive()
        if isinstance(address, str):
            return _failed(setting, address)
        with _Child(context, _run_source, setting) as source:
            source.send(address)
            left = source.receive()
            if isinstance(left, str):
                return _failed(setting, left)
            arrived = destination.receive()
    return _failed(setting, arrived) if isinstance(arrived, str) else _judge(setting, left, arrived)


def _failed(setting: _Setting, error: str) -> DemoRun:
    return DemoRun(
        setting.workload.name, setting.switchover_ack, MigrationStatus.FAILED.value, error=error
    )


def _judge(setting: _Setting, left: dict[str, Any], arrived: dict[str, Any]) -> DemoRun:
    """Puts together what both processes saw."""
    before: list[SerialLine] = left["lines"]
    after: list[SerialLine] = arrived["lines"]
    ticks = [line.text for line in (*before, *after)]
    return DemoRun(
        workload=setting.workload.name,
        switchover_ack=setting.switchover_ack,
        status=left["report"].status.value,
        total_ms=left["report"].total_ms,
        downtime_ms=left["report"].downtime_ms,
        guest_downtime_ms=round((after[0].now - before[-1].now) / 1e6, 3),
        ack_wait_ms=left["report"].ack_wait_ms,
        transferred_bytes=left["report"].transferred_bytes,
        memory_verified=arrived["memory_error"] is None,
        ticks_continuous=ticks == [f"tick {count + 1}" for count in range(len(ticks))],
        allocated_after_stop=arrived["allocated_ns"] > left["stopping_ns"],
        error=arrived["memory_error"],
    )


class _Child:
    """A process at the other end of a pipe; what goes wrong in it comes back as a sentence."""

    def __init__(
        self,
        context: multiprocessing.context.SpawnContext,
        run: Callable[[Pipe, _Setting], None],
        setting: _Setting,
    ) -> None:
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_guard, args=(run, theirs, setting), name=run.__name__, daemon=True
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join(TIMEOUT_S if error[0] is None else 0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def send(self, message: object) -> None:
        self._pipe.send(message)

    def receive(self) -> Any:
        try:
            if self._pipe.poll(TIMEOUT_S):
                return self._pipe.recv()
        except EOFError:
            return f"the process {self._process.name} ended without a word"
        return f"the process {self._process.name} said nothing for {TIMEOUT_S:.0f} s"


def _guard(run: Callable[[Pipe, _Setting], None], pipe: Pipe, setting: _Setting) -> None:
    try:
        run(pipe, setting)
    except MigrationError as error:
        pipe.send(str(error))


def _run_destination(pipe: Pipe, setting: _Setting) -> None:
    device = setting.device()
    machine = setting.machine(device)
    device.state[:] = 0  # it has none yet
    options = ReceiveOptions(setting.capabilities)
    with Listener(InetAddress("127.0.0.1", 0)) as listener:
        pipe.send(listener.address)
        ArrivingDestination(machine, listener, options, Progress(), lambda _: None).run()
    _wait_for_ticks(machine, TICKS)
    machine.stop()
    try:
        machine.check()
        error = None
    except MigrationError as wrong:
        error = str(wrong)
    pipe.send(
        {
            "lines": machine.serial.lines,
            "memory_error": error,
            "allocated_ns": device.allocated_ns,
        }
    )


def _run_source(pipe: Pipe, setting: _Setting) -> None:
    device = setting.device()
    machine = setting.machine(device)
    address = pipe.recv()
    machine.cont()
    _wait_for_ticks(machine, TICKS)
    progress = Progress()
    parameters = Parameters(max_bandwidth=0, downtime_limit_ms=DOWNTIME_LIMIT_MS)
    with connect(address) as channel:
        source = PrecopySource(machine, channel, setting.capabilities, parameters, progress)
        if setting.workload.pages_per_second is None:
            Worker("rest", lambda: _rest_in_time(machine, device, progress))
        try:
            source.run()
        finally:
            machine.stop()
    pipe.send(
        {
            "lines": machine.serial.lines,
            "report": progress.report(),
            "stopping_ns": progress.stopping_ns,
        }
    )


def _rest_in_time(machine: BuiltinMachine, device: VfioSim, progress: Progress) -> None:
    """Lets a busy guest rest: one that never does has no end of its migration either."""
    _wait_until(lambda: device.pending_bytes() == 0)
    sent = progress.transferred_bytes
    _wait_until(lambda: progress.transferred_bytes >= sent + REST_BYTES)
    machine.pacer.pages_per_second = IDLE_PAGES_PER_SECOND


def _wait_for_ticks(machine: BuiltinMachine, count: int) -> None:
    _wait_until(lambda: len(machine.serial.lines) >= count)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise MigrationError(f"the guest did not come so far in {TIMEOUT_S:.0f} s")
        time.sleep(0.005)
