"""One move of a guest between two real QEMUs, with a VFIO device that this process plays.

The QEMUs are not changed, and the downtime is what the source's `query-migrate` says: QEMU's own
VFIO migration code is what is measured. The device is simulated (`switchover.vfio.sim`), and how
long the destination takes to allocate is an input. Page: docs/vfio-without-hardware.md.
"""

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import MigrationError
from .player.process import why_not
from .player.qemu import why_not as why_not_this
from .player.vfio import Event, PlayedDevice
from .testing.guest import REGION_END_GPA, REGION_START_GPA, Guest, boot_sector
from .testing.peer import Peer, parse_version
from .testing.qemu import FINAL_STATUSES, QemuError
from .testing.vfio import VfioQemu
from .vfio.options import SimOptions
from .vfio.sim import VfioSim

SWITCHOVER_BANDWIDTH = 2_000_000_000
"""`avail-switchover-bandwidth`, in bytes a second. QEMU measures its bandwidth over windows in
which it may have had nothing to send; without a figure its threshold then collapses, and the guest
is never stopped."""
DOWNTIME_LIMIT_MS = 300
"""QEMU's own default: with that bandwidth 600 MB may be left."""
BUSY_LIMIT_MS = 100
"""200 MB: less than a device of 300 MiB alone has left, so that QEMU goes on sending."""
REST_LIMIT_MS = 2_000
"""What a busy guest's limit is raised to in the end."""
REST_BYTES = 64 << 20
"""A busy guest's limit is raised once so much RAM was sent behind the allocation."""
BUSY_BYTES = 224 << 20
MEMORY = "256M"
TIMEOUT_S = 20.0
"""How long a migration may take besides the allocation."""

_SOURCE, _DESTINATION = "source", "destination"
_POLL_S = 0.02
_CAPABILITIES = ("return-path", "switchover-ack")
_PROBE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class DirtyingGuest:
    """The boot-sector guest with a larger region: it dirties so many bytes, round and round."""

    region_bytes: int = BUSY_BYTES

    def arguments(self, directory: Path) -> list[str]:
        """A disk with it."""
        end, ours = (
            gpa.to_bytes(4, "little")
            for gpa in (REGION_END_GPA, REGION_START_GPA + self.region_bytes)
        )
        image = directory / "dirtying.img"
        image.write_bytes(boot_sector().replace(end, ours).ljust(1 << 20, b"\0"))
        return ["-drive", f"file={image},format=raw,if=ide"]


@dataclass(frozen=True, slots=True)
class QemuTrial:
    """What is to be moved, and how.

    Attributes:
        peer: The QEMU of both sides.
        machine: Their machine type.
        switchover_ack: Whether the capability is set on both sides.
        device: What the simulated device is like.
        is_busy: Whether the guest dirties 224 MiB of its 256 MiB; else it runs its firmware, which
            finds nothing to start. A busy guest's migration has no end by itself: its downtime
            limit is raised once the destination has allocated and reads on.
    """

    peer: Peer
    machine: str
    switchover_ack: bool
    device: SimOptions
    is_busy: bool = False

    @property
    def workload(self) -> str:
        """What the guest does."""
        return "busy" if self.is_busy else "idle"

    @property
    def guest(self) -> Guest | None:
        """What runs in it."""
        return DirtyingGuest() if self.is_busy else None


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that became so.

    Attributes:
        ms: When, since the migration was asked for.
        side: `source` or `destination`.
        what: The state that QEMU asked the device for and that it has now; or `allocates`,
            `allocated`.
    """

    ms: float
    side: str
    what: str


@dataclass(frozen=True, slots=True)
class QemuRun:
    """One move, as it goes or as it went. Times in ms.

    Attributes:
        qemu: The QEMU's version.
        machine: Its machine type.
        workload: What the guest did.
        allocate_ms: How long the destination's device takes to allocate, which is an input.
        switchover_ack: Whether the capability was set.
        status: The migration's status by the source, or `failed` where no QEMU could say it.
        elapsed_ms: Since the migration was asked for.
        downtime_ms: As the source measured it.
        total_ms: The same.
        moments: What became of the device on both sides, by time.
        state_verified: Whether the device's state is the same on both sides.
        error: Why it did not complete.
    """

    qemu: str
    machine: str
    workload: str
    allocate_ms: float
    switchover_ack: bool
    status: str = "setup"
    elapsed_ms: float = 0.0
    downtime_ms: float | None = None
    total_ms: float | None = None
    moments: tuple[Moment, ...] = ()
    state_verified: bool = False
    error: str | None = None

    @property
    def is_right(self) -> bool:
        """Whether it completed with all of the device's state."""
        return self.status == "completed" and self.state_verified

    @property
    def allocated_after_stop(self) -> bool:
        """Whether the destination was still allocating when the guest had been stopped."""
        at = {(moment.side, moment.what): moment.ms for moment in self.moments}
        stopped = at.get((_SOURCE, "STOP_COPY"))
        allocated = at.get((_DESTINATION, "allocated"))
        return stopped is not None and allocated is not None and allocated > stopped

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self)


Watcher = Callable[[QemuRun], None]
"""Told how a move goes, a few times a second, by the thread that runs it."""


def peer_at(path: Path) -> Peer:
    """A QEMU by its path.

    Raises:
        MigrationError: It does not start, or is none.
    """
    version = parse_version(_output(path, "--version"))
    if version is None:
        raise MigrationError(f"{path} is no QEMU that starts")
    return Peer(version, path)


def why_not_qemu(peer: Peer) -> str | None:
    """Why this QEMU cannot have a played device here, as one sentence; None if it can."""
    return why_not() or why_not_this(str(peer.path))


def _output(path: Path, *arguments: str) -> str:
    try:
        ran = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout


def run_qemu_trial(trial: QemuTrial, watch: Watcher = lambda _: None) -> QemuRun:
    """Moves the guest, and says how it went; what goes wrong is in the report."""
    move = _Move(trial)
    try:
        with ExitStack() as stack:
            return move.run(stack, watch)
    except (MigrationError, QemuError) as error:
        return move.report(status="failed", error=str(error))


@dataclass
class _Move:
    """One move while it goes on."""

    trial: QemuTrial
    _began_ns: int | None = None
    _sides: dict[str, tuple[VfioQemu, VfioSim]] = field(default_factory=dict)

    def run(self, stack: ExitStack, watch: Watcher) -> QemuRun:
        source, destination = (self._start(stack, side) for side in (_SOURCE, _DESTINATION))
        if self.trial.is_busy:
            source.wait_serial("B")
        uri = f"unix:{destination.directory / 'migration'}"
        destination.migrate_incoming(uri)
        self._began_ns = time.monotonic_ns()
        source.migrate(uri)
        info = self._watch(source, watch)
        status = str(info.get("status"))
        if status == "completed":
            destination.wait_status("completed")
            destination.wait_run_state("running")
        late = f"the migration is still {status}" if status not in FINAL_STATUSES else None
        (_, left), (_, arrived) = self._sides.values()
        return self.report(
            status=status,
            downtime_ms=info.get("downtime") if status == "completed" else None,
            total_ms=info.get("total-time"),
            state_verified=status == "completed" and left.digest() == arrived.digest(),
            error=info.get("error-desc", late),
        )

    def _start(self, stack: ExitStack, side: str) -> VfioQemu:
        trial = self.trial
        is_destination = side == _DESTINATION
        device = VfioSim(trial.device, is_empty=is_destination)
        qemu = stack.enter_context(
            VfioQemu(
                trial.peer,
                [PlayedDevice(trial.device.id, device)],
                trial.machine,
                memory=MEMORY,
                guest=trial.guest,
                incoming="defer" if is_destination else None,
            )
        )
        self._sides[side] = (qemu, device)
        if trial.switchover_ack:
            qemu.set_capabilities(*_CAPABILITIES)
        qemu.set_parameters(
            {
                "max-bandwidth": 0,
                "avail-switchover-bandwidth": SWITCHOVER_BANDWIDTH,
                "downtime-limit": BUSY_LIMIT_MS if trial.is_busy else DOWNTIME_LIMIT_MS,
            }
        )
        return qemu

    def _watch(self, source: VfioQemu, watch: Watcher) -> dict[str, Any]:
        """What the source says in the end, or when the time is up."""
        deadline = time.monotonic() + TIMEOUT_S + self.trial.device.allocate_ns / 1e9
        rests_at: int | None = None
        has_rested = not self.trial.is_busy
        while True:
            info = source.query("query-migrate")
            status = str(info.get("status", "setup"))
            if status in FINAL_STATUSES or time.monotonic() > deadline:
                return info
            watch(self.report(status=status))
            _, device = self._sides[_DESTINATION]
            if not has_rested and device.allocated_ns is not None and "ram" in info:
                sent = info["ram"]["transferred"]
                rests_at = sent + REST_BYTES if rests_at is None else rests_at
                if sent >= rests_at:
                    source.set_parameters({"downtime-limit": REST_LIMIT_MS})
                    has_rested = True
            time.sleep(_POLL_S)

    def report(self, **found: Any) -> QemuRun:
        """How it is."""
        trial = self.trial
        elapsed = 0 if self._began_ns is None else time.monotonic_ns() - self._began_ns
        return QemuRun(
            ".".join(map(str, trial.peer.version)),
            trial.machine,
            trial.workload,
            trial.device.allocate_ns / 1e6,
            trial.switchover_ack,
            elapsed_ms=round(elapsed / 1e6, 3),
            moments=self._moments(),
            **found,
        )

    def _moments(self) -> tuple[Moment, ...]:
        if self._began_ns is None:
            return ()
        found = [
            Moment(self._ms(event.now + event.duration_ns), side, event.detail)
            for side, (qemu, _) in self._sides.items()
            for event in list(qemu.events)
            if event.now >= self._began_ns and _is_state(event)
        ]
        if _DESTINATION in self._sides:
            _, device = self._sides[_DESTINATION]
            if device.allocated_ns is not None and device.options.allocate_ns:
                began_ns = device.allocated_ns - device.options.allocate_ns
                found.append(Moment(self._ms(began_ns), _DESTINATION, "allocates"))
                found.append(Moment(self._ms(device.allocated_ns), _DESTINATION, "allocated"))
        return tuple(sorted(found, key=lambda moment: moment.ms))

    def _ms(self, now: int) -> float:
        assert self._began_ns is not None
        return round((now - self._began_ns) / 1e6, 3)


def _is_state(event: Event) -> bool:
    return event.call == "SET MIG_DEVICE_STATE" and event.result == 0
