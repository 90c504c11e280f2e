"""What a destination answers and when, to a source that is played by bytes."""

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.engine.live import (
    FAST,
    NONE,
    RETURN_PATH,
    SWITCHOVER_ACK,
    Arrival,
    TinyGuest,
    Withholding,
    assert_same_memory,
)
from tests.engine.peer import ACK, PeerSocket, connect_to, joined, pong, shut
from tests.waiting import wait_until

from switchover.channel.base import Buffer
from switchover.channel.connection import Connection, Listener
from switchover.channel.file import open_file
from switchover.engine import incoming
from switchover.engine.precopy import PrecopySource
from switchover.engine.progress import Progress
from switchover.errors import MigrationError, PeerError, StreamError, UnsupportedStream
from switchover.model.address import InetAddress
from switchover.model.capability import Capability
from switchover.model.status import MigrationStatus
from switchover.wire.cursor import u32
from switchover.wire.stream import MULTIFD_MAGIC

HOLD_NS = 300_000_000


class Recording(Connection):
    """Keeps each write.

    Args:
        sock: The socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, "recording")
        self.writes: list[bytes] = []

    def send(self, buffers: Sequence[Buffer]) -> None:
        self.writes.append(b"".join(map(bytes, buffers)))
        super().send(buffers)


def record(capabilities: frozenset[Capability] = RETURN_PATH) -> list[bytes]:
    """What a source of the small guest writes, write by write."""
    source = TinyGuest(1, live_devices=[Withholding()])
    source.cont()
    ours, theirs = socket.socketpair()
    with Recording(ours) as channel, Connection(theirs, "src") as from_source:
        arrival = Arrival(TinyGuest(live_devices=[Withholding()]), from_source)
        PrecopySource(source, channel, capabilities, FAST, Progress()).run()
        arrival.finish()
        return channel.writes


@pytest.fixture(scope="module")
def writes() -> list[bytes]:
    return record()


def make_destination() -> tuple[TinyGuest, Withholding]:
    device = Withholding()
    return TinyGuest(live_devices=[device]), device


def switchover(writes: Sequence[bytes]) -> int:
    """The write with which the end of RAM comes: END sections of RAM and of the live device."""
    return len(writes) - 6


def assert_silent(peer: PeerSocket) -> None:
    """Nothing has been said."""
    peer.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.socket.recv(1)
    peer.socket.settimeout(60)


def test_ack_comes_when_the_device_is_ready_though_the_source_is_silent(
    writes: list[bytes],
) -> None:
    guest, device = make_destination()
    with joined() as (channel, peer):
        arrival = Arrival(guest, channel, SWITCHOVER_ACK)
        peer.send(b"".join(writes[: switchover(writes)]))
        assert peer.recv(len(pong(1))) == pong(1)
        wait_until(lambda: device.pieces == [b"setup", b"one", b"two"], "the initial data")
        assert_silent(peer)
        assert arrival.progress.ack_asked_ns is None
        device.release()  # from this thread: the destination's waits for bytes
        assert peer.recv(len(ACK)) == ACK
        peer.send(b"".join(writes[switchover(writes) :]))
        assert peer.recv(len(shut())) == shut()
        arrival.finish()
    assert guest.is_running


def test_ack_comes_at_once_where_no_device_wants_it(writes: list[bytes]) -> None:
    guest, device = make_destination()
    device.wants_switchover_ack = False
    with joined() as (channel, peer):
        arrival = Arrival(guest, channel, SWITCHOVER_ACK)
        peer.send(b"".join(writes[:2]))
        assert peer.recv(len(ACK)) == ACK
        peer.send(b"".join(writes[2:]))
        assert peer.recv(12 + 4) == pong(1) + shut()
        arrival.finish()
    assert guest.is_running


def test_no_ack_without_the_capability(writes: list[bytes]) -> None:
    guest, device = make_destination()
    with joined() as (channel, peer):
        arrival = Arrival(guest, channel, RETURN_PATH)
        peer.send(b"".join(writes[: switchover(writes)]))
        wait_until(lambda: len(device.pieces) == 3, "the initial data")
        device.release()
        peer.send(b"".join(writes[switchover(writes) :]))
        arrival.finish()
        channel.shutdown()
        assert peer.recv_rest() == pong(1) + shut()
    assert arrival.progress.ack_sent_ns is None


def test_source_that_does_not_wait_gets_no_late_ack(writes: list[bytes]) -> None:
    guest, device = make_destination()
    with joined() as (channel, peer):
        arrival = Arrival(guest, channel, SWITCHOVER_ACK)
        peer.send(b"".join(writes[:-1]))
        wait_until(lambda: arrival.progress.status == MigrationStatus.DEVICE, "the switchover")
        device.release()
        peer.send(writes[-1])
        arrival.finish()
        channel.shutdown()
        assert peer.recv_rest() == pong(1) + shut()
    assert guest.is_running
    assert arrival.progress.ack_sent_ns is None


def test_hold_counts_from_when_the_last_device_is_ready(writes: list[bytes]) -> None:
    guest, device = make_destination()
    with joined() as (channel, peer):
        arrival = Arrival(guest, channel, SWITCHOVER_ACK, hold_ack_ns=HOLD_NS)
        peer.send(b"".join(writes[: switchover(writes)]))
        wait_until(lambda: len(device.pieces) == 3, "the initial data")
        device.release()
        assert peer.recv(12) == pong(1) + ACK
        peer.send(b"".join(writes[switchover(writes) :]))
        arrival.finish()
    asked, sent = arrival.progress.ack_asked_ns, arrival.progress.ack_sent_ns
    assert asked is not None and sent is not None
    assert sent - asked >= HOLD_NS


def test_source_that_leaves_before_it_is_told(writes: list[bytes]) -> None:
    """Nobody would know: the guest is not started, and the source still has it."""
    guest, _ = make_destination()
    with joined() as (channel, peer):
        peer.send(b"".join(writes))
        peer.leave()
        arrival = Arrival(guest, channel)
        error = arrival.error()
    assert isinstance(error, PeerError) and not error.after_switchover
    assert str(error) == "pair: the source left before it was told that its guest is here"
    assert not guest.was_started


def test_source_that_leaves_while_the_ack_is_held(writes: list[bytes]) -> None:
    guest, device = make_destination()
    with joined() as (channel, peer):
        arrival = Arrival(guest, channel, SWITCHOVER_ACK)
        peer.send(b"".join(writes[: switchover(writes)]))
        wait_until(lambda: len(device.pieces) == 3, "the initial data")
        peer.leave()
        error = arrival.error()
    device.release()  # Too late, and no harm.
    assert isinstance(error, PeerError)
    assert "the source left before the guest was whole" in str(error)
    assert not guest.was_started


def test_source_that_stalls_behind_ram(
    writes: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "STALL_LIMIT_NS", 50_000_000)
    guest, _ = make_destination()
    with joined() as (channel, peer):
        arrival = Arrival(guest, channel)
        peer.send(b"".join(writes[:-1]))
        assert isinstance(arrival.error(), StreamError)
    assert not guest.was_started


def test_stream_may_come_a_byte_at_a_time(writes: list[bytes]) -> None:
    guest, device = make_destination()
    device.wants_switchover_ack = False
    stream = b"".join(writes)
    with joined() as (channel, peer):
        arrival = Arrival(guest, channel, SWITCHOVER_ACK)
        for byte in stream[:300]:
            peer.send(bytes([byte]))
        peer.send(stream[300:-600])
        for byte in stream[-600:]:
            peer.send(bytes([byte]))
        arrival.finish()
    assert guest.is_running
    assert_same_memory(TinyGuest(1), guest)


def test_second_connection_does_not_disturb(writes: list[bytes]) -> None:
    guest, _ = make_destination()
    with Listener(InetAddress("127.0.0.1", 0)) as listener:
        arrival = Arrival(guest, listener)
        with connect_to(listener) as peer:
            peer.send(writes[0])
            with connect_to(listener) as stranger:
                stranger.send(b"GET / HTTP/1.1\r\n")
                assert stranger.recv_rest() == b""
            peer.send(b"".join(writes[1:]))
            arrival.finish()
    assert guest.is_running
    assert len(arrival.warnings) == 1 and "a second connection" in arrival.warnings[0]


def test_multifd_is_refused_in_a_sentence(writes: list[bytes]) -> None:
    guest, _ = make_destination()
    with Listener(InetAddress("127.0.0.1", 0)) as listener:
        arrival = Arrival(guest, listener)
        with connect_to(listener) as peer:
            peer.send(writes[0])
            with connect_to(listener) as other:
                other.send(u32(MULTIFD_MAGIC))
                error = arrival.error()
    assert isinstance(error, UnsupportedStream)
    assert "capability 'multifd' is not supported yet" in str(error)
    assert not guest.was_started


def test_guest_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "guest"
    stream = b"".join(record(NONE))
    path.write_bytes(stream)
    guest, _ = make_destination()
    with open_file(str(path), str(path)) as channel:
        Arrival(guest, channel, NONE).finish()
    assert guest.is_running
    assert_same_memory(TinyGuest(1), guest)
    path.write_bytes(stream[:-1])
    guest, _ = make_destination()
    with open_file(str(path), str(path)) as channel:
        assert isinstance(Arrival(guest, channel, NONE).error(), MigrationError)
    assert not guest.was_started
