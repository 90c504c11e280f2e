"""The downtime of real QEMUs without the ACK and with it, and ours beside them.

A guest of 256 MiB with a simulated VFIO device of 300 MiB, 16 MiB of them initial data, moves
between two QEMUs on this computer (`switchover.trial_qemu`), and the built-in machine with the same
device between two processes (`switchover.trial`). How long the destination allocates is an input.
Rounds alternate, so that a computer that is busy for a while spoils all rows alike.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import MigrationError
from ..testing.peer import Peer, find_peer, missing_reason
from ..trial import Trial, run_trial
from ..trial_qemu import QemuTrial, run_qemu_trial, why_not_qemu
from ..vfio.options import SimOptions
from .switchover_ack import BUSY, IDLE, INITIAL_BYTES, STATE_BYTES, Spread

QEMUS = ("10.0", "11.1")
"""One ACK for all devices, and one for each."""
OURS = "switchover"
ALLOCATIONS_MS = (0, 1480, 5000)
BUSY_ALLOCATIONS_MS = (1480,)
"""A busy guest hides the allocation, whatever it is: one will do."""
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured.

    Attributes:
        qemu: The QEMU's version, or `switchover`.
        peer: The QEMU; None for ours.
        workload: What the guest does.
        allocate_ms: How long the destination allocates, which is an input.
        switchover_ack: Whether the source waits for the ACK.
    """

    qemu: str
    peer: Peer | None
    workload: str
    allocate_ms: int
    switchover_ack: bool

    def __str__(self) -> str:
        name = f"QEMU {self.qemu}" if self.peer else self.qemu
        ack = "with" if self.switchover_ack else "without"
        return f"{name}, {self.workload} guest, allocation {self.allocate_ms} ms, {ack} the ACK"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of a setting.

    Attributes:
        machine: The machine type.
        status: The migration's.
        downtime_ms: As the source measured it; None unless the migration completed.
        error: Why it did not.
    """

    machine: str
    status: str
    downtime_ms: float | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """All runs of one setting. Times in ms.

    Attributes:
        qemu: The QEMU's version, or `switchover` for the built-in machine.
        machine: The machine type.
        workload: What the guest did.
        allocate_ms: How long the destination allocated, which is an input.
        switchover_ack: Whether the source waited for the ACK.
        downtime_ms: As the source measured it, of the runs that completed; None if none did.
        status: `completed`, or the status of the first run that did not.
        error: Why that one did not.
    """

    qemu: str
    machine: str
    workload: str
    allocate_ms: int
    switchover_ack: bool
    downtime_ms: Spread | None
    status: str
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        qemus: Which peers.
        rounds: How often each setting is measured.
        allocations_ms: How long the destination allocates, with an idle guest.
        busy_allocations_ms: The same with a busy guest.
        with_ours: Whether the built-in machine is moved too.
    """

    qemus: Sequence[str] = QEMUS
    rounds: int = ROUNDS
    allocations_ms: Sequence[int] = ALLOCATIONS_MS
    busy_allocations_ms: Sequence[int] = BUSY_ALLOCATIONS_MS
    with_ours: bool = True

    def settings(self, peers: Sequence[Peer]) -> Iterator[Setting]:
        """All of them, in the order in which they are shown."""
        sides: list[tuple[str, Peer | None]] = [(peer.name, peer) for peer in peers]
        if self.with_ours:
            sides.append((OURS, None))
        for qemu, peer in sides:
            for workload, allocations in (
                ("idle", self.allocations_ms),
                ("busy", self.busy_allocations_ms),
            ):
                for allocate_ms in allocations:
                    for with_ack in (False, True):
                        yield Setting(qemu, peer, workload, allocate_ms, with_ack)


def find_qemus(names: Sequence[str], directory: Path) -> list[Peer]:
    """The peers of these names.

    Raises:
        MigrationError: One is not there, or cannot have a played device here.
    """
    found = []
    for name in names:
        peer = find_peer(name, directory)
        reason = missing_reason(name, directory) if peer is None else why_not_qemu(peer)
        if peer is None or reason is not None:
            raise MigrationError(str(reason))
        found.append(peer)
    return found


def run_vfio_qemu(
    announce: Callable[[str], None],
    peers: Sequence[Peer],
    plan: Plan,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Row]:
    """Measures all settings in turn, as often as the plan has it, then gives the rows.

    A run that does not complete is in its row, and no exception.

    Args:
        announce: Told what comes next.
        peers: The QEMUs.
        plan: How much.
        clock: The time in seconds, monotonic.
    """
    began = clock()
    settings = list(plan.settings(peers))
    outcomes: dict[Setting, list[Outcome]] = {setting: [] for setting in settings}
    for number in range(plan.rounds):
        for setting in settings:
            announce(f"{clock() - began:4.0f} s: round {number + 1} of {plan.rounds}: {setting}")
            outcomes[setting].append(_measure(setting))
    announce(f"{clock() - began:4.0f} s: done")
    for setting, measured in outcomes.items():
        yield _sum_up(setting, measured)


def _measure(setting: Setting) -> Outcome:
    device = SimOptions(
        "nic",
        state_bytes=STATE_BYTES,
        initial=INITIAL_BYTES,
        allocate_ns=setting.allocate_ms * 1_000_000,
    )
    is_busy = setting.workload == "busy"
    if setting.peer is None:
        ours = run_trial(Trial(BUSY if is_busy else IDLE, setting.switchover_ack, device))
        return Outcome("builtin", ours.status, ours.downtime_ms, ours.error)
    machine = setting.peer.machine("pc-q35")
    run = run_qemu_trial(
        QemuTrial(setting.peer, machine, setting.switchover_ack, device, is_busy=is_busy)
    )
    is_wrong = run.status == "completed" and not run.state_verified
    error = "the device's state is not its source's" if is_wrong else run.error
    return Outcome(machine, "failed" if is_wrong else run.status, run.downtime_ms, error)


def _sum_up(setting: Setting, outcomes: Sequence[Outcome]) -> Row:
    odd = next((one for one in outcomes if one.status != "completed"), None)
    times = [
        one.downtime_ms
        for one in outcomes
        if one.status == "completed" and one.downtime_ms is not None
    ]
    return Row(
        setting.qemu,
        outcomes[0].machine,
        setting.workload,
        setting.allocate_ms,
        setting.switchover_ack,
        Spread.of(times) if times else None,
        odd.status if odd else "completed",
        odd.error if odd else None,
    )
