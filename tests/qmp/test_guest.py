"""The person and the migration share a machine: who stopped it, and who may start it."""

from collections.abc import Iterator

import pytest

from switchover.guest.machine import BuiltinMachine
from switchover.qmp.guest import SharedGuest
from switchover.qmp.session import CommandError


class Shared:
    """A shared guest, and what was told of it."""

    def __init__(self, *, is_incoming: bool = False, wants_running: bool = True) -> None:
        self.told: list[bool] = []
        self.machine = BuiltinMachine(2 << 20)
        self.guest = SharedGuest(
            self.machine,
            self.told.append,
            is_incoming=is_incoming,
            wants_running=wants_running,
        )


@pytest.fixture
def shared() -> Iterator[Shared]:
    one = Shared()
    one.guest.cont()
    yield one
    one.machine.stop()


def test_each_change_is_told_once(shared: Shared) -> None:
    shared.guest.stop_by_hand()
    shared.guest.stop_by_hand()
    shared.guest.cont_by_hand(is_incoming=False)
    shared.guest.cont_by_hand(is_incoming=False)
    assert shared.told == [True, False, True]
    assert shared.guest.is_running


def test_what_a_migration_stopped_cannot_be_started_by_hand(shared: Shared) -> None:
    shared.guest.stop()
    assert shared.guest.is_held
    with pytest.raises(CommandError, match=r"^Migration is not finalized yet$"):
        shared.guest.cont_by_hand(is_incoming=False)
    shared.guest.release()
    assert not shared.guest.is_running
    shared.guest.cont_by_hand(is_incoming=False)
    assert shared.guest.is_running


def test_a_migration_that_fails_does_not_start_what_was_stopped_by_hand(shared: Shared) -> None:
    shared.guest.stop()
    shared.guest.stop_by_hand()
    shared.guest.cont()
    assert not shared.guest.is_running
    assert not shared.guest.is_held


def test_a_migration_that_fails_starts_what_ran(shared: Shared) -> None:
    shared.guest.stop()
    shared.guest.cont()
    assert shared.told == [True, False, True]


@pytest.mark.parametrize("wants_running", [True, False])
def test_what_is_awaited_is_told_what_to_do_then(wants_running: bool) -> None:
    shared = Shared(is_incoming=True, wants_running=not wants_running)
    if wants_running:
        shared.guest.cont_by_hand(is_incoming=True)
    else:
        shared.guest.stop_by_hand()
    assert not shared.guest.is_running
    shared.guest.cont()
    assert shared.guest.is_running == wants_running
    shared.machine.stop()
