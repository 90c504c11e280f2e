"""`switchover demo`: the main job on what comes with the package, and a table of it."""

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from typer import BadParameter, Exit, Option

from ..demo import run_demo
from ..errors import UsageError
from ..trial import TrialRun
from ..vfio.options import SimOptions
from .console import fail, say, working
from .demo_qemu import demo_qemu
from .timeline import downtime_table
from .values import parse_size, parse_time

FAILED = 1


def demo(
    state: Annotated[
        int,
        Option(
            metavar="SIZE",
            parser=parse_size,
            help="The simulated device's state.",
        ),
    ] = "300M",  # type: ignore[assignment]
    initial: Annotated[
        int,
        Option(
            metavar="SIZE",
            parser=parse_size,
            help="As much of it is initial data, which goes while the machine runs; the rest goes "
            "when it is stopped.",
        ),
    ] = "16M",  # type: ignore[assignment]
    allocate: Annotated[
        int,
        Option(
            metavar="TIME",
            parser=parse_time,
            help="How long the destination takes to allocate for it: 1480ms, 1.5s.",
        ),
    ] = "1480ms",  # type: ignore[assignment]
    qemu: Annotated[
        bool,
        Option("--qemu", help="Move a guest of a real QEMU, 9.0 or newer, with such a device."),
    ] = False,
    qemu_binary: Annotated[
        Path | None,
        Option(
            metavar="PATH",
            help="Which one, with --qemu; else that in PATH, or the newest of the peers.",
        ),
    ] = None,
    peers_dir: Annotated[
        Path | None,
        Option(
            envvar="SWITCHOVER_PEERS",
            metavar="DIR",
            help="Where `make peers` has put the QEMUs.",
        ),
    ] = None,
    json: Annotated[bool, Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Move a running machine, without switchover-ack and with it.

    It moves between two processes, comes with the package and really runs; no QEMU is needed. Its
    device is simulated: when its initial data has arrived the destination allocates, which takes
    the time that --allocate says. The 1480 ms are the difference between QEMU's own two figures for
    a network device with 300 MB of state: 1900 ms of downtime without the ACK, 420 ms with it.

    With --qemu an idle guest moves between two real QEMUs, whose own VFIO migration code drives
    the simulated device; the downtime is what QEMU says.
    """
    try:
        device = SimOptions("nic", state_bytes=state, initial=initial, allocate_ns=allocate)
    except UsageError as error:
        raise BadParameter(str(error)) from error
    if qemu or qemu_binary is not None:
        demo_qemu(qemu_binary, peers_dir, device, json=json)
        return
    say("A machine runs in one process and goes on in another. Its device is simulated.")
    with working() as show:
        runs = list(run_demo(device, lambda text: show(f"moving: {text} …")))
    if json:
        json_module.dump({"runs": [run.as_dict() for run in runs]}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _show(runs)
    for reason in _failures(runs):
        fail(reason)
    if any(_failures(runs)):
        raise Exit(FAILED)


def _failures(runs: list[TrialRun]) -> list[str]:
    """What did not go as it must."""
    reasons = [
        f"{run.workload} guest, switchover-ack {_on(run)}: {run.error or 'not moved whole'}"
        for run in runs
        if not run.is_right
    ]
    first = runs[0]
    if first.is_right and not first.allocated_after_stop:
        reasons.append("without the ACK the allocation fell before the stop: there is no effect")
    return reasons


def _on(run: TrialRun) -> str:
    return "on" if run.switchover_ack else "off"


def _show(runs: list[TrialRun]) -> None:
    table = Table(title="One machine, moved three times. Times in ms.", title_justify="left")
    table.add_column("guest")
    for name in (
        *("waits\nfor ACK", "ACK\nwait", "downtime,\nsource", "downtime,\nguest"),
        *("expected", "QEMU's\nformula", "MiB\nsent", "memory,\nticks"),
    ):
        table.add_column(name, justify="right")
    for run in runs:
        expected = run.expected_downtime
        table.add_row(
            run.workload,
            _on(run),
            *map(_ms, (run.ack_wait_ms, run.downtime_ms, run.guest_downtime_ms)),
            _ms(None if expected is None else expected.expected_ms),
            _ms(None if expected is None else expected.transfer_ms),
            f"{run.transferred_bytes / 2**20:.0f}",
            "right" if run.is_right else "WRONG",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "Without the ACK the idle guest stands still while the destination allocates; with it the "
        "allocation is over before the guest is stopped. What the source expects cannot know of an "
        "allocation that the destination has not begun."
    )
    console.print(
        "The busy guest hides the effect: it dirties more than goes in the downtime limit, so the "
        "source goes on sending; the destination, busy allocating, does not read, the socket "
        "fills, and the source stalls with its guest running."
    )
    console.print(
        downtime_table(
            "Where the downtime goes, idle guest",
            {
                "without the ACK": runs[0].phases,
                "with the ACK": runs[1].phases,
            },
        )
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
