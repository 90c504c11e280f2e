"""The downtime without the ACK and with it, by how long the destination takes to allocate.

A machine with a simulated device of 300 MiB, 16 MiB of them initial data, moves between two
processes over loopback (`switchover.trial`). Two guests: an idle one, whose RAM is sent before the
allocation is over, and one that dirties a lot, which hides the effect. Rounds alternate, so that a
computer that is busy for a while spoils all rows alike.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from ..errors import MigrationError
from ..model.parameter import Parameters
from ..trial import IDLE_PAGES_PER_SECOND, Trial, TrialRun, Workload, run_trial
from ..vfio.options import SimOptions

ALLOCATIONS_MS = (0, 1500, 5000)
ROUNDS = 5
STATE_BYTES = 300 << 20
INITIAL_BYTES = 16 << 20

IDLE = Workload(
    "idle",
    ram_bytes=128 << 20,
    region_bytes=32 << 20,
    pages_per_second=IDLE_PAGES_PER_SECOND,
    parameters=Parameters(max_bandwidth=0, downtime_limit_ms=10_000),
)
BUSY = Workload(
    "busy",
    ram_bytes=304 << 20,
    region_bytes=288 << 20,
    pages_per_second=None,
    # As much as may be left, whatever the line: less than what the guest dirties and its device.
    parameters=Parameters(
        max_bandwidth=0, downtime_limit_ms=500, avail_switchover_bandwidth=1 << 30
    ),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """Some measurements."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of these, at least one."""
        return cls(round(median(values), 1), round(min(values), 1), round(max(values), 1))


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. Times in ms; of several rounds, so medians where nothing else is said.

    Attributes:
        workload: What the guest did.
        allocate_ms: How long the destination took to allocate, which is an input.
        switchover_ack: Whether the source waited for the ACK.
        downtime_ms: From the stop to SHUT.
        guest_downtime_ms: The gap in the guest's ticks, 15 ms apart at any time.
        estimate_ms: What the source expected right before the stop.
        qemu_formula_ms: What was left / the bandwidth that it had measured.
    """

    workload: str
    allocate_ms: int
    switchover_ack: bool
    downtime_ms: Spread
    guest_downtime_ms: Spread
    estimate_ms: float
    qemu_formula_ms: float

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self)


def run_switchover_ack(
    announce: Callable[[str], None],
    rounds: int = ROUNDS,
    workloads: Sequence[Workload] = (IDLE, BUSY),
) -> Iterator[Row]:
    """Measures all settings of one guest, then those of the next.

    Args:
        announce: Told what comes next.
        rounds: How often each is measured.
        workloads: The guests.

    Raises:
        MigrationError: A machine was not moved whole.
    """
    for workload in workloads:
        settings = [
            (allocate_ms, with_ack) for allocate_ms in ALLOCATIONS_MS for with_ack in (False, True)
        ]
        runs: dict[tuple[int, bool], list[TrialRun]] = {setting: [] for setting in settings}
        for number in range(rounds):
            for allocate_ms, with_ack in settings:
                announce(
                    f"round {number + 1} of {rounds}: {workload.name} guest, allocation "
                    f"{allocate_ms} ms, {'with' if with_ack else 'without'} the ACK"
                )
                runs[allocate_ms, with_ack].append(_measure(workload, allocate_ms, with_ack))
        for (allocate_ms, with_ack), measured in runs.items():
            yield _sum_up(workload, allocate_ms, with_ack, measured)


def _measure(workload: Workload, allocate_ms: int, with_ack: bool) -> TrialRun:
    device = SimOptions(
        "nic",
        state_bytes=STATE_BYTES,
        initial=INITIAL_BYTES,
        allocate_ns=allocate_ms * 1_000_000,
    )
    run = run_trial(Trial(workload, with_ack, device))
    if not run.is_right:
        raise MigrationError(f"{workload.name} guest: {run.error or 'not moved whole'}")
    return run


def _sum_up(workload: Workload, allocate_ms: int, with_ack: bool, runs: list[TrialRun]) -> Row:
    expected = [run.expected_downtime for run in runs if run.expected_downtime is not None]
    return Row(
        workload.name,
        allocate_ms,
        with_ack,
        Spread.of([run.downtime_ms or 0.0 for run in runs]),
        Spread.of([run.guest_downtime_ms or 0.0 for run in runs]),
        round(median(one.expected_ms for one in expected), 1),
        round(median(one.transfer_ms for one in expected), 1),
    )
