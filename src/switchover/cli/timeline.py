"""Where a downtime went: its parts on one line of time, as a table."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from ..model.stats import Phase

_MEANINGS = {
    ("source", "stop"): "the machine is stopped",
    ("source", "sync"): "what it wrote last is looked for",
    ("source", "ram"): "the last RAM is sent",
    ("source", "pause"): "migrate-continue is waited for",
    ("source", "devices"): "described devices are sent",
    ("source", "wait"): "the destination's word is waited for",
    ("destination", "ram"): "the last RAM is taken",
    ("destination", "devices"): "described devices are taken",
    ("destination", "resume"): "the machine goes on",
}


def downtime_table(title: str, migrations: Mapping[str, Sequence[Phase]]) -> Table:
    """A row for each part, two columns for each migration: when it began, and how long it took.

    Args:
        title: What it is about.
        migrations: The parts of each, by its name.
    """
    table = Table(title=f"{title}. Times in ms.", title_justify="left")
    table.add_column("side")
    table.add_column("part")
    for name in migrations:
        table.add_column(f"{name}:\nfrom", justify="right")
        table.add_column("\nfor", justify="right")
    rows = [{(phase.side, phase.name): phase for phase in phases} for phases in migrations.values()]
    parts = {part: None for row in rows for part in row}
    for side, name in sorted(parts, key=lambda part: part[0] != "source"):
        found = [row.get((side, name)) for row in rows]
        cells = [cell for phase in found for cell in _cells(phase)]
        meaning = _MEANINGS.get((side, name), f"{name}: its state")
        table.add_row(side, meaning, *cells)
    totals = [
        sum(phase.duration_ms for phase in row.values() if phase.side == "source") for row in rows
    ]
    table.add_section()
    table.add_row("source", "all", *(cell for total in totals for cell in ("0.0", f"{total:.1f}")))
    return table


def _cells(phase: Phase | None) -> tuple[str, str]:
    if phase is None:
        return "-", "-"
    return f"{phase.start_ms:.1f}", f"{phase.duration_ms:.1f}"
