"""`switchover bench`: measures what is published, and prints it."""

import json as json_module
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from typer import Exit, Option, Typer

from ..bench.downtime_estimate import Prediction, median_errors, run_downtime_estimate
from ..bench.switchover_ack import ROUNDS, Row, run_switchover_ack
from ..bench.vfio_qemu import QEMUS, Plan, find_qemus, run_vfio_qemu
from ..bench.vfio_qemu import ROUNDS as VFIO_QEMU_ROUNDS
from ..bench.vfio_qemu import Row as QemuRow
from ..errors import MigrationError
from ..testing.peer import default_directory
from .console import fail, working

bench = Typer(help="Measure what is published, and print it.", no_args_is_help=True)

_FAILED = 1
JsonOption = Annotated[bool, Option("--json", help="Print the result as one JSON object.")]


@bench.command("switchover-ack")
def switchover_ack(
    rounds: Annotated[int, Option(min=1, help="How often each setting is measured.")] = ROUNDS,
    json: JsonOption = False,
) -> None:
    """Measure the downtime without and with the ACK, by how long the destination allocates.

    The built-in machine moves over loopback; its device is simulated, and the allocation is an
    input. Once with an idle guest, and once with one that dirties a lot. Takes under five minutes.
    """
    try:
        with working() as show:
            rows = list(run_switchover_ack(show, rounds))
    except MigrationError as error:
        fail(str(error))
        raise Exit(_FAILED) from error
    if json:
        _print_json({"rounds": rounds, "rows": [row.as_dict() for row in rows]})
    else:
        Console(highlight=False).print(_ack_table(rows, rounds))


def _ack_table(rows: Sequence[Row], rounds: int) -> Table:
    table = Table(title=f"Downtime in ms, {rounds} rounds: median (min-max)", title_justify="left")
    table.add_column("guest")
    for name in (
        *("allocation", "waits\nfor ACK", "downtime,\nsource", "downtime,\nguest"),
        *("expected", "QEMU's\nformula"),
    ):
        table.add_column(name, justify="right")
    for row in rows:
        spreads = (row.downtime_ms, row.guest_downtime_ms)
        table.add_row(
            row.workload,
            str(row.allocate_ms),
            "on" if row.switchover_ack else "off",
            *(f"{one.median:.0f} ({one.min:.0f}-{one.max:.0f})" for one in spreads),
            f"{row.estimate_ms:.0f}",
            f"{row.qemu_formula_ms:.0f}",
        )
    return table


@bench.command("vfio-qemu")
def vfio_qemu(
    rounds: Annotated[
        int, Option(min=1, help="How often each setting is measured.")
    ] = VFIO_QEMU_ROUNDS,
    quick: Annotated[bool, Option("--quick", help="One round, and no busy guest.")] = False,
    peers_dir: Annotated[
        Path | None,
        Option(
            envvar="SWITCHOVER_PEERS",
            metavar="DIR",
            help="Where `make peers` has put the QEMUs.",
        ),
    ] = None,
    qemu: Annotated[
        list[str] | None, Option(metavar="NAME", help="Which of them: 10.0, 11.1; else both.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure the downtime of real QEMUs without and with switchover-ack, and ours beside it.

    A guest moves between two QEMUs with a VFIO device of 300 MiB that this process plays: it is
    simulated, and how long the destination allocates is an input. QEMU measures the downtime.
    avail-switchover-bandwidth is 2 GB/s: QEMU's threshold would collapse without it, and an idle
    guest never be stopped. Takes twelve minutes, with --quick less than two.
    """
    began = time.monotonic()
    plan = Plan(rounds=rounds)
    if quick:
        plan = Plan(rounds=1, busy_allocations_ms=())
    try:
        peers = find_qemus(qemu or QEMUS, peers_dir or default_directory())
        with working() as show:
            rows = list(run_vfio_qemu(show, peers, plan))
    except (MigrationError, ValueError) as error:
        fail(str(error))
        raise Exit(_FAILED) from error
    seconds = round(time.monotonic() - began, 1)
    if json:
        listed = [row.as_dict() for row in rows]
        _print_json({"rounds": plan.rounds, "seconds": seconds, "rows": listed})
        return
    console = Console(highlight=False)
    console.print(_qemu_table(rows, plan.rounds))
    console.print(
        f"The device is simulated, and the allocation is an input. It took {seconds:.0f} s."
    )


def _qemu_table(rows: Sequence[QemuRow], rounds: int) -> Table:
    table = Table(title=f"Downtime in ms, {rounds} rounds: median (min-max)", title_justify="left")
    for name in ("QEMU", "machine", "guest"):
        table.add_column(name)
    for name in ("allocation", "waits\nfor ACK", "downtime"):
        table.add_column(name, justify="right")
    table.add_column("status")
    for row in rows:
        one = row.downtime_ms
        table.add_row(
            *(row.qemu, row.machine, row.workload, str(row.allocate_ms)),
            "on" if row.switchover_ack else "off",
            "-" if one is None else f"{one.median:.0f} ({one.min:.0f}-{one.max:.0f})",
            row.status if row.error is None else f"{row.status}: {row.error}",
        )
    return table


@bench.command("downtime-estimate")
def downtime_estimate(json: JsonOption = False) -> None:
    """Measure how well the source foresees its downtime, beside QEMU's formula.

    Device states, rates at which they are rewritten, lines and rates at which the destination takes
    them, in all combinations. Takes under five minutes.
    """
    try:
        with working() as show:
            predictions = list(run_downtime_estimate(show))
    except MigrationError as error:
        fail(str(error))
        raise Exit(_FAILED) from error
    ours, qemus = median_errors(predictions)
    if json:
        _print_json(
            {
                "median_estimate_error": round(ours, 3),
                "median_qemu_formula_error": round(qemus, 3),
                "predictions": [one.as_dict() for one in predictions],
            }
        )
        return
    console = Console(highlight=False)
    console.print(_prediction_table(predictions))
    console.print(
        f"The median of the errors: {ours:.0%} with what the devices need, {qemus:.0%} by QEMU's "
        "formula, what is left / bandwidth."
    )


def _prediction_table(predictions: Sequence[Prediction]) -> Table:
    table = Table(title="The downtime and what was expected, in ms", title_justify="left")
    for name in (
        *("state,\nMiB", "dirtied,\nMiB/s", "line,\nMiB/s", "loaded,\nMiB/s", "downtime"),
        *("expected", "error", "QEMU's\nformula", "error"),
    ):
        table.add_column(name, justify="right")
    for one in predictions:
        table.add_row(
            *(str(one.state_mib), str(one.dirty_rate), str(one.line_rate)),
            str(one.load_rate) if one.load_rate else "-",
            *(f"{one.downtime_ms:.0f}", f"{one.estimate_ms:.0f}", f"{one.estimate_error:.0%}"),
            *(f"{one.qemu_formula_ms:.0f}", f"{one.qemu_formula_error:.0%}"),
        )
    return table


def _print_json(result: dict[str, Any]) -> None:
    json_module.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")
