"""Draws docs/states.md from the tables in the code.

Without an argument it writes the page; with --check it only says whether the page is as the tables
are. Exit code 0: it is, or was written; 1: it is not; 2: wrong usage.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from switchover.model.vfio import MOVES as VFIO_MOVES
from switchover.model.vfio import VfioFlag, VfioState, single_moves, states_of
from switchover.protocol.grammar import MOVES as STREAM_MOVES
from switchover.protocol.grammar import StreamState

PAGE = Path(__file__).resolve().parent.parent / "docs" / "states.md"

Arrows = Mapping[Enum, Mapping[Enum, str]]
"""From each state, to which others, and what stands at the arrow; nothing if it is empty."""

_HEAD = """\
# States

Drawn by `tools/draw_states.py` from the tables in the code, and never by hand: after a change of a
table run it, and commit the page with the change. A test compares the two.
"""

_STREAM = """\
## The order of a precopy stream

Table: `MOVES` in `switchover.protocol.grammar`. The destination (`switchover.protocol.loadvm`) and
the source (`switchover.protocol.savevm`) go by the same one. An arrow is a section; what has no
arrow is an error, which says what may come and what came instead. What each section looks like is
in [wire/stream.md](wire/stream.md).
"""

_VFIO = """\
## The states of a VFIO device

Table: `MOVES` in `switchover.model.vfio`. The states and the moves are the kernel's. An arrow is a
single move. A device that is asked for a state further away goes there by the shortest way of
single moves, and one that fails leaves it where it is, or in ERROR. Nothing but a failure leads
into ERROR, and nothing but a reset out of it. What a migration does with the states is in
[switchover-ack.md](switchover-ack.md).

An arrow says `without P2P` where a device that has the P2P states does not go directly.
"""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A table, and how it is shown.

    Attributes:
        text: What stands before it.
        arrows: The table.
        start: Where it begins, and what stands at that arrow.
        name: What a state is called.
        column: What the last column of the table of states is called.
        last: What stands there.
        nothing: What stands there if that is nothing.
        is_end: Whether a state without moves ends it.
    """

    text: str
    arrows: Arrows
    start: tuple[Enum, str]
    name: Callable[[Enum], str]
    column: str
    last: Callable[[Enum], Iterable[str]]
    nothing: str
    is_end: bool


def _stream() -> Drawing:
    """An arrow between two states is all of the sections that lead there."""
    arrows: dict[Enum, dict[Enum, str]] = {}
    for state, moves in STREAM_MOVES.items():
        names: dict[Enum, list[str]] = {}
        for section_type, following in moves.items():
            names.setdefault(following, []).append(section_type.name)
        arrows[state] = {following: ", ".join(found) for following, found in names.items()}
    return Drawing(
        _STREAM,
        arrows,
        (StreamState.HEADER, "the header"),
        name=lambda state: str(state.value),
        column="what may come",
        last=lambda state: (move.name for move in STREAM_MOVES[StreamState(state)]),
        nothing="nothing",
        is_end=True,
    )


def _vfio() -> Drawing:
    with_p2p = VfioFlag.STOP_COPY | VfioFlag.PRE_COPY | VfioFlag.P2P
    arrows: dict[Enum, dict[Enum, str]] = {
        state: {
            following: "" if following in single_moves(state, with_p2p) else "without P2P"
            for following in sorted(moves)
        }
        for state, moves in VFIO_MOVES.items()
    }
    return Drawing(
        _VFIO,
        arrows,
        (VfioState.RUNNING, "a device begins here, and after a reset"),
        name=lambda state: state.name,
        column="devices that have it",
        last=lambda state: _needs(VfioState[state.name]),
        nothing="all",
        is_end=False,
    )


def _needs(state: VfioState) -> Iterator[str]:
    """The flags that a device must have to have a state, but for the one that all have."""
    everything = VfioFlag.STOP_COPY | VfioFlag.PRE_COPY | VfioFlag.P2P
    for flag in (VfioFlag.PRE_COPY, VfioFlag.P2P):
        if state not in states_of(everything & ~flag):
            yield f"with {flag.name}"


def render() -> str:
    """The page."""
    parts = [_HEAD]
    for drawing in (_stream(), _vfio()):
        parts += [drawing.text, "```mermaid", *_diagram(drawing), "```", "", *_table(drawing), ""]
    return "\n".join(parts)


def _diagram(drawing: Drawing) -> Iterator[str]:
    """The arrows: one between two states."""
    yield "stateDiagram-v2"
    for state in drawing.arrows:
        yield f'    state "{drawing.name(state)}" as {_id(state)}'
    first, text = drawing.start
    yield f"    [*] --> {_id(first)} : {text}"
    for state, moves in drawing.arrows.items():
        for following, label in moves.items():
            yield f"    {_id(state)} --> {_id(following)}{f' : {label}' if label else ''}"
        if not moves and drawing.is_end:
            yield f"    {_id(state)} --> [*]"


def _id(state: Enum) -> str:
    """A name that is no word of mermaid's, as `end` is."""
    return f"state_{state.name.lower()}"


def _table(drawing: Drawing) -> Iterator[str]:
    """What each state means, and what belongs to it."""
    yield f"| state | meaning | {drawing.column} |"
    yield "|---|---|---|"
    for state in drawing.arrows:
        meaning = _meanings(type(state))[state.name]
        last = ", ".join(drawing.last(state)) or drawing.nothing
        yield f"| {drawing.name(state)} | {meaning} | {last} |"


def _meanings(states: type[Enum]) -> dict[str, str]:
    """The lines `NAME: what it means.` of the enum's docstring."""
    lines = inspect.getdoc(states) or ""
    return {name: text.rstrip(".") for name, text in re.findall(r"^(\w+): (.+)$", lines, re.M)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page, or checks it; returns the exit code."""
    parser = argparse.ArgumentParser(description="Draws docs/states.md from the tables.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is stale")
    check = parser.parse_args(arguments).check
    page = render()
    if not check:
        PAGE.write_text(page)
        return 0
    if PAGE.is_file() and PAGE.read_text() == page:
        return 0
    print(f"{PAGE} is stale: run tools/draw_states.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
