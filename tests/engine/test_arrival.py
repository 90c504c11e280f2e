"""The destination of a guest that runs on here: what it takes, what it refuses, when it starts."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from tests.engine.live import (
    FAST,
    RETURN_PATH,
    SWITCHOVER_ACK,
    Arrival,
    Counter,
    Departure,
    TinyGuest,
    Withholding,
    assert_same_memory,
    assert_who_runs,
    make_machine,
    move,
    pair,
    wait_for_ticks,
)
from tests.waiting import wait_until

from switchover.channel.base import Buffer
from switchover.channel.connection import Connection
from switchover.engine.arrival import ArrivingDestination
from switchover.engine.incoming import ReceiveOptions
from switchover.engine.precopy import PrecopySource
from switchover.engine.progress import Progress
from switchover.errors import (
    ChannelError,
    CompatibilityError,
    GuestError,
    MigrationError,
    PeerError,
    StreamError,
)
from switchover.guest.base import LiveDevice
from switchover.model.status import MigrationStatus
from switchover.model.vmstate import VmstateDescription, VmstateField, VmstateType


def refused(source: TinyGuest, destination: TinyGuest) -> MigrationError:
    """A running guest is sent to a destination that does not take it; what that says."""
    source.cont()
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source)
        departure = Departure(source, to_destination)
        error = arrival.error()
        from_source.shutdown()
        sent = departure.error()
    assert isinstance(error, MigrationError)
    assert "\n" not in str(error) and not str(error).endswith(".")
    assert isinstance(sent, PeerError)
    assert not destination.was_started
    assert_who_runs(source, destination, sent)
    assert arrival.progress.status != MigrationStatus.COMPLETED
    return error


# What it takes


def test_everything_is_there_before_it_runs() -> None:
    class Watching(TinyGuest):
        def cont(self) -> None:
            self.seen = self.devices[0].save(), self.ram[0].memory.copy()
            super().cont()

    source, destination = TinyGuest(5), Watching()
    source.cont()
    move(source, destination)
    values, memory = destination.seen
    assert values == {"value": 5}
    assert np.array_equal(memory, source.ram[0].memory)
    assert_same_memory(source, destination)


def test_what_was_in_the_memory_before_is_gone() -> None:
    source, destination = TinyGuest(5), TinyGuest(6)
    destination.ram[0].memory[0] = 77
    source.cont()
    move(source, destination)
    assert_same_memory(source, destination)


def test_stopped_guest_is_not_started() -> None:
    source, destination = TinyGuest(5), TinyGuest()
    move(source, destination)
    assert not destination.was_started
    assert_same_memory(source, destination)


def test_guest_that_runs_is_not_overwritten() -> None:
    guest = TinyGuest(5)
    guest.cont()
    descriptors = os.listdir("/proc/self/fd")
    with pair() as (_, from_source), pytest.raises(GuestError, match="cannot receive another"):
        ArrivingDestination(guest, from_source, ReceiveOptions(), Progress(), print)
    assert os.listdir("/proc/self/fd") == descriptors


def test_destination_that_is_never_run_takes_nothing() -> None:
    with pair() as (_, from_source):
        descriptors = os.listdir("/proc/self/fd")
        ArrivingDestination(TinyGuest(), from_source, ReceiveOptions(), Progress(), print)
        assert os.listdir("/proc/self/fd") == descriptors


# Another machine


def test_other_machine_type() -> None:
    source = TinyGuest(1)
    source.machine = "tiny-2"
    error = refused(source, TinyGuest())
    assert isinstance(error, CompatibilityError)
    assert str(error) == "the machine type: expected 'tiny-1', got 'tiny-2'"


@pytest.mark.parametrize(
    "blocks",
    [{"low": 3}, {"low": 3, "high": 1}, {"low": 3, "high": 2, "more": 1}, {"low": 3, "hih": 2}],
)
@pytest.mark.parametrize("is_source", [False, True])
def test_other_ram_blocks(blocks: dict[str, int], is_source: bool) -> None:
    other, usual = TinyGuest(1 if is_source else 0, blocks=blocks), TinyGuest(1)
    error = refused(other, TinyGuest()) if is_source else refused(usual, other)
    if isinstance(error, StreamError):  # More RAM than there is, seen before the list is.
        assert "RAM" in str(error)
    else:
        assert isinstance(error, CompatibilityError)
        assert str(error).startswith("the RAM blocks: expected 'low' of 12288 bytes")


class Named(Counter):
    """A counter under another name.

    Args:
        idstr: The name.
        version_id: The version of its layout.
        is_long: Whether it has a field more.
    """

    def __init__(self, idstr: str, version_id: int = 1, *, is_long: bool = False) -> None:
        super().__init__(1)
        self.idstr = idstr
        fields = [VmstateField("value", VmstateType.UINT32)]
        if is_long:
            fields.append(VmstateField("more", VmstateType.UINT8))
        self.description = VmstateDescription(idstr, tuple(fields), version_id, version_id)

    def save(self) -> Mapping[str, Any]:
        return {"value": 1, "more": 2}


def test_device_that_is_missing_here() -> None:
    error = refused(TinyGuest(1, devices=[Counter(1), Named("second")]), TinyGuest())
    assert isinstance(error, CompatibilityError)
    assert str(error) == "device 'second' instance 0 is not in this machine"


def test_device_that_is_missing_there() -> None:
    devices = [Counter(), Named("second"), Named("third")]
    error = refused(TinyGuest(1), TinyGuest(devices=devices))
    assert isinstance(error, CompatibilityError)
    assert str(error) == "the stream lacks 'second' and 'third'"


def test_device_of_another_version() -> None:
    error = refused(TinyGuest(1, devices=[Named("counter", 2)]), TinyGuest())
    assert isinstance(error, StreamError)
    assert "device state 'counter': expected version 1 to 1, got 2" in str(error)


def test_device_with_more_state() -> None:
    error = refused(TinyGuest(1, devices=[Named("counter", is_long=True)]), TinyGuest())
    assert isinstance(error, StreamError)
    assert "device 'counter' has more state than its layout: expected 4 bytes, got 5" in str(error)


def test_device_with_less_state() -> None:
    destination = TinyGuest(devices=[Named("counter", is_long=True)])
    error = refused(TinyGuest(1), destination)
    assert isinstance(error, StreamError)
    assert "device 'counter' has less state than its layout: expected more, got 4" in str(error)


class Choosy(Counter):
    """Takes no value."""

    def load(self, values: Mapping[str, Any]) -> None:
        raise GuestError("'counter' does not take 1")


def test_device_that_does_not_take_its_state() -> None:
    error = refused(TinyGuest(1), TinyGuest(devices=[Choosy()]))
    assert isinstance(error, GuestError)
    assert str(error) == "'counter' does not take 1"


def test_live_device_that_is_missing_here() -> None:
    error = refused(TinyGuest(1, live_devices=[Withholding()]), TinyGuest())
    assert isinstance(error, StreamError)
    assert "live section 'slow' is not supported" in str(error)


def test_live_device_that_is_missing_there() -> None:
    destination = TinyGuest(live_devices=[Withholding("slow"), Withholding("other")])
    error = refused(TinyGuest(1, live_devices=[Withholding("slow")]), destination)
    assert isinstance(error, CompatibilityError)
    assert str(error) == "the stream lacks 'other'"


def test_live_device_of_another_version() -> None:
    newer = Withholding()
    newer.version_id = 2
    error = refused(TinyGuest(1, live_devices=[newer]), TinyGuest(live_devices=[Withholding()]))
    assert isinstance(error, StreamError)
    assert "live section 'slow': expected version 1, got 2" in str(error)


class Incomplete(LiveDevice):
    """Finds, when all is over, that it has not got everything."""

    idstr = "incomplete"

    def load_complete(self) -> None:
        raise GuestError("'incomplete' has 0 of 1 bytes")


def test_live_device_that_has_not_got_everything() -> None:
    error = refused(
        TinyGuest(1, live_devices=[Incomplete()]), TinyGuest(live_devices=[Incomplete()])
    )
    assert str(error) == "'incomplete' has 0 of 1 bytes"


# Garbage


class Recording(Connection):
    """Keeps what was written.

    Args:
        sock: The socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, "recording")
        self.stream = bytearray()

    def send(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self.stream += buffer
        super().send(buffers)


@pytest.fixture(scope="module")
def stream() -> bytes:
    """What a small guest is in a stream without a return path."""
    source = TinyGuest(3, live_devices=[Withholding()])
    source.cont()
    ours, theirs = socket.socketpair()
    with Recording(ours) as channel, Connection(theirs, "src") as incoming:
        arrival = Arrival(TinyGuest(live_devices=[Withholding()]), incoming)
        PrecopySource(source, channel, frozenset(), FAST, Progress()).run()
        channel.shutdown()
        arrival.finish()
        return bytes(channel.stream)


def received(data: bytes) -> tuple[TinyGuest, BaseException | None]:
    """What becomes of a stream, and what the destination ends with."""
    guest = TinyGuest(live_devices=[Withholding()])
    ours, theirs = socket.socketpair()
    with Connection(ours, "played") as channel, Connection(theirs, "src") as incoming:
        arrival = Arrival(guest, incoming)
        try:
            channel.send([data])
        except ChannelError:
            pass  # It did not want all of it.
        channel.shutdown()
        return guest, arrival.error()


def test_stream_as_it_was(stream: bytes) -> None:
    guest, error = received(stream)
    assert error is None
    assert guest.is_running


def test_stream_that_ends_anywhere(stream: bytes) -> None:
    pages = range(400, len(stream) - 1500, 997)
    for size in [*range(400), *pages, *range(len(stream) - 1500, len(stream), 3)]:
        guest, error = received(stream[:size])
        assert isinstance(error, PeerError), size
        assert not guest.was_started


def test_stream_with_a_wrong_byte(stream: bytes) -> None:
    """It may be a byte of the guest's own; where it is not, one error says what is wrong."""
    errors = 0
    for position in [*range(200), *range(len(stream) - 900, len(stream))]:
        damaged = bytearray(stream)
        damaged[position] ^= 0xA5
        guest, error = received(bytes(damaged))
        assert error is None or isinstance(error, MigrationError), position
        assert error is None or not guest.was_started
        errors += error is not None
    assert errors > 600


def test_garbage() -> None:
    for data in (b"", b"\0" * 100, os.urandom(1000), b"GET / HTTP/1.1\r\n\r\n"):
        guest, error = received(data)
        assert isinstance(error, MigrationError)
        assert not guest.was_started


# Ready


def test_every_device_that_wants_an_ack_is_waited_for() -> None:
    first, second = Withholding("first"), Withholding("second")
    source = make_machine(2000, devices=[Withholding("first"), Withholding("second")])
    destination = make_machine(devices=[first, second])
    source.cont()
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source, SWITCHOVER_ACK)
        departure = Departure(source, to_destination, SWITCHOVER_ACK)
        wait_until(lambda: first.ready and second.ready, "both have something")
        second.release()
        second.release()  # Saying it twice is saying it once.
        wait_for_ticks(source, 5)
        assert arrival.progress.ack_sent_ns is None
        assert source.is_running
        first.release()
        departure.finish()
        arrival.finish()
    first.release()  # Too late, and no harm.
    wait_for_ticks(destination, 1)


def test_device_that_is_ready_as_soon_as_it_is_loaded() -> None:
    class Prompt(Withholding):
        def load(self, piece: bytes, ready: Callable[[], None]) -> None:
            super().load(piece, ready)
            if piece == b"two":
                ready()

    source, destination = make_machine(devices=[Prompt()]), make_machine(devices=[Prompt()])
    source.cont()
    report = move(source, destination, SWITCHOVER_ACK).progress.report()
    assert report.switchover_ack.received_ms is not None
    wait_for_ticks(destination, 1)


def test_guest_that_fails_can_be_received_into_again() -> None:
    source, destination = TinyGuest(5), TinyGuest()
    source.cont()
    source.devices = (Named("counter", 2),)
    refused(source, destination)
    source.devices = (Counter(5),)
    source.cont()
    move(source, destination, RETURN_PATH)
    assert destination.is_running
    assert_same_memory(source, destination)
