"""The main job on what comes with the package: a running machine moves between two processes.

Three times: idle without the ACK and with it, and busy without it (`switchover.trial`).
"""

from collections.abc import Callable, Iterator

from .model.parameter import Parameters
from .trial import IDLE_PAGES_PER_SECOND, Trial, TrialRun, Workload, run_trial
from .vfio.options import SimOptions

IDLE = Workload(
    "idle",
    ram_bytes=512 << 20,
    region_bytes=64 << 20,
    pages_per_second=IDLE_PAGES_PER_SECOND,
    parameters=Parameters(max_bandwidth=0, downtime_limit_ms=5000),
)
BUSY = Workload(
    "busy",
    ram_bytes=512 << 20,
    # With the device's state more than goes in the downtime limit, all of it dirty all the time.
    region_bytes=480 << 20,
    pages_per_second=None,
    # The bandwidth is given, and not measured: on any computer 512 MiB may be left.
    parameters=Parameters(
        max_bandwidth=0, downtime_limit_ms=500, avail_switchover_bandwidth=1 << 30
    ),
)


def run_demo(device: SimOptions, announce: Callable[[str], None]) -> Iterator[TrialRun]:
    """Moves the machine three times.

    Args:
        device: What the machine's simulated device is like.
        announce: Told what comes next.

    Yields:
        An idle guest without the ACK and with it, then a busy guest without it.
    """
    for workload, switchover_ack in ((IDLE, False), (IDLE, True), (BUSY, False)):
        announce(f"{workload.name} guest, {'with' if switchover_ack else 'without'} switchover-ack")
        yield run_trial(Trial(workload, switchover_ack, device))
