"""One move of a running machine between two new processes, and what both saw of it.

A source and a destination move the built-in machine over loopback TCP while it runs, and the
machine itself tells how it went: by its memory and by its ticks. The device whose initial data
makes the destination allocate is simulated (`switchover.vfio.sim`).
"""

import multiprocessing
import time
from collections.abc import Callable
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
from .model.address import InetAddress
from .model.capability import Capability
from .model.parameter import Parameters
from .model.stats import ExpectedDowntime, Phase
from .model.status import MigrationStatus
from .vfio.migration import VfioMigration
from .vfio.options import SimOptions
from .vfio.sim import VfioSim
from .worker import Worker

IDLE_PAGES_PER_SECOND = 1000
"""4 MB a second: what is left when the initial data was sent is far below any threshold."""
REST_BYTES = 64 << 20
"""A busy guest rests once so much was sent behind the initial data: far more than fits in a socket,
so the destination has allocated and reads on."""
TICKS = 20
"""What the machine prints before and behind its move, at least."""
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Workload:
    """What the guest does meanwhile.

    Attributes:
        name: What it is called, such as `idle`.
        ram_bytes: The guest's RAM.
        region_bytes: The part of it that it dirties.
        pages_per_second: How fast; None for as fast as it goes, until it rests.
        parameters: What is set for its migration.
    """

    name: str
    ram_bytes: int
    region_bytes: int
    pages_per_second: int | None
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class TrialRun:
    """One move, as it went. Times in ms.

    Attributes:
        workload: What the guest did.
        switchover_ack: Whether the source waited for the ACK.
        status: `completed`, or what else.
        total_ms: From the connection to SHUT.
        downtime_ms: From the stop to SHUT, as the source measured it.
        guest_downtime_ms: The gap in the guest's ticks; there are 15 ms between two ticks at any
            time.
        expected_downtime: What the source expected right before the stop.
        ack_wait_ms: How long the guest ran on only because the ACK was waited for.
        transferred_bytes: Bytes of the stream.
        memory_verified: Whether the guest's memory is what its program left.
        ticks_continuous: Whether its ticks go on without a gap or a repeat in the count.
        allocated_after_stop: Whether the destination was still allocating when the guest was
            stopped.
        phases: Where the downtime went, on both sides.
        error: Why it failed.
    """

    workload: str
    switchover_ack: bool
    status: str
    total_ms: float | None = None
    downtime_ms: float | None = None
    guest_downtime_ms: float | None = None
    expected_downtime: ExpectedDowntime | None = None
    ack_wait_ms: float | None = None
    transferred_bytes: int = 0
    memory_verified: bool = False
    ticks_continuous: bool = False
    allocated_after_stop: bool | None = None
    phases: tuple[Phase, ...] = ()
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
class Trial:
    """What is to be moved, and how.

    Attributes:
        workload: What the guest does.
        switchover_ack: Whether the source waits for the ACK.
        device: What its simulated device is like.
        line_rate: Bytes a second that the connection carries; 0 for as many as it can.
    """

    workload: Workload
    switchover_ack: bool
    device: SimOptions
    line_rate: int = 0

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What is set on both sides."""
        wanted = {Capability.RETURN_PATH, Capability.X_LOAD_REPORT}
        return frozenset(wanted | ({Capability.SWITCHOVER_ACK} if self.switchover_ack else set()))

    def machine(self, device: VfioSim) -> BuiltinMachine:
        """The machine of either side."""
        return BuiltinMachine(
            self.workload.ram_bytes,
            region_bytes=self.workload.region_bytes,
            pages_per_second=self.workload.pages_per_second,
            live_devices=[VfioMigration(self.device.id, device)],
        )


def run_trial(trial: Trial) -> TrialRun:
    """Moves the machine, and says how it went; what goes wrong is in the report."""
    context = multiprocessing.get_context("spawn")
    with (
        _Child(context, _run_destination, trial) as destination,
        _Child(context, _run_source, trial) as source,
    ):
        address = destination.receive()
        if isinstance(address, str):
            return _failed(trial, address)
        source.send(address)
        left = source.receive()
        if isinstance(left, str):
            return _failed(trial, left)
        destination.send(left["digest"])
        arrived = destination.receive()
    return _failed(trial, arrived) if isinstance(arrived, str) else _judge(trial, left, arrived)


def _failed(trial: Trial, error: str) -> TrialRun:
    return TrialRun(
        trial.workload.name, trial.switchover_ack, MigrationStatus.FAILED.value, error=error
    )


def _judge(trial: Trial, left: dict[str, Any], arrived: dict[str, Any]) -> TrialRun:
    """Puts together what both processes saw."""
    before: list[SerialLine] = left["lines"]
    after: list[SerialLine] = arrived["lines"]
    ticks = [line.text for line in (*before, *after)]
    return TrialRun(
        workload=trial.workload.name,
        switchover_ack=trial.switchover_ack,
        status=left["report"].status.value,
        total_ms=left["report"].total_ms,
        downtime_ms=left["report"].downtime_ms,
        guest_downtime_ms=round((after[0].now - before[-1].now) / 1e6, 3),
        expected_downtime=left["report"].expected_downtime,
        ack_wait_ms=left["report"].switchover_ack.waiting_ms,
        transferred_bytes=left["report"].transferred_bytes,
        memory_verified=arrived["memory_error"] is None,
        ticks_continuous=ticks == [f"tick {count + 1}" for count in range(len(ticks))],
        allocated_after_stop=arrived["allocated_ns"] > left["stopping_ns"],
        phases=left["report"].phases,
        error=arrived["memory_error"],
    )


class _Child:
    """A process at the other end of a pipe; what goes wrong in it comes back as a sentence."""

    def __init__(
        self,
        context: multiprocessing.context.SpawnContext,
        run: Callable[[Pipe, Trial], None],
        trial: Trial,
    ) -> None:
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_guard, args=(run, theirs, trial), name=run.__name__, daemon=True
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


def _guard(run: Callable[[Pipe, Trial], None], pipe: Pipe, trial: Trial) -> None:
    try:
        run(pipe, trial)
    except MigrationError as error:
        pipe.send(str(error))


def _run_destination(pipe: Pipe, trial: Trial) -> None:
    device = VfioSim(trial.device, is_empty=True)
    machine = trial.machine(device)
    options = ReceiveOptions(trial.capabilities)
    with Listener(InetAddress("127.0.0.1", 0)) as listener:
        pipe.send(listener.address)
        ArrivingDestination(machine, listener, options, Progress(), lambda _: None).run()
    _wait_for_ticks(machine, TICKS)
    machine.stop()
    try:
        machine.check()
        error = None if device.digest() == pipe.recv() else "the device's state is not its source's"
    except MigrationError as wrong:
        error = str(wrong)
    pipe.send(
        {
            "lines": machine.serial.lines,
            "memory_error": error,
            "allocated_ns": device.allocated_ns,
        }
    )


def _run_source(pipe: Pipe, trial: Trial) -> None:
    device = VfioSim(trial.device)
    machine = trial.machine(device)
    address = pipe.recv()
    machine.cont()
    _wait_for_ticks(machine, TICKS)
    progress = Progress()
    parameters = trial.workload.parameters
    with connect(address) as channel:
        if trial.line_rate:
            channel.limit_rate(trial.line_rate)
        source = PrecopySource(machine, channel, trial.capabilities, parameters, progress)
        if trial.workload.pages_per_second is None:
            Worker("rest", lambda: _rest_in_time(machine, progress))
        try:
            source.run()
        finally:
            machine.stop()
    pipe.send(
        {
            "lines": machine.serial.lines,
            "report": progress.report(),
            "stopping_ns": progress.stopping_ns,
            "digest": device.digest(),
        }
    )


def _rest_in_time(machine: BuiltinMachine, progress: Progress) -> None:
    """Lets a busy guest rest: one that never does has no end of its migration either."""
    (device,) = machine.live_devices
    assert isinstance(device, VfioMigration)
    _wait_until(lambda: device.is_in_precopy and device.initial_bytes == 0)
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
