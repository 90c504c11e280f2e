"""The source of a parked guest, against destinations that are played byte by byte."""

import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.engine.peer import (
    ACK,
    RAM_HEADER,
    SWITCHOVER_ACK,
    Destination,
    PeerSocket,
    Source,
    assert_same_guest,
    joined,
    load_file,
    make_guest,
    parked_names,
    pong,
    shut,
)

from switchover.channel.base import Buffer
from switchover.channel.connection import Connection, Listener, connect
from switchover.channel.exec import ExecChannel
from switchover.channel.file import AtomicFile, DescriptorChannel, open_file
from switchover.engine.incoming import ReceiveOptions
from switchover.engine.load import GuestLoader
from switchover.engine.progress import Progress
from switchover.engine.source import ParkedSource
from switchover.errors import ChannelError, GuestError, PeerError, StreamError
from switchover.guest.parked import ParkedGuest
from switchover.model.ramblock import RAMBlock
from switchover.model.status import MigrationStatus
from switchover.model.switchover import SwitchoverAckMode
from switchover.protocol.event import Pinged, ReturnPathOpened, SwitchoverStarted
from switchover.worker import Worker

UNSURE = (
    "everything was written, and nobody here can know whether the destination runs the guest: look "
    "there before it is sent again"
)
NOT_WHOLE = "; the destination did not get the whole guest"
GARBAGE = b"\xff\xfe\xfd\xfc"


def sent_stream(guest: ParkedGuest) -> bytes:
    """All that a source sends to a destination that answers."""
    with joined() as (channel, peer):
        source = Source(guest, channel)
        received = bytearray()
        description = guest.devices.description if guest.devices else b""
        while not received.endswith(description):
            received += peer.socket.recv(1 << 20)
        peer.send(shut())
        assert source.error() is None
        return bytes(received)


def end_mark_offset(guest: ParkedGuest, stream: bytes) -> int:
    assert guest.devices is not None
    return len(stream) - len(guest.devices.description) - len(b"\x00\x06\x00\x00\x00\x00")


# All is well


@pytest.mark.parametrize("machine", ["pc-q35-9.2", "pc-i440fx-10.0", "microvm", None])
def test_guest_comes_through_bit_for_bit(
    listener: Listener, tmp_path: Path, machine: str | None
) -> None:
    guest = make_guest(machine, pages=5000, device_size=100_000)
    receiving = Destination(listener, tmp_path / "guest", ReceiveOptions(SWITCHOVER_ACK)).start()
    with connect(listener.address) as channel:
        source = Source(guest, channel)
        assert source.error() is None
    assert_same_guest(receiving.guest(), guest)
    sent, received = source.progress.report(), receiving.progress.report()
    assert sent.status == received.status == MigrationStatus.COMPLETED
    assert (sent.machine, sent.ram_bytes, sent.transferred_bytes, sent.devices) == (
        received.machine,
        received.ram_bytes,
        received.transferred_bytes,
        received.devices,
    )
    assert (sent.pages, sent.zero_pages) == (received.pages, received.zero_pages)
    assert sent.pages == np.count_nonzero(guest.blocks["pc.ram"].populated)
    # The destination held nothing back, so its ACK came; a parked guest does not wait for it.
    assert sent.switchover_ack.received_ms is not None


def test_guest_comes_through_many_times(tmp_path: Path) -> None:
    """A file that was received is what was sent, and sends the same again."""
    guest = make_guest()
    streams = []
    for number in range(3):
        path = tmp_path / str(number)
        ours, theirs = socket.socketpair()
        with Connection(theirs, "dst") as incoming, Connection(ours, "src") as channel:
            receiving = Destination(incoming, path).start()
            assert Source(guest, channel).error() is None
            guest = receiving.guest()
        streams.append(path.read_bytes())
    assert streams[0] == streams[1] == streams[2]
    assert_same_guest(guest, make_guest())


def test_what_the_return_path_says_besides_is_taken() -> None:
    guest = make_guest()
    size = len(sent_stream(guest))
    with joined() as (channel, peer):
        source = Source(guest, channel)
        peer.send(ACK + pong(1))
        assert len(peer.recv(size)) == size
        peer.send(pong(7) + ACK + shut())
        assert source.error() is None
    report = source.progress.report()
    assert report.status == MigrationStatus.COMPLETED
    assert report.switchover_ack.mode == SwitchoverAckMode.LEGACY
    assert report.switchover_ack.received_ms is not None
    assert report.switchover_ack.asked_ms is None
    assert report.transferred_bytes == size


def test_answers_come_a_byte_at_a_time() -> None:
    guest = make_guest()
    size = len(sent_stream(guest))
    with joined() as (channel, peer):
        source = Source(guest, channel)
        peer.recv(size)
        for byte in ACK + pong(1) + shut():
            peer.send(bytes([byte]))
        assert source.error() is None


def test_source_waits_for_the_last_word() -> None:
    guest = make_guest()
    size = len(sent_stream(guest))
    with joined() as (channel, peer):
        source = Source(guest, channel)
        peer.recv(size)
        peer.send(ACK + pong(1))
        assert {"test/src", "mig/src/return"} <= {thread.name for thread in threading.enumerate()}
        assert source.progress.status != MigrationStatus.COMPLETED
        peer.send(shut())
        assert source.error() is None
        assert peer.recv_rest() == b""


def test_destination_that_wants_no_description_has_the_guest(listener: Listener) -> None:
    """It says so, and leaves, as soon as it has the end mark."""
    guest = make_guest()
    assert guest.devices is not None
    padding = b" " * (8 << 20)
    size = end_mark_offset(guest, sent_stream(guest)) + 1
    guest.devices = type(guest.devices)(
        guest.devices.data, guest.devices.description + padding, guest.devices.sections
    )
    worker = Worker("test/dst", lambda: leave_early(listener, size))
    with connect(listener.address) as channel:
        source = Source(guest, channel)
        assert source.error() is None
    worker.join()
    assert worker.error is None
    assert source.progress.status == MigrationStatus.COMPLETED


def leave_early(listener: Listener, size: int) -> None:
    sock, _ = listener._socket.accept()
    with PeerSocket(sock) as peer:
        assert len(peer.recv(size)) == size
        peer.send(shut())


# A destination that goes away


def test_destination_that_leaves_before_anything() -> None:
    # More than fits between the two: it cannot have been written.
    guest = make_guest(pages=8000)
    with joined() as (channel, peer):
        peer.close()
        error = Source(guest, channel).error()
    assert isinstance(error, PeerError)
    assert not error.after_switchover
    assert str(error).endswith(NOT_WHOLE)
    assert str(error).startswith("pair: ")


@pytest.mark.parametrize("listener", ["tcp", "unix"], indirect=True)
def test_destination_that_leaves_amid_ram(listener: Listener) -> None:
    guest = make_guest(pages=60_000)
    with connect(listener.address) as channel, listener.accept() as accepted:
        source = Source(guest, channel)
        accepted.recv_into(memoryview(bytearray(1 << 20)))
        accepted.close()
        error = source.error()
    assert isinstance(error, PeerError)
    assert not error.after_switchover
    assert str(error).endswith(NOT_WHOLE)


def test_destination_that_leaves_amid_the_devices() -> None:
    guest = make_guest(device_size=8 << 20)
    with joined() as (channel, peer):
        source = Source(guest, channel)
        peer.recv(8 << 20)
        peer.close()
        error = source.error()
    assert isinstance(error, PeerError)
    assert not error.after_switchover


@pytest.mark.parametrize("unread", [0, 1, 100])
def test_destination_that_leaves_when_all_was_written(unread: int) -> None:
    """Nobody knows how much of it the destination took in."""
    guest = make_guest()
    size = len(sent_stream(guest)) - unread
    with joined() as (channel, peer):
        source = Source(guest, channel)
        assert len(peer.recv(size)) == size
        peer.leave()
        error = source.error()
    assert isinstance(error, PeerError)
    assert error.after_switchover
    assert str(error) == f"pair: the destination left without SHUT; {UNSURE}"
    assert isinstance(error.__cause__, PeerError)
    assert source.progress.status != MigrationStatus.COMPLETED


class Dying(Connection):
    """A connection that takes so many bytes and breaks.

    Args:
        sock: The socket.
        size: How many.
    """

    def __init__(self, sock: socket.socket, size: int) -> None:
        super().__init__(sock, "dying")
        self._left = size

    def send(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            super().send([buffer[: self._left]])
            if len(buffer) > self._left:
                raise ChannelError("dying: sending failed: Broken pipe")
            self._left -= len(buffer)


def test_connection_that_dies_at_any_byte_is_told_by_the_end_mark() -> None:
    guest = make_guest(pages=2)
    stream = sent_stream(guest)
    end_mark = end_mark_offset(guest, stream)
    for size in [*range(0, end_mark - 50, 53), *range(end_mark - 50, len(stream))]:
        ours, theirs = socket.socketpair()
        with Dying(ours, size) as channel, PeerSocket(theirs) as peer:
            progress = Progress()
            source = ParkedSource(guest, channel, progress)
            with pytest.raises(PeerError) as caught:
                source.run()
            assert peer.recv_rest() == stream[:size]
        # With the end mark not out yet, but tried, we are on the safe side.
        assert caught.value.after_switchover == source.may_run_there == (size >= end_mark), size
        assert str(caught.value).endswith(UNSURE if size >= end_mark else NOT_WHOLE)
        assert progress.status != MigrationStatus.COMPLETED


def test_interrupt_is_told_by_the_end_mark() -> None:
    guest = make_guest()
    stream = sent_stream(guest)

    class Interrupted(Dying):
        def send(self, buffers: Sequence[Buffer]) -> None:
            try:
                super().send(buffers)
            except ChannelError:
                raise KeyboardInterrupt from None

    for size, notes in ((0, []), (1000, []), (len(stream) - 1, [UNSURE])):
        ours, theirs = socket.socketpair()
        with Interrupted(ours, size) as channel, PeerSocket(theirs):
            with pytest.raises(KeyboardInterrupt) as caught:
                ParkedSource(guest, channel, Progress()).run()
            assert getattr(caught.value, "__notes__", []) == notes


# A destination that says something else


@pytest.mark.parametrize("value", [1, 0xFFFFFFFF])
def test_destination_that_failed_says_so_at_the_beginning(value: int) -> None:
    with joined() as (channel, peer):
        peer.send(shut(value))
        error = Source(make_guest(pages=8000), channel).error()
    assert isinstance(error, PeerError)
    assert str(error) == f"pair: the destination says that it failed (SHUT {value}){NOT_WHOLE}"
    assert not error.after_switchover


def test_destination_that_failed_says_so_at_the_end() -> None:
    """A QEMU that missed the end of the VM description says so too, and runs the guest."""
    guest = make_guest()
    size = len(sent_stream(guest))
    with joined() as (channel, peer):
        source = Source(guest, channel)
        peer.recv(size)
        peer.send(ACK + shut(1))
        error = source.error()
    assert isinstance(error, PeerError)
    assert str(error) == f"pair: the destination says that it failed (SHUT 1); {UNSURE}"
    assert error.after_switchover
    assert source.progress.status != MigrationStatus.COMPLETED


def test_shut_before_everything_was_written_is_not_believed() -> None:
    with joined() as (channel, peer):
        peer.send(shut())
        error = Source(make_guest(pages=8000), channel).error()
    assert isinstance(error, PeerError)
    assert not error.after_switchover
    assert str(error) == f"pair: the destination sent SHUT before it had everything{NOT_WHOLE}"


def test_bytes_behind_shut_leave_a_doubt() -> None:
    guest = make_guest()
    size = len(sent_stream(guest))
    with joined() as (channel, peer):
        source = Source(guest, channel)
        peer.recv(size)
        peer.send(shut() + pong(1))
        error = source.error()
    assert isinstance(error, PeerError)
    assert error.after_switchover
    assert "the return path goes on behind SHUT" in str(error)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (GARBAGE, "unknown return path message"),
        (b"\x00\x00\x00\x00", "unknown return path message"),
        (b"\x00\x02\x00\x03", "return path message PONG has a wrong length"),
        (b"\x00\x07\x00\x04", "return path message SWITCHOVER_ACK has a wrong length"),
        (b"\x00\x04\x00\x0c" + bytes(12), "belongs to capability 'postcopy-ram'"),
        (pong(1) + ACK + GARBAGE, "unknown return path message"),
        (pong(1)[:5], "the destination left without SHUT"),
    ],
)
@pytest.mark.parametrize("is_at_end", [False, True], ids=["beginning", "end"])
def test_garbage_on_the_return_path(said: bytes, reason: str, is_at_end: bool) -> None:
    guest = make_guest(pages=6 if is_at_end else 8000)
    size = len(sent_stream(guest)) if is_at_end else 0
    with joined() as (channel, peer):
        source = Source(guest, channel)
        peer.recv(size)
        peer.send(said)
        peer.leave()
        error = source.error()
    assert isinstance(error, PeerError)
    assert reason in str(error)
    assert error.after_switchover == is_at_end
    assert str(error).endswith(UNSURE if is_at_end else NOT_WHOLE)
    if GARBAGE in said:
        assert isinstance(error.__cause__, StreamError)


def test_garbage_amid_ram_ends_a_writer_that_waits() -> None:
    guest = make_guest(pages=60_000)
    with joined() as (channel, peer):
        source = Source(guest, channel)
        peer.recv(1 << 20)
        peer.send(GARBAGE)
        error = source.error()
    assert isinstance(error, PeerError)
    assert not error.after_switchover


# What is sent


def events_of(path: Path) -> list[object]:
    loader = GuestLoader(1 << 30, Progress())
    events: list[object] = []
    with open_file(str(path), str(path)) as channel:
        while not loader.load.is_at_end:
            events += loader.receive(channel)
    return events


def send_to_file(guest: ParkedGuest, path: Path) -> None:
    with AtomicFile(path) as channel:
        ParkedSource(guest, channel, Progress()).run()


@pytest.mark.parametrize(
    ("machine", "was_sent", "is_sent"),
    [
        ("pc-q35-9.2", False, False),
        ("pc-q35-9.2", True, True),
        ("pc-q35-10.0", False, True),
        ("pc-i440fx-10.0", True, True),
        ("pc-i440fx-11.1", False, True),
        ("microvm", False, False),
        ("microvm", True, True),
        (None, False, False),
    ],
)
def test_switchover_start_is_sent_by_who_sent_it_and_by_machine_types_that_do(
    tmp_path: Path, machine: str | None, was_sent: bool, is_sent: bool
) -> None:
    guest = make_guest(machine)
    guest.sent_switchover_start = was_sent
    path = tmp_path / "sent"
    send_to_file(guest, path)
    assert any(isinstance(event, SwitchoverStarted) for event in events_of(path)) == is_sent
    with joined() as (channel, peer):
        worker = Worker("test/src", ParkedSource(guest, channel, Progress()).run)
        size = path.stat().st_size
        with_return_path = len(b"\x08\0\1\0\0" + b"\x08\0\2\0\4\0\0\0\0")
        assert len(peer.recv(size + with_return_path)) == size + with_return_path
        peer.send(shut())
        worker.join()
        assert worker.error is None


def test_answers_are_not_asked_for_where_there_are_none(tmp_path: Path) -> None:
    send_to_file(make_guest(), tmp_path / "sent")
    asked = (ReturnPathOpened, Pinged)
    assert not any(isinstance(event, asked) for event in events_of(tmp_path / "sent"))


def test_return_path_is_opened_before_the_ram() -> None:
    stream = sent_stream(make_guest())
    opened, pinged, ram = (
        stream.index(b"\x08\0\1\0\0"),
        stream.index(b"\x08\0\2\0\4"),
        stream.index(b"\x03ram"),
    )
    assert opened < pinged < ram


def test_file_command_and_pipe_get_the_same(tmp_path: Path) -> None:
    guest = make_guest()
    send_to_file(guest, tmp_path / "file")
    with ExecChannel(f"cat > {tmp_path}/command", writes=True) as command:
        ParkedSource(guest, command, Progress()).run()
    with (tmp_path / "plain").open("wb") as plain:
        channel = DescriptorChannel(plain.fileno(), "fd")
        progress = Progress()
        ParkedSource(guest, channel, progress).run()
    assert progress.status == MigrationStatus.COMPLETED
    assert_same_guest(load_file(tmp_path / "file"), guest)
    data = (tmp_path / "file").read_bytes()
    assert (tmp_path / "command").read_bytes() == data
    assert (tmp_path / "plain").read_bytes() == data
    assert progress.transferred_bytes == len(data)


def test_command_that_fails_is_an_error() -> None:
    progress = Progress()
    with (
        ExecChannel("cat > /dev/null; exit 3", writes=True) as channel,
        pytest.raises(ChannelError, match=r"the command ended with status 3$"),
    ):
        ParkedSource(make_guest(), channel, progress).run()
    assert progress.status != MigrationStatus.COMPLETED


def test_command_that_does_not_read_is_an_error() -> None:
    with (
        ExecChannel("exit 0", writes=True) as channel,
        pytest.raises(ChannelError, match=r"writing failed: Broken pipe$"),
    ):
        ParkedSource(make_guest(pages=1000), channel, Progress()).run()


def test_file_that_cannot_be_written_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ChannelError("guest: writing failed: No space left on device")

    with AtomicFile(tmp_path / "guest") as channel:
        monkeypatch.setattr(channel, "send", fail)
        with pytest.raises(ChannelError, match="No space left"):
            ParkedSource(make_guest(), channel, Progress()).run()
    assert parked_names(tmp_path) == []


def test_guest_without_devices_is_not_sent(tmp_path: Path) -> None:
    guest = ParkedGuest(None, [RAMBlock("pc.ram", 4096)], RAM_HEADER)
    with AtomicFile(tmp_path / "guest") as file, pytest.raises(GuestError):
        ParkedSource(guest, file, Progress()).run()
    assert parked_names(tmp_path) == []
    with joined() as (channel, peer):
        with pytest.raises(GuestError, match="its devices are missing"):
            ParkedSource(guest, channel, Progress()).run()
        assert peer.recv_rest() == b""


def test_bug_is_not_dressed_up() -> None:
    """An error that is none of ours comes out as it is."""

    class Broken(Connection):
        def recv_into(self, buffer: memoryview) -> int:
            raise ZeroDivisionError

    ours, theirs = socket.socketpair()
    with Broken(ours, "broken") as channel, PeerSocket(theirs), pytest.raises(ZeroDivisionError):
        ParkedSource(make_guest(), channel, Progress()).run()


def test_no_thread_is_left() -> None:
    for said in (shut(1), GARBAGE, b""):
        with joined() as (channel, peer):
            peer.send(said)
            peer.leave()
            assert isinstance(Source(make_guest(), channel).error(), PeerError)
        names = {thread.name for thread in threading.enumerate()}
        assert not names & {"mig/src/return", "test/src"}
