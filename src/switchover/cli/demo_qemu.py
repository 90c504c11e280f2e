"""`switchover demo --qemu`: the main job inside of a real QEMU, with a simulated VFIO device."""

import json as json_module
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typer import Exit

from ..errors import MigrationError
from ..testing.peer import PEERS, SYSTEM_PROGRAM, Peer, default_directory, find_peer
from ..trial_qemu import Moment, QemuRun, QemuTrial, Watcher, peer_at, run_qemu_trial, why_not_qemu
from ..vfio.options import SimOptions
from .console import fail, say

_FAILED = 1
_CANNOT = 2
_SIDES = ("source", "destination")
_MACHINE = "q35"
_COLUMNS = 60
_STEP_MS = 500
_STYLES = {
    "RUNNING": "green",
    "RUNNING_P2P": "green",
    "PRE_COPY": "cyan",
    "PRE_COPY_P2P": "magenta",
    "STOP_COPY": "red",
    "STOP": "bright_black",
    "RESUMING": "blue",
    "allocates": "yellow",
    "allocated": "blue",
}
_MEANINGS = {
    "PRE_COPY": "its state is read while it runs",
    "PRE_COPY_P2P": "the CPUs are stopped",
    "STOP_COPY": "the rest of its state is read",
    "STOP": "all is sent",
    "RESUMING": "its state is written",
    "allocates": "all initial data is there",
    "allocated": "it is ready for the switchover",
    "RUNNING_P2P": "all of its state is there",
    "RUNNING": "the guest goes on",
}


def demo_qemu(
    binary: Path | None, peers_directory: Path | None, device: SimOptions, *, json: bool
) -> None:
    """Moves a QEMU's guest without the capability and with it, and shows how it went."""
    try:
        peer = _choose(binary, peers_directory or default_directory())
    except MigrationError as error:
        fail(str(error))
        raise Exit(_CANNOT) from error
    if reason := why_not_qemu(peer):
        fail(reason)
        raise Exit(_CANNOT)
    say(
        f"{peer.path} {'.'.join(map(str, peer.version))}, not changed, twice. Its VFIO device is "
        f"simulated: {device.state_bytes >> 20} MiB of state; the destination allocates for "
        f"{device.allocate_ns / 1e6:.0f} ms, which is an input."
    )
    runs = []
    for switchover_ack in (False, True):
        title = f"{'with' if switchover_ack else 'without'} switchover-ack"
        with _watching(title) as watch:
            run = run_qemu_trial(QemuTrial(peer, _MACHINE, switchover_ack, device), watch)
            watch(run)
        runs.append(run)
    if json:
        json_module.dump({"runs": [run.as_dict() for run in runs]}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _show(runs)
    reasons = list(_failures(runs))
    for reason in reasons:
        fail(reason)
    if reasons:
        raise Exit(_FAILED)


def _choose(binary: Path | None, directory: Path) -> Peer:
    """The QEMU that was asked for, else that of the system if it will do, else the newest peer."""
    if binary is not None:
        return peer_at(binary)
    found = [peer_at(Path(program))] if (program := shutil.which(SYSTEM_PROGRAM)) else []
    peers = (find_peer(name, directory) for name in reversed(PEERS))
    found += [peer for peer in peers if peer is not None]
    if not found:
        raise MigrationError(
            f"there is no {SYSTEM_PROGRAM} in PATH and no QEMU in {directory}: name one with "
            "--qemu-binary"
        )
    return next((peer for peer in found if why_not_qemu(peer) is None), found[0])


def _failures(runs: Sequence[QemuRun]) -> Iterator[str]:
    for run in runs:
        if not run.is_right:
            what = run.error or "the device's state is not its source's"
            yield f"switchover-ack {_on(run)}: migration {run.status}: {what}"
    without = runs[0]
    if without.is_right and without.allocate_ms and not without.allocated_after_stop:
        yield "without the ACK the allocation fell before the stop: there is no effect"


def _on(run: QemuRun) -> str:
    return "on" if run.switchover_ack else "off"


# While it goes on


@contextmanager
def _watching(title: str) -> Iterator[Watcher]:
    """A line of time for each side on a terminal, else a line for each moment."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _plain(title)
        return
    with Live(console=console, refresh_per_second=10) as live:
        yield lambda run: live.update(_timeline(title, run))


def _plain(title: str) -> Watcher:
    shown: set[tuple[str, str]] = set()

    def watch(run: QemuRun) -> None:
        for moment in run.moments:
            if (moment.side, moment.what) not in shown:
                shown.add((moment.side, moment.what))
                say(f"{title}: {moment.ms:6.0f} ms  {moment.side}: {moment.what}")

    return watch


def _timeline(title: str, run: QemuRun) -> Group:
    """Both sides from left to right; the scale grows with the time."""
    end_ms = (run.elapsed_ms // _STEP_MS + 1) * _STEP_MS
    head = Text(f"{title}: {run.status}, {run.elapsed_ms / 1000:.1f} s")
    if run.downtime_ms is not None:
        head.append(f"; downtime {run.downtime_ms:.0f} ms", style="bold")
    return Group(head, *(_bar(side, run, end_ms) for side in _SIDES), Text(""))


def _bar(side: str, run: QemuRun, end_ms: float) -> Text:
    here = [moment for moment in run.moments if moment.side == side]
    line = Text(f"{side:>12} ")
    for column in range(_COLUMNS):
        at_ms = (column + 1) * end_ms / _COLUMNS
        what = _at(here, at_ms)
        line.append(" " if at_ms > run.elapsed_ms else "█", style=_STYLES.get(what, ""))
    return line.append(f" {_at(here, run.elapsed_ms)}", style="bold")


def _at(moments: Sequence[Moment], ms: float) -> str:
    """What the device did at a time."""
    return next((one.what for one in reversed(moments) if one.ms <= ms), "RUNNING")


# In the end


def _show(runs: Sequence[QemuRun]) -> None:
    console = Console(highlight=False)
    table = Table(
        title=f"One guest of QEMU {runs[0].qemu}, moved twice. Times in ms.", title_justify="left"
    )
    for name in ("waits\nfor ACK", "migration", "allocation", "downtime,\nby QEMU", "in all"):
        table.add_column(name, justify="right")
    table.add_column("device's\nstate")
    for run in runs:
        table.add_row(
            *(_on(run), run.status, f"{run.allocate_ms:.0f}"),
            *map(_ms, (run.downtime_ms, run.total_ms)),
            "right" if run.state_verified else "WRONG",
        )
    console.print(table)
    console.print(_moments_table(runs))
    console.print(
        "Both downtimes are what QEMU's query-migrate says. The device is simulated, and its "
        "allocation is an input, no measurement: without the ACK it falls into the downtime, with "
        "it the guest runs meanwhile. avail-switchover-bandwidth is set, as QEMU may never stop an "
        "idle guest without it."
    )


def _moments_table(runs: Sequence[QemuRun]) -> Table:
    table = Table(title="What QEMU asked of the device, since the start", title_justify="left")
    for name in ("side", "state", "meaning"):
        table.add_column(name)
    for run in runs:
        table.add_column(f"ACK\n{_on(run)}", justify="right")
    at = [{(moment.side, moment.what): moment.ms for moment in run.moments} for run in runs]
    for side in _SIDES:
        whats = dict.fromkeys(what for times in at for one, what in times if one == side)
        for what in whats:
            times = (found.get((side, what)) for found in at)
            meaning = _MEANINGS.get(what, "")
            table.add_row(side, what, meaning, *map(_ms, times))
        table.add_section()
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
