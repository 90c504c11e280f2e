"""The device that carries the run state, in the layout of QEMU."""

import pytest
from tests.vmstates import GLOBALSTATE

from switchover.guest.globalstate import GlobalState
from switchover.wire.cursor import Cursor
from switchover.wire.vmstate import decode_vmstate, encode_vmstate


@pytest.mark.parametrize("was_running", [True, False])
def test_the_run_state_comes_back(was_running: bool) -> None:
    source, destination = GlobalState(was_running=was_running), GlobalState(was_running=True)
    body = encode_vmstate(source.description, source.save())
    destination.load(decode_vmstate(destination.description, Cursor(body)))
    assert destination.was_running is was_running


@pytest.mark.parametrize(
    ("was_running", "data"), [(True, b"\0\0\0\x08running\0"), (False, b"\0\0\0\x07paused\0")]
)
def test_the_run_state_has_the_name_that_qemu_has_for_it(was_running: bool, data: bytes) -> None:
    state = GlobalState(was_running=was_running)
    body = encode_vmstate(state.description, state.save())
    assert body == data.ljust(4 + 100, b"\0")
    # A QEMU's has its size, too.
    assert len(body) == len(encode_vmstate(GLOBALSTATE, _of_qemu(b"running")))


def _of_qemu(runstate: bytes) -> dict[str, object]:
    return {
        "size": len(runstate) + 1,
        "runstate": runstate.ljust(32, b"\0"),
        "has_vm_was_suspended": 0,
        "vm_was_suspended": 0,
    }


@pytest.mark.parametrize("runstate", [b"paused", b"prelaunch", b"", b"running-on"])
def test_a_guest_runs_in_one_state_only(runstate: bytes) -> None:
    state = GlobalState(was_running=True)
    state.load({"size": len(runstate) + 1, "runstate": runstate.ljust(100, b"\0")})
    assert not state.was_running
