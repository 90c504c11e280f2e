"""The order of a precopy stream, as one table for those who read and those who write one.

Page: docs/wire/stream.md; the picture is drawn from the table into docs/states.md.
"""

from collections.abc import Container
from enum import Enum

from ..model.section import SectionType


class StreamState(Enum):
    """How far a stream has come.

    HEADER: nothing but the header is there.
    SETUP: the configuration is there, or is left out; no live section has begun.
    ITERATE: live sections have begun; the machine may run.
    COMPLETE: a live section has ended; the machine is stopped.
    DEVICES: every live section has ended; device sections follow.
    DESCRIPTION: the end mark is there; the VM description follows.
    END: the stream is whole.
    """

    HEADER = "header"
    SETUP = "setup"
    ITERATE = "iterate"
    COMPLETE = "complete"
    DEVICES = "devices"
    DESCRIPTION = "description"
    END = "end"


_COMMAND = SectionType.COMMAND
_START, _PART, _END = SectionType.START, SectionType.PART, SectionType.END

MOVES: dict[StreamState, dict[SectionType, StreamState]] = {
    StreamState.HEADER: {
        SectionType.CONFIGURATION: StreamState.SETUP,
        _COMMAND: StreamState.SETUP,
        _START: StreamState.ITERATE,
    },
    StreamState.SETUP: {
        _COMMAND: StreamState.SETUP,
        _START: StreamState.ITERATE,
    },
    StreamState.ITERATE: {
        _COMMAND: StreamState.ITERATE,
        _START: StreamState.ITERATE,
        _PART: StreamState.ITERATE,
        _END: StreamState.COMPLETE,
    },
    StreamState.COMPLETE: {
        _END: StreamState.COMPLETE,
        SectionType.FULL: StreamState.DEVICES,
        SectionType.EOF: StreamState.DESCRIPTION,
    },
    StreamState.DEVICES: {
        SectionType.FULL: StreamState.DEVICES,
        SectionType.EOF: StreamState.DESCRIPTION,
    },
    StreamState.DESCRIPTION: {
        SectionType.VMDESCRIPTION: StreamState.END,
    },
    StreamState.END: {},
}
"""From each state, which section may come and where it leads; what has no row is an error."""


def expected_sections(
    state: StreamState, among: Container[StreamState] = frozenset(StreamState)
) -> str:
    """The sections that may come in a state, for an error.

    Args:
        state: The state.
        among: Only those that lead to one of these.
    """
    names = [section_type.name for section_type, to in MOVES[state].items() if to in among]
    return ", ".join(names) or "nothing"
