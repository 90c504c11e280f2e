"""What the commands show: progress while they work, and one result at the end.

Everything but the JSON object goes to standard error.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..engine.progress import Observer
from ..model.stats import TransferReport
from ..model.status import MigrationStatus

_ERR = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(text: str) -> None:
    """One line for the person."""
    _ERR.print(text, markup=False)


def warn(text: str) -> None:
    """One line about what is odd but not wrong."""
    say(f"warning: {text}")


def fail(text: str) -> None:
    """One line about why the command failed."""
    say(f"switchover: error: {text}")


def print_json(report: TransferReport) -> None:
    """The result, as one JSON object on standard output."""
    json.dump(report.as_dict(), sys.stdout, indent=2)
    sys.stdout.write("\n")
    sys.stdout.flush()


@contextmanager
def watching() -> Iterator[Observer]:
    """Somebody who shows a migration as it goes on: a live line on a terminal, else plain lines."""
    if not _ERR.is_terminal:
        yield _status_lines()
        return
    # What the peer calls its machine is text, whatever it looks like.
    columns = (
        TextColumn("{task.description:>9}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_ERR, transient=True) as progress:
        task = progress.add_task("waiting", total=None, figures="")
        yield lambda report: _update(progress, task, report)


@contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """Somebody who is told what is going on: a line that changes on a terminal, else lines."""
    if not _ERR.is_terminal:
        yield say
        return
    with _ERR.status("") as status:
        yield lambda text: status.update(Text(text))


def _status_lines() -> Observer:
    """An observer is also called between changes of status; those are not worth a line each."""
    last: MigrationStatus | None = None

    def show(report: TransferReport) -> None:
        nonlocal last
        if report.status != last:
            last = report.status
            say(f"{report.status.value}: {figures(report)}")

    return show


def _update(progress: Progress, task: TaskID, report: TransferReport) -> None:
    seen = (report.pages + report.zero_pages) * 4096
    total = report.ram_bytes or None
    progress.update(
        task,
        description=report.status.value,
        total=total,
        completed=min(seen, report.ram_bytes),
        figures=figures(report),
    )


def figures(report: TransferReport) -> str:
    """What is known of a migration, in half a line."""
    parts = [f"{size(report.transferred_bytes)} transferred"]
    if report.machine is not None:
        parts.insert(0, report.machine)
    if report.ram_bytes:
        parts.append(f"{size(report.ram_bytes)} RAM")
    ack = report.switchover_ack
    if ack.asked_ms is not None:
        parts.append("ACK held" if ack.sent_ms is None else f"ACK sent at {ack.sent_ms:.0f} ms")
    return ", ".join(parts)


def size(count: int) -> str:
    """A number of bytes for people."""
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
