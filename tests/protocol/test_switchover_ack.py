"""Counting ACKs: each mode at each end, and both ends together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzzing import stable

from switchover.errors import StreamError
from switchover.model.switchover import SwitchoverAckMode
from switchover.protocol.switchover_ack import SwitchoverAckDestination, SwitchoverAckSource

LEGACY, PER_DEVICE = SwitchoverAckMode.LEGACY, SwitchoverAckMode.PER_DEVICE


def source(mode: SwitchoverAckMode, *devices: str, is_enabled: bool = True) -> SwitchoverAckSource:
    acks = SwitchoverAckSource(mode, is_enabled=is_enabled)
    for device in devices:
        acks.request(device)
    return acks


def destination(
    mode: SwitchoverAckMode, *devices: str, is_enabled: bool = True
) -> SwitchoverAckDestination:
    acks = SwitchoverAckDestination(is_enabled=is_enabled, devices=devices)
    acks.mode = mode
    return acks


# The source


@pytest.mark.parametrize("mode", [LEGACY, PER_DEVICE])
def test_without_the_capability_nothing_is_waited_for(mode: SwitchoverAckMode) -> None:
    acks = source(mode, "a", is_enabled=False)
    assert acks.is_satisfied and not acks.may_ask_again
    assert acks.waiting_for == ()
    # As QEMU: an ACK that nobody asked for is ignored.
    acks.receive()
    acks.receive()
    assert acks.is_satisfied


@pytest.mark.parametrize("devices", [(), ("a",), ("a", "b")])
def test_legacy_waits_for_one_ack_however_many_devices_there_are(devices: tuple[str, ...]) -> None:
    acks = source(LEGACY, *devices)
    assert not acks.is_satisfied and not acks.may_ask_again
    assert acks.waiting_for == devices
    acks.receive()
    assert acks.is_satisfied and acks.waiting_for == ()
    acks.receive()
    assert acks.received == 2


def test_per_device_waits_for_as_many_as_asked() -> None:
    acks = source(PER_DEVICE)
    assert acks.is_satisfied and acks.may_ask_again
    acks.request("a")
    acks.request("b")
    assert list(acks.waiting_for) == ["a", "b"]
    acks.receive()
    assert list(acks.waiting_for) == ["b"] and not acks.is_satisfied
    acks.receive()
    assert acks.is_satisfied
    acks.request("a")
    assert list(acks.waiting_for) == ["a"] and not acks.is_satisfied
    acks.receive()
    assert acks.is_satisfied


@pytest.mark.parametrize("devices", [(), ("a",), ("a", "b")])
def test_one_ack_too_many_is_an_error_in_qemus_words(devices: tuple[str, ...]) -> None:
    acks = source(PER_DEVICE, *devices)
    for _ in devices:
        acks.receive()
    with pytest.raises(StreamError, match=r"^Switchover ack pending num underflowed: "):
        acks.receive()


def test_what_was_served_is_the_destinations_turn() -> None:
    acks = source(PER_DEVICE, "a", "b")
    assert not acks.are_all_served
    acks.serve()
    acks.serve()
    assert acks.are_all_served


@pytest.mark.parametrize("mode", [LEGACY, PER_DEVICE])
def test_a_source_that_has_waited_long_enough_waits_for_nobody(mode: SwitchoverAckMode) -> None:
    acks = source(mode, "a")
    assert not acks.is_satisfied
    acks.is_waived = True
    assert acks.is_satisfied and not acks.may_ask_again
    acks.receive()


# The destination


def test_legacy_without_a_device_acknowledges_at_once_and_once() -> None:
    acks = destination(LEGACY)
    assert acks.take_due() == 0
    acks.open()
    assert acks.take_due() == 1
    acks.open()
    assert acks.take_due() == 0


def test_legacy_acknowledges_when_the_last_device_is_ready() -> None:
    acks = destination(LEGACY, "a", "b")
    acks.open()
    assert (acks.take_due(), acks.pending) == (0, ("a", "b"))
    acks.ready("b")
    assert (acks.take_due(), acks.pending) == (0, ("a",))
    acks.ready("a")
    assert (acks.take_due(), acks.pending) == (1, ())
    acks.ready("a")
    assert acks.take_due() == 0


def test_nothing_is_due_before_the_return_path_is_there() -> None:
    acks = destination(PER_DEVICE, "a")
    acks.ready("a")
    assert acks.take_due() == 0
    acks.open()
    assert acks.take_due() == 1


def test_per_device_acknowledges_each_time() -> None:
    acks = destination(PER_DEVICE, "a", "b")
    acks.open()
    assert acks.take_due() == 0
    for device in "aba":
        acks.ready(device)
    assert acks.take_due() == 3


@pytest.mark.parametrize("mode", [LEGACY, PER_DEVICE])
def test_without_the_capability_nothing_is_due(mode: SwitchoverAckMode) -> None:
    acks = destination(mode, "a", is_enabled=False)
    acks.open()
    acks.ready("a")
    assert acks.take_due() == 0


def test_nothing_is_due_once_the_machine_is_stopped() -> None:
    acks = destination(PER_DEVICE, "a")
    acks.open()
    acks.ready("a")
    acks.drop()
    acks.ready("a")
    assert acks.take_due() == 0


@pytest.mark.parametrize("mode", [LEGACY, PER_DEVICE])
def test_initial_data_that_nobody_expects_to_end_is_refused_in_qemus_words(
    mode: SwitchoverAckMode,
) -> None:
    text = "a: Received INIT_DATA_SENT but switchover ack is not used"
    assert destination(mode, "b").expect("a") == text
    assert destination(mode, "a", is_enabled=False).expect("a") == text
    assert destination(mode, "a").expect("a") is None


def test_legacy_takes_the_end_of_the_initial_data_once() -> None:
    acks = destination(LEGACY, "a")
    acks.ready("a")
    assert acks.expect("a") == (
        "a: qemu_loadvm_approve_switchover failed, err=-22 (Invalid argument)"
    )
    acks = destination(PER_DEVICE, "a")
    acks.ready("a")
    assert acks.expect("a") is None


# Both


@stable(300)
@given(
    st.sampled_from([LEGACY, PER_DEVICE]),
    st.lists(st.sampled_from("abc"), unique=True),
    st.data(),
)
def test_both_ends_agree_on_when_the_machine_may_be_stopped(
    mode: SwitchoverAckMode, devices: list[str], data: st.DataObject
) -> None:
    """Random devices, each of which asks, is served and gets ready, some of them again."""
    here, there = source(mode, *devices), destination(mode, *devices)
    there.open()
    owed = list(devices)
    on_the_way = there.take_due()
    while owed or on_the_way:
        is_needed = bool(owed) or on_the_way > 0
        assert here.is_satisfied is not is_needed
        steps = ["ready"] * bool(owed) + ["arrive"] * bool(on_the_way)
        if data.draw(st.sampled_from(steps)) == "ready":
            device = data.draw(st.sampled_from(owed))
            owed.remove(device)
            here.serve()
            assert there.expect(device) is None
            there.ready(device)
            on_the_way += there.take_due()
            if here.may_ask_again and data.draw(st.integers(0, 3)) == 0:
                here.request(device)
                owed.append(device)
        else:
            on_the_way -= 1
            here.receive()
    assert here.is_satisfied and here.are_all_served
    assert there.pending == ()
