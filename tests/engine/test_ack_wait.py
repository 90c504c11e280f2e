"""The source's patience, in invented time."""

import time

import pytest

from switchover.engine.ack_wait import HINT_NS, AckWait
from switchover.engine.progress import Progress
from switchover.errors import PeerError
from switchover.model.parameter import AckTimeoutPolicy
from switchover.model.switchover import SwitchoverAckMode
from switchover.protocol.switchover_ack import SwitchoverAckSource

LEGACY, PER_DEVICE = SwitchoverAckMode.LEGACY, SwitchoverAckMode.PER_DEVICE
MS_NS = 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time, which a test moves on."""
    now = [5_000 * MS_NS]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    return now


def waiting(
    mode: SwitchoverAckMode = LEGACY, *devices: str, served: int | None = None
) -> tuple[AckWait, SwitchoverAckSource, Progress]:
    acks = SwitchoverAckSource(mode, is_enabled=True)
    for device in devices:
        acks.request(device)
    for _ in range(len(devices) if served is None else served):
        acks.serve()
    progress = Progress()
    return AckWait(acks, progress), acks, progress


def test_wait_begins_when_the_source_has_done_its_part(clock: list[int]) -> None:
    wait, acks, progress = waiting(PER_DEVICE, "nic", "gpu", served=1)
    wait.look()
    assert progress.waiting_for == ("nic", "gpu")
    assert progress.ack_wait_ns is None
    acks.serve()
    wait.look()
    clock[0] += 7
    assert progress.ack_wait_ns == 7
    wait.look()
    assert progress.ack_wait_ns == 7


def test_wait_ends_where_the_source_has_something_to_send_again(clock: list[int]) -> None:
    wait, acks, progress = waiting(PER_DEVICE, "nic")
    wait.timeout_ms = 10
    wait.look()
    clock[0] += 9 * MS_NS
    acks.request("nic")
    wait.look()
    clock[0] += 1000 * MS_NS
    wait.look()
    assert progress.ack_wait_ns == 9 * MS_NS
    acks.serve()
    wait.look()
    clock[0] += MS_NS
    with pytest.raises(PeerError):
        wait.look()


def test_no_timeout_is_for_ever(clock: list[int]) -> None:
    wait, _, progress = waiting()
    wait.look()
    clock[0] += 10**18
    wait.look()
    assert not progress.ack_timed_out


@pytest.mark.parametrize(
    ("mode", "devices", "whom"),
    [
        (LEGACY, (), ""),
        (LEGACY, ("nic",), " for 'nic'"),
        (PER_DEVICE, ("nic", "gpu"), " for 'nic' and 'gpu'"),
    ],
)
def test_patience_is_over_to_the_millisecond(
    clock: list[int], mode: SwitchoverAckMode, devices: tuple[str, ...], whom: str
) -> None:
    wait, _, _ = waiting(mode, *devices)
    wait.timeout_ms = 1500
    wait.look()
    clock[0] += 1500 * MS_NS - 1
    wait.look()
    clock[0] += 1
    with pytest.raises(PeerError) as caught:
        wait.look()
    assert not caught.value.after_switchover
    assert str(caught.value).startswith(
        f"no SWITCHOVER_ACK came in 1500 ms (switchover-ack-timeout){whom}: all initial data"
    )


def test_policy_may_be_to_go_on(clock: list[int]) -> None:
    wait, acks, progress = waiting(LEGACY, "nic")
    wait.timeout_ms, wait.policy = 1, AckTimeoutPolicy.PROCEED
    wait.look()
    clock[0] += MS_NS
    wait.look()
    assert progress.ack_timed_out
    assert acks.is_waived and acks.is_satisfied
    assert acks.received == 0


@pytest.mark.parametrize(
    ("mode", "words"),
    [(LEGACY, "it counts per device"), (PER_DEVICE, "it sends one ACK for all devices")],
)
def test_long_wait_is_explained(clock: list[int], mode: SwitchoverAckMode, words: str) -> None:
    wait, _, progress = waiting(mode, "nic")
    wait.look()
    clock[0] += HINT_NS - 1
    wait.look()
    assert progress.hint is None
    clock[0] += 1
    wait.look()
    assert progress.hint is not None and words in progress.hint
    assert "switchover-ack-legacy" in progress.hint
