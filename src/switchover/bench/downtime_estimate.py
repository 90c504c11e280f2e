"""How well the source foresees its downtime, beside QEMU's formula on the same runs.

The line is made as slow as it is to be by the kernel's pacing of the socket; the device's state,
how fast it rewrites it and how fast the destination takes it are inputs of the simulated device, of
which the estimate knows nothing: it has what the source measured, and what the destination told of
this migration's precopy.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from statistics import median
from typing import Any

from ..errors import MigrationError
from ..model.parameter import Parameters
from ..trial import IDLE_PAGES_PER_SECOND, Trial, Workload, run_trial
from ..vfio.options import SimOptions

MIB = 1 << 20
STATES_MIB = (32, 96, 256)
DIRTY_RATES_MIB = (0, 20, 100)
LINE_RATES_MIB = (100, 300, 1000)
LOAD_RATES_MIB = (0, 150)
ALLOCATE_NS = 100_000_000
_INITIAL_SHARE = 4

WORKLOAD = Workload(
    "idle",
    ram_bytes=64 << 20,
    region_bytes=32 << 20,
    pages_per_second=IDLE_PAGES_PER_SECOND,
    parameters=Parameters(max_bandwidth=0, downtime_limit_ms=60_000),
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One run. Rates in MiB/s, 0 for as fast as it goes; times in ms.

    Attributes:
        state_mib: The device's state, in MiB; a quarter of it is initial data.
        dirty_rate: How fast it rewrites what it has sent.
        line_rate: How fast the line is.
        load_rate: How fast the destination's device takes its state.
        downtime_ms: What it was.
        estimate_ms: What the source expected right before the stop.
        qemu_formula_ms: What was left / the bandwidth that the source had measured.
    """

    state_mib: int
    dirty_rate: int
    line_rate: int
    load_rate: int
    downtime_ms: float
    estimate_ms: float
    qemu_formula_ms: float

    @property
    def estimate_error(self) -> float:
        """How far the estimate was off, as a share of the downtime."""
        return abs(self.estimate_ms - self.downtime_ms) / self.downtime_ms

    @property
    def qemu_formula_error(self) -> float:
        """The same of QEMU's formula."""
        return abs(self.qemu_formula_ms - self.downtime_ms) / self.downtime_ms

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return {
            **asdict(self),
            "estimate_error": round(self.estimate_error, 3),
            "qemu_formula_error": round(self.qemu_formula_error, 3),
        }


def run_downtime_estimate(announce: Callable[[str], None]) -> Iterator[Prediction]:
    """Measures every combination once.

    Args:
        announce: Told what comes next.

    Raises:
        MigrationError: A machine was not moved whole.
    """
    settings = list(product(STATES_MIB, DIRTY_RATES_MIB, LINE_RATES_MIB, LOAD_RATES_MIB))
    for number, (state, dirty, line, load) in enumerate(settings, 1):
        announce(
            f"{number} of {len(settings)}: {state} MiB of state, rewritten at {dirty} MiB/s, line "
            f"{line} MiB/s, loaded at {f'{load} MiB/s' if load else 'full speed'}"
        )
        yield _predict(state, dirty, line, load)


def _predict(state: int, dirty: int, line: int, load: int) -> Prediction:
    device = SimOptions(
        "nic",
        state_bytes=state * MIB,
        initial=state * MIB // _INITIAL_SHARE,
        dirty_rate=dirty * MIB,
        load_rate=load * MIB,
        allocate_ns=ALLOCATE_NS,
    )
    run = run_trial(Trial(WORKLOAD, switchover_ack=True, device=device, line_rate=line * MIB))
    expected = run.expected_downtime
    if not run.is_right or run.downtime_ms is None or expected is None:
        raise MigrationError(run.error or "the machine was not moved whole")
    return Prediction(
        state, dirty, line, load, run.downtime_ms, expected.expected_ms, expected.transfer_ms
    )


def median_errors(predictions: Sequence[Prediction]) -> tuple[float, float]:
    """The median of the estimate's errors, and that of QEMU's formula."""
    return (
        median(one.estimate_error for one in predictions),
        median(one.qemu_formula_error for one in predictions),
    )
