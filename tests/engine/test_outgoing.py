"""Who has the guest when the connection dies, wherever it does: never two, and no lies."""

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from tests.engine.live import (
    FAST,
    RETURN_PATH,
    SWITCHOVER_ACK,
    Arrival,
    Departure,
    Played,
    TinyGuest,
    Withholding,
    assert_one_machine,
    assert_same_memory,
    assert_who_runs,
    make_machine,
    pair,
    wait_for_ticks,
)
from tests.engine.peer import ACK, pong, shut
from tests.waiting import wait_until

from switchover.channel.base import Buffer
from switchover.channel.connection import Connection
from switchover.engine.precopy import PrecopySource
from switchover.engine.progress import Progress
from switchover.errors import ChannelError, MigrationCancelled, MigrationError, PeerError
from switchover.model.status import MigrationStatus
from switchover.protocol.grammar import StreamState

BROKEN = "dying: sending failed: Broken pipe"
PIECES = [b"setup", b"one", b"two"]


class Recording(Connection):
    """Notes where each write begins and how long it is.

    Args:
        sock: The socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, "recording")
        self.writes: list[int] = []

    def send(self, buffers: Sequence[Buffer]) -> None:
        self.writes.append(sum(map(len, buffers)))
        super().send(buffers)


class Dying(Connection):
    """Takes so many bytes and breaks.

    Args:
        sock: The socket.
        size: How many.
        error: What it breaks with; None to lose the rest without a word.
    """

    def __init__(
        self,
        sock: socket.socket,
        size: int,
        error: BaseException | None = None,
        *,
        is_silent: bool = False,
    ) -> None:
        super().__init__(sock, "dying")
        self._left = size
        self._failure = None if is_silent else error or ChannelError(BROKEN)

    def send(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            super().send([buffer[: self._left]])
            if len(buffer) > self._left:
                self._left = 0
                if self._failure is None:
                    continue
                raise self._failure
            self._left -= len(buffer)


class Deaf(Connection):
    """Hears so many bytes, and then the connection is gone.

    Args:
        sock: The socket.
        size: How many.
    """

    def __init__(self, sock: socket.socket, size: int) -> None:
        super().__init__(sock, "deaf")
        self._left = size

    def recv_into(self, buffer: memoryview) -> int:
        if self._left == 0:
            self.shutdown()
            raise ChannelError("deaf: receiving failed: Connection reset by peer")
        size = super().recv_into(buffer[: self._left])
        self._left -= size
        return size


def make_tiny(seed: int = 0) -> TinyGuest:
    """A small guest with a live device."""
    return TinyGuest(seed, live_devices=[Withholding()])


def run_source(
    guest: TinyGuest,
    channel: Connection,
    *,
    resumes_when_unsure: bool = False,
) -> BaseException | None:
    """Sends the guest from the test's thread; what it ended with."""
    source = PrecopySource(
        guest,
        channel,
        RETURN_PATH,
        FAST,
        Progress(),
        resumes_when_unsure=resumes_when_unsure,
    )
    try:
        source.run()
    except BaseException as error:
        return error
    finally:
        channel.close()  # As a process that ends does: the destination hears of it.
    return None


def record_writes() -> list[int]:
    """How long each write of the small guest's stream is."""
    source, destination = make_tiny(1), make_tiny()
    source.cont()
    ours, theirs = socket.socketpair()
    with Recording(ours) as channel, Connection(theirs, "src") as incoming:
        arrival = Arrival(destination, incoming)
        assert run_source(source, channel) is None
        arrival.finish()
        assert_same_memory(source, destination)
        return channel.writes


@pytest.fixture(scope="module")
def writes() -> list[int]:
    return record_writes()


def byte_classes(writes: Sequence[int]) -> list[int]:
    """Offsets at the edges and in the middle of each write, and all in the short ones."""
    offsets: set[int] = {0}
    begin = 0
    for size in writes:
        inside = range(size) if size <= 64 else (0, 1, 4, 5, 9, size // 2, size - 6, size - 1)
        offsets |= {begin + offset for offset in inside}
        begin += size
    return sorted(offsets)


def test_connection_that_dies_while_the_source_writes(writes: list[int]) -> None:
    end_mark, total = sum(writes[:-1]), sum(writes)
    source = make_tiny(1)
    offsets = byte_classes(writes)
    assert len(offsets) > 150
    for offset in offsets:
        destination = make_tiny()
        source.cont()
        ours, theirs = socket.socketpair()
        with Dying(ours, offset) as channel, Connection(theirs, "src") as incoming:
            arrival = Arrival(destination, incoming)
            error = run_source(source, channel)
            assert isinstance(arrival.error(), MigrationError)
        assert isinstance(error, PeerError)
        assert error.after_switchover == (offset >= end_mark), offset
        assert_who_runs(source, destination, error)
        assert not destination.was_started
    # And one that does not die at all.
    source.cont()
    destination = make_tiny()
    ours, theirs = socket.socketpair()
    with Dying(ours, total) as channel, Connection(theirs, "src") as incoming:
        arrival = Arrival(destination, incoming)
        error = run_source(source, channel)
        arrival.finish()
    assert error is None
    assert_who_runs(source, destination, error)


def test_connection_that_dies_while_the_destination_reads(writes: list[int]) -> None:
    """The source may have written everything by then: then it cannot know, and stays stopped."""
    source = make_tiny(1)
    for offset in byte_classes(writes):
        destination = make_tiny()
        source.cont()
        ours, theirs = socket.socketpair()
        with Connection(ours, "dst") as channel, Deaf(theirs, offset) as incoming:
            arrival = Arrival(destination, incoming)
            error = run_source(source, channel)
            assert isinstance(arrival.error(), MigrationError)
        assert isinstance(error, PeerError)
        assert_who_runs(source, destination, error)
        assert not destination.was_started


@pytest.mark.parametrize("offset", range(21))
def test_connection_that_dies_while_the_destination_answers(offset: int) -> None:
    """An ACK, a PONG, and SHUT: only with the last byte of that does the destination run."""
    source, destination = TinyGuest(1), TinyGuest()
    source.cont()
    ours, theirs = socket.socketpair()
    with Connection(ours, "dst") as channel, Dying(theirs, offset) as incoming:
        arrival = Arrival(destination, incoming, SWITCHOVER_ACK)
        departure = Departure(source, channel, SWITCHOVER_ACK)
        received = arrival.error()
        incoming.close()
        error = departure.error()
    assert_who_runs(source, destination, error)
    assert destination.was_started == (offset == 20)
    assert (received is None) == (error is None) == (offset == 20)
    if offset < len(ACK):
        assert source.is_running
    if offset >= len(ACK + pong(1)):
        assert not source.is_running


@pytest.mark.parametrize("lost", range(1, 9))
@pytest.mark.parametrize("resumes_when_unsure", [False, True])
def test_shut_that_is_lost_on_the_way(lost: int, resumes_when_unsure: bool) -> None:
    """The one case in which nobody can know: the destination runs, and the source says it may."""
    source, destination = TinyGuest(1), TinyGuest()
    source.cont()
    ours, theirs = socket.socketpair()
    with (
        Connection(ours, "dst") as channel,
        Dying(theirs, 16 - lost, is_silent=True) as incoming,
    ):
        arrival = Arrival(destination, incoming)
        departure = Departure(source, channel, resumes_when_unsure=resumes_when_unsure)
        arrival.finish()
        incoming.close()
        error = departure.error()
    assert isinstance(error, PeerError) and error.after_switchover
    assert "nobody here can know whether the destination runs the guest" in str(error)
    assert destination.is_running
    assert source.is_running == resumes_when_unsure
    assert departure.progress.status != MigrationStatus.COMPLETED
    source.cont()  # Whoever knows better may let it run on.
    assert source.is_running


@pytest.mark.parametrize(
    ("state", "is_unsure"),
    [
        (StreamState.HEADER, False),
        (StreamState.SETUP, False),
        (StreamState.ITERATE, False),
        (StreamState.COMPLETE, False),
        (StreamState.END, True),
    ],
)
@pytest.mark.parametrize("pages_per_second", [2000, None])
def test_machine_that_loses_its_connection(
    state: StreamState, is_unsure: bool, pages_per_second: int | None
) -> None:
    source, destination = make_machine(pages_per_second), make_machine()
    source.cont()
    wait_for_ticks(source, 2)

    class Cut(Connection):
        engine: PrecopySource | None = None

        def send(self, buffers: Sequence[Buffer]) -> None:
            assert self.engine is not None
            if state in (self.engine._save.state, StreamState.HEADER):
                raise ChannelError(BROKEN)
            super().send(buffers)

    ours, theirs = socket.socketpair()
    with Cut(ours, "dst") as channel, Connection(theirs, "src") as incoming:
        arrival = Arrival(destination, incoming)
        channel.engine = PrecopySource(source, channel, RETURN_PATH, FAST, Progress())
        with pytest.raises(PeerError) as caught:
            channel.engine.run()
        assert isinstance(arrival.error(), MigrationError)
    assert caught.value.after_switchover == is_unsure
    assert source.is_running == (not is_unsure)
    assert not destination.is_running
    if is_unsure:
        source.check()
        source.cont()
    assert_one_machine(source)


def test_interrupt_leaves_the_guest_where_it_is(writes: list[int]) -> None:
    end_mark = sum(writes[:-1])
    for offset in (0, writes[0], end_mark - 1, end_mark, sum(writes) - 1):
        source = make_tiny(1)
        source.cont()
        ours, theirs = socket.socketpair()
        interrupt = KeyboardInterrupt()
        with Dying(ours, offset, interrupt) as channel, Connection(theirs, "src") as incoming:
            played = Played(incoming, ["slow"])
            assert run_source(source, channel) is interrupt
            played.join()
        is_unsure = offset >= end_mark
        assert source.is_running != is_unsure
        assert bool(getattr(interrupt, "__notes__", [])) == is_unsure


# Called off


class Noticing(Connection):
    """Calls back before one of its writes.

    Args:
        sock: The socket.
        number: Which one, from 1 on.

    Attributes:
        notice: What is called.
    """

    def __init__(self, sock: socket.socket, number: int) -> None:
        super().__init__(sock, "noticing")
        self._number = number
        self.notice: Callable[[], None] = lambda: None

    def send(self, buffers: Sequence[Buffer]) -> None:
        self._number -= 1
        if self._number == 0:
            self.notice()
        super().send(buffers)


def test_cancel_at_every_write(writes: list[int]) -> None:
    """Either it comes in time, and the guest goes on, or it comes to nothing."""
    for number in range(1, len(writes) + 1):
        source, destination = make_tiny(1), make_tiny()
        source.cont()
        ours, theirs = socket.socketpair()
        with Noticing(ours, number) as channel, Connection(theirs, "src") as incoming:
            arrival = Arrival(destination, incoming)
            engine = PrecopySource(source, channel, RETURN_PATH, FAST, Progress())
            channel.notice = engine.cancel
            if number < len(writes):
                with pytest.raises(MigrationCancelled, match=r"\Acancelled\Z"):
                    engine.run()
                assert isinstance(arrival.error(), MigrationError)
            else:
                engine.run()
                arrival.finish()
        assert source.is_running == (number < len(writes))
        assert destination.is_running != source.is_running


def test_cancel_that_races_with_the_end_mark_leaves_no_doubt(writes: list[int]) -> None:
    for number in range(200):
        source, destination = make_tiny(1), make_tiny()
        source.cont()
        ours, theirs = socket.socketpair()
        with (
            Noticing(ours, len(writes) - 1) as channel,
            Connection(theirs, "src") as incoming,
        ):
            near = threading.Event()
            channel.notice = near.set
            arrival = Arrival(destination, incoming)
            departure = Departure(source, channel)
            assert near.wait(60)
            for _ in range(number * 20):
                pass
            departure.engine.cancel()
            error = departure.error()
            received = arrival.error()
        assert error is None or isinstance(error, MigrationCancelled)
        assert (received is None) == (error is None)
        assert destination.is_running != source.is_running
        assert destination.is_running == (error is None)


# What the destination says


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (shut(1), "dst: the destination says that it failed (SHUT 1)"),
        (shut(0), "dst: the destination sent SHUT before it had everything"),
        (b"\xff\xff\x00\x00", "unknown return path message"),
    ],
)
def test_destination_that_fails_while_it_is_waited_for(said: bytes, reason: str) -> None:
    source = make_machine(2000)
    source.cont()
    ours, theirs = socket.socketpair()
    with Connection(ours, "dst") as channel, Connection(theirs, "src") as incoming:
        played = Played(incoming)
        departure = Departure(source, channel, SWITCHOVER_ACK)
        wait_until(lambda: departure.progress.waiting_ns is not None, "the wait")
        played.say(said)
        error = departure.error()
        with suppress(ChannelError):
            played.join()
    assert isinstance(error, PeerError) and not error.after_switchover
    assert reason in str(error)
    assert str(error).endswith("; the destination did not get the whole guest")
    assert_one_machine(source)


@pytest.mark.parametrize("said", [shut(1), b"", pong(1), b"\xff\xff\x00\x00", shut(0)[:7]])
def test_destination_that_does_not_say_that_it_has_the_guest(said: bytes) -> None:
    source = TinyGuest(1)
    source.cont()
    with pair() as (channel, incoming):
        played = Played(incoming)
        departure = Departure(source, channel)
        wait_until(lambda: played.state == StreamState.END, "the end of the stream")
        played.say(ACK + said)
        incoming.shutdown()
        error = departure.error()
        played.join()
    assert isinstance(error, PeerError) and error.after_switchover
    assert not source.is_running


def test_source_without_a_return_path_is_done_when_all_is_written() -> None:
    source, destination = TinyGuest(1), TinyGuest()
    source.cont()
    with pair() as (channel, incoming):
        arrival = Arrival(destination, incoming)
        departure = Departure(source, channel, frozenset())
        departure.finish()
        arrival.finish()
    assert destination.is_running and not source.is_running
    assert_same_memory(source, destination)


@pytest.mark.parametrize("is_last", [False, True])
def test_source_without_a_return_path_whose_connection_dies(is_last: bool) -> None:
    writes = record_writes()
    offset = sum(writes) - 60 if is_last else 100
    source = make_tiny(1)
    source.cont()
    ours, theirs = socket.socketpair()
    with Dying(ours, offset) as channel, Connection(theirs, "src") as incoming:
        arrival = Arrival(make_tiny(), incoming)
        engine = PrecopySource(source, channel, frozenset(), FAST, Progress())
        with pytest.raises(MigrationError, match="Broken pipe") as caught:
            engine.run()
        channel.close()
        assert isinstance(arrival.error(), MigrationError)
    assert source.is_running != is_last
    assert engine.may_run_there == is_last
    assert isinstance(caught.value, PeerError if is_last else ChannelError)
    assert getattr(caught.value, "after_switchover", False) == is_last
