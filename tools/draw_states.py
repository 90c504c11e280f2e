"""Draws docs/states.md from the tables in the code.

Without an argument it writes the page; with --check it only says whether the page is as the tables
are. Exit code 0: it is, or was written; 1: it is not; 2: wrong usage.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from switchover.protocol.grammar import MOVES, StreamState

PAGE = Path(__file__).resolve().parent.parent / "docs" / "states.md"

_HEAD = """\
# States

Drawn by `tools/draw_states.py` from the tables in the code, and never by hand: after a change of a
table run it, and commit the page with the change. A test compares the two.

## The order of a precopy stream

Table: `MOVES` in `switchover.protocol.grammar`. The destination (`switchover.protocol.loadvm`) and
the source (`switchover.protocol.savevm`) go by the same one. An arrow is a section; what has no
arrow is an error, which says what may come and what came instead. What each section looks like is
in [wire/stream.md](wire/stream.md).
"""


def render() -> str:
    """The page."""
    return "\n".join((_HEAD, "```mermaid", *_diagram(), "```", "", *_table(), ""))


def _diagram() -> Iterator[str]:
    """The arrows: one between two states, whatever the number of sections that lead there."""
    yield "stateDiagram-v2"
    for state in MOVES:
        yield f'    state "{state.value}" as {_id(state)}'
    yield f"    [*] --> {_id(StreamState.HEADER)} : the header"
    for state, moves in MOVES.items():
        sections: dict[StreamState, list[str]] = {}
        for section_type, following in moves.items():
            sections.setdefault(following, []).append(section_type.name)
        for following, names in sections.items():
            yield f"    {_id(state)} --> {_id(following)} : {', '.join(names)}"
        if not moves:
            yield f"    {_id(state)} --> [*]"


def _id(state: StreamState) -> str:
    """A name that is no word of mermaid's, as `end` is."""
    return f"state_{state.value}"


def _table() -> Iterator[str]:
    """What each state means, and what may come."""
    meanings = _meanings(StreamState)
    yield "| state | meaning | what may come |"
    yield "|---|---|---|"
    for state, moves in MOVES.items():
        names = ", ".join(section_type.name for section_type in moves) or "nothing"
        yield f"| {state.value} | {meanings[state.name]} | {names} |"


def _meanings(states: type[StreamState]) -> dict[str, str]:
    """The lines `NAME: what it means.` of the enum's docstring."""
    lines = inspect.getdoc(states) or ""
    return {name: text.rstrip(".") for name, text in re.findall(r"^([A-Z_]+): (.+)$", lines, re.M)}


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
