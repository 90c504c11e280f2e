"""The migration of a VFIO device: states, moves and sizes, as the kernel's interface has them.

Source: include/uapi/linux/vfio.h, "migration v2". A device is asked for a state and goes there by
the shortest way of single moves; one of them that fails leaves it where it is, or in ERROR.
"""

from collections import deque
from dataclasses import dataclass
from enum import IntEnum, IntFlag


class VfioState(IntEnum):
    """What a device does (VFIO_DEVICE_STATE_*).

    ERROR: it failed, and must be reset.
    STOP: it stands still, and its state does not change.
    RUNNING: it runs.
    STOP_COPY: it stands still, and the rest of its state can be read.
    RESUMING: it stands still, and its state can be written.
    RUNNING_P2P: it runs, but begins nothing that reaches other devices.
    PRE_COPY: it runs, and its state can be read meanwhile.
    PRE_COPY_P2P: both.
    """

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4
    RUNNING_P2P = 5
    PRE_COPY = 6
    PRE_COPY_P2P = 7


class VfioFlag(IntFlag):
    """What a device can do (VFIO_MIGRATION_*). Every one that can be migrated has STOP_COPY."""

    STOP_COPY = 1 << 0
    P2P = 1 << 1
    PRE_COPY = 1 << 2


PRE_COPY_STATES = frozenset({VfioState.PRE_COPY, VfioState.PRE_COPY_P2P})
SAVING_STATES = PRE_COPY_STATES | {VfioState.STOP_COPY}
"""Those in which there is something to be read."""
DATA_STATES = SAVING_STATES | {VfioState.RESUMING}
"""Those that have a data descriptor. A new one is due on entering them from any other state."""

MOVES: dict[VfioState, frozenset[VfioState]] = {
    VfioState.ERROR: frozenset(),
    VfioState.STOP: frozenset(
        {VfioState.RUNNING_P2P, VfioState.RUNNING, VfioState.STOP_COPY, VfioState.RESUMING}
    ),
    VfioState.RUNNING: frozenset({VfioState.RUNNING_P2P, VfioState.STOP, VfioState.PRE_COPY}),
    VfioState.STOP_COPY: frozenset({VfioState.STOP}),
    VfioState.RESUMING: frozenset({VfioState.STOP}),
    VfioState.RUNNING_P2P: frozenset({VfioState.STOP, VfioState.RUNNING, VfioState.PRE_COPY_P2P}),
    VfioState.PRE_COPY: frozenset({VfioState.RUNNING, VfioState.PRE_COPY_P2P, VfioState.STOP_COPY}),
    VfioState.PRE_COPY_P2P: frozenset(
        {VfioState.RUNNING_P2P, VfioState.PRE_COPY, VfioState.STOP_COPY}
    ),
}
"""From each state, where a single move leads. Nothing leads out of ERROR but a reset, and nothing
but a failure leads there."""

_ONLY_WITHOUT_P2P = frozenset(
    {
        (VfioState.STOP, VfioState.RUNNING),
        (VfioState.RUNNING, VfioState.STOP),
        (VfioState.PRE_COPY, VfioState.STOP_COPY),
    }
)
"""A device that has the P2P states goes through them."""

_NEEDS = {
    VfioState.RUNNING_P2P: VfioFlag.P2P,
    VfioState.PRE_COPY: VfioFlag.PRE_COPY,
    VfioState.PRE_COPY_P2P: VfioFlag.P2P | VfioFlag.PRE_COPY,
}
"""The flags of a device that has a state, where not every device has it."""

_BLOCKED = frozenset((VfioState.STOP_COPY, state) for state in PRE_COPY_STATES)
"""What was read after the stop cannot be followed by more of what was read before it."""


def states_of(flags: VfioFlag) -> frozenset[VfioState]:
    """The states that a device with these flags has."""
    return frozenset(state for state in VfioState if _NEEDS.get(state, flags) in flags)


def single_moves(state: VfioState, flags: VfioFlag) -> frozenset[VfioState]:
    """Where a single move leads a device with these flags."""
    return frozenset(
        following
        for following in MOVES[state] & states_of(flags)
        if not (flags & VfioFlag.P2P and (state, following) in _ONLY_WITHOUT_P2P)
    )


def find_way(start: VfioState, goal: VfioState, flags: VfioFlag) -> tuple[VfioState, ...] | None:
    """The states that a device goes through when it is asked for another one.

    Args:
        start: Where it is.
        goal: What is asked for.
        flags: What it can do.

    Returns:
        The states behind `start`, `goal` the last; empty if it is there already. None if it cannot
        go there.
    """
    reachable = states_of(flags) - {VfioState.ERROR}
    if (start, goal) in _BLOCKED or goal not in reachable:
        return None
    ways: deque[tuple[VfioState, ...]] = deque([()])
    while ways:
        way = ways.popleft()
        here = way[-1] if way else start
        if here == goal:
            return way
        # Nothing is saved or restored on the way to something else.
        is_passing = bool(way) and here in DATA_STATES
        if is_passing and not {start, goal} <= SAVING_STATES:
            continue
        for following in sorted(single_moves(here, flags)):
            if following not in way and following != start:
                ways.append((*way, following))
    return None


def opens_data(state: VfioState, following: VfioState) -> bool:
    """Whether a single move brings a new data descriptor."""
    return following in DATA_STATES and state not in DATA_STATES


def vfio_idstr(name: str) -> str:
    """The section's name of a device with that name."""
    return f"{name}/vfio" if name else "vfio"


@dataclass(frozen=True, slots=True)
class PrecopyInfo:
    """What a device can give while it runs (`struct vfio_precopy_info`), in bytes.

    Attributes:
        initial_bytes: What the destination should have before the machine is stopped. Goes down as
            it is read.
        dirty_bytes: What has changed since it was read; may never become nothing.
        is_reinit: New initial data has come up behind what was there (VFIO_PRECOPY_INFO_REINIT):
            whoever said to be ready for the switchover has to say so again. Told once.
    """

    initial_bytes: int
    dirty_bytes: int
    is_reinit: bool = False


@dataclass(frozen=True, slots=True)
class PciConfig:
    """The part of a PCI device that is no business of its driver.

    Attributes:
        space: Its configuration space, 256 bytes, or 4096 for PCI Express.
        irq_state: The levels of its four interrupt pins.
        msix: The MSI-X table and the pending bits, as they lie in memory; empty without MSI-X.
    """

    space: bytes
    irq_state: tuple[int, int, int, int] = (0, 0, 0, 0)
    msix: bytes = b""
