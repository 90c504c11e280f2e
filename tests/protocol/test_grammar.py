"""The table of moves: it has a row for every state, and leads to the end from each."""

import pytest

from switchover.model.section import SectionType
from switchover.protocol.grammar import MOVES, StreamState, expected_sections


def reachable(state: StreamState) -> set[StreamState]:
    found, new = set[StreamState](), {state}
    while new:
        found |= new
        new = {to for before in new for to in MOVES[before].values()} - found
    return found


def test_each_state_has_a_row() -> None:
    assert set(MOVES) == set(StreamState)


def test_each_state_can_be_reached() -> None:
    assert reachable(StreamState.HEADER) == set(StreamState)


@pytest.mark.parametrize("state", StreamState)
def test_each_state_leads_to_the_end(state: StreamState) -> None:
    assert StreamState.END in reachable(state)


def test_no_state_comes_again_once_it_was_left() -> None:
    for state in StreamState:
        for to in set(MOVES[state].values()) - {state}:
            assert state not in reachable(to)


def test_nothing_comes_behind_the_end() -> None:
    assert MOVES[StreamState.END] == {}


@pytest.mark.parametrize("section_type", [SectionType.SUBSECTION, SectionType.FOOTER])
def test_what_stands_inside_a_section_opens_none(section_type: SectionType) -> None:
    assert all(section_type not in row for row in MOVES.values())


@pytest.mark.parametrize(
    ("state", "names"),
    [
        (StreamState.HEADER, "CONFIGURATION, COMMAND, START"),
        (StreamState.SETUP, "COMMAND, START"),
        (StreamState.ITERATE, "COMMAND, START, PART, END"),
        (StreamState.COMPLETE, "END, FULL, EOF"),
        (StreamState.DEVICES, "FULL, EOF"),
        (StreamState.DESCRIPTION, "VMDESCRIPTION"),
        (StreamState.END, "nothing"),
    ],
)
def test_what_is_expected_can_be_said(state: StreamState, names: str) -> None:
    assert expected_sections(state) == names


def test_what_is_expected_can_be_narrowed() -> None:
    only = {StreamState.COMPLETE}
    assert expected_sections(StreamState.COMPLETE, only) == "END"
    assert expected_sections(StreamState.SETUP, only) == "nothing"
