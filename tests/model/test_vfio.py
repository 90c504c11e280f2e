"""The states of a VFIO device: every move, for every kind of device."""

from itertools import product

import pytest

from switchover.model.vfio import (
    DATA_STATES,
    MOVES,
    PRE_COPY_STATES,
    PciConfig,
    PrecopyInfo,
    VfioFlag,
    VfioState,
    find_way,
    opens_data,
    single_moves,
    states_of,
    vfio_idstr,
)

S = VfioState
STOP_COPY = VfioFlag.STOP_COPY
KINDS = [
    STOP_COPY,
    STOP_COPY | VfioFlag.P2P,
    STOP_COPY | VfioFlag.PRE_COPY,
    STOP_COPY | VfioFlag.P2P | VfioFlag.PRE_COPY,
]
WHOLE = KINDS[-1]

FIRST_MOVES = {
    S.STOP: {
        S.RUNNING: S.RUNNING_P2P,
        S.STOP_COPY: S.STOP_COPY,
        S.RESUMING: S.RESUMING,
        S.RUNNING_P2P: S.RUNNING_P2P,
        S.PRE_COPY: S.RUNNING_P2P,
        S.PRE_COPY_P2P: S.RUNNING_P2P,
    },
    S.RUNNING: {
        S.STOP: S.RUNNING_P2P,
        S.STOP_COPY: S.RUNNING_P2P,
        S.RESUMING: S.RUNNING_P2P,
        S.RUNNING_P2P: S.RUNNING_P2P,
        S.PRE_COPY: S.PRE_COPY,
        S.PRE_COPY_P2P: S.RUNNING_P2P,
    },
    S.STOP_COPY: {
        S.STOP: S.STOP,
        S.RUNNING: S.STOP,
        S.RESUMING: S.STOP,
        S.RUNNING_P2P: S.STOP,
    },
    S.RESUMING: {
        S.STOP: S.STOP,
        S.RUNNING: S.STOP,
        S.STOP_COPY: S.STOP,
        S.RUNNING_P2P: S.STOP,
        S.PRE_COPY: S.STOP,
        S.PRE_COPY_P2P: S.STOP,
    },
    S.RUNNING_P2P: {
        S.STOP: S.STOP,
        S.RUNNING: S.RUNNING,
        S.STOP_COPY: S.STOP,
        S.RESUMING: S.STOP,
        S.PRE_COPY: S.RUNNING,
        S.PRE_COPY_P2P: S.PRE_COPY_P2P,
    },
    S.PRE_COPY: {
        S.STOP: S.RUNNING,
        S.RUNNING: S.RUNNING,
        S.STOP_COPY: S.PRE_COPY_P2P,
        S.RESUMING: S.RUNNING,
        S.RUNNING_P2P: S.RUNNING,
        S.PRE_COPY_P2P: S.PRE_COPY_P2P,
    },
    S.PRE_COPY_P2P: {
        S.STOP: S.RUNNING_P2P,
        S.RUNNING: S.RUNNING_P2P,
        S.STOP_COPY: S.STOP_COPY,
        S.RESUMING: S.RUNNING_P2P,
        S.RUNNING_P2P: S.RUNNING_P2P,
        S.PRE_COPY: S.PRE_COPY,
    },
}
"""Where a device that can do everything goes first, as Linux has it."""


def test_every_state_has_a_row_and_none_leads_to_error() -> None:
    assert MOVES.keys() == set(VfioState)
    assert not any(S.ERROR in following for following in MOVES.values())


@pytest.mark.parametrize(("start", "goal"), list(product(VfioState, VfioState)))
def test_the_first_move_is_the_kernels(start: VfioState, goal: VfioState) -> None:
    way = find_way(start, goal, WHOLE)
    if S.ERROR in (start, goal):
        assert way is None
    elif start == goal:
        assert way == ()
    else:
        expected = FIRST_MOVES[start].get(goal)
        assert (way[0] if way else None) == expected


@pytest.mark.parametrize("flags", KINDS, ids=str)
@pytest.mark.parametrize(("start", "goal"), list(product(VfioState, VfioState)))
def test_a_way_is_of_single_moves_through_states_that_the_device_has(
    start: VfioState, goal: VfioState, flags: VfioFlag
) -> None:
    if start not in states_of(flags):
        return
    way = find_way(start, goal, flags)
    if way is None:
        impossible = (
            S.ERROR in (start, goal)
            or goal not in states_of(flags)
            or (start == S.STOP_COPY and goal in PRE_COPY_STATES)
        )
        assert impossible
        return
    assert way == () if start == goal else way[-1] == goal
    for here, following in zip((start, *way), way, strict=False):
        assert following in single_moves(here, flags)
        assert following in states_of(flags)
    assert len(set(way)) == len(way) and start not in way


@pytest.mark.parametrize(
    ("flags", "states"),
    [
        (KINDS[0], {S.ERROR, S.STOP, S.RUNNING, S.STOP_COPY, S.RESUMING}),
        (KINDS[1], set(VfioState) - PRE_COPY_STATES),
        (KINDS[2], set(VfioState) - {S.RUNNING_P2P, S.PRE_COPY_P2P}),
        (KINDS[3], set(VfioState)),
    ],
)
def test_what_a_device_can_do_says_which_states_it_has(
    flags: VfioFlag, states: set[VfioState]
) -> None:
    assert states_of(flags) == states


@pytest.mark.parametrize(("start", "following"), list(product(VfioState, VfioState)))
def test_a_data_descriptor_is_due_on_entering(start: VfioState, following: VfioState) -> None:
    expected = following in DATA_STATES and start not in DATA_STATES
    assert opens_data(start, following) is expected


def test_values_have_defaults() -> None:
    assert not PrecopyInfo(1, 2).is_reinit
    assert PciConfig(bytes(256)) == PciConfig(bytes(256), (0, 0, 0, 0), b"")


def test_a_section_is_named_after_its_device() -> None:
    assert (vfio_idstr("nic"), vfio_idstr("")) == ("nic/vfio", "vfio")
