"""The destination that parks, against sources that are played byte by byte."""

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.peer import (
    ACK,
    EMPTY_PART,
    OPEN_RETURN_PATH,
    RETURN_PATH,
    SWITCHOVER_ACK,
    Destination,
    PeerSocket,
    assert_same_guest,
    connect_to,
    encode_ping,
    join,
    joined,
    load_file,
    make_guest,
    make_stream,
    open_pipe,
    parked_names,
    pong,
    shut,
)

from switchover.channel import connection
from switchover.channel.base import wait_readable
from switchover.channel.connection import Connection, Listener
from switchover.channel.exec import ExecChannel
from switchover.channel.file import AtomicFile, DescriptorChannel, open_file
from switchover.engine import incoming as destination
from switchover.engine.incoming import ReceiveOptions
from switchover.errors import (
    ChannelError,
    MigrationError,
    PeerError,
    StreamError,
    TruncatedStream,
    UnsupportedStream,
)
from switchover.model.address import InetAddress, UnixAddress
from switchover.model.ramblock import TARGET_PAGE_SIZE
from switchover.model.status import MigrationStatus
from switchover.model.switchover import SwitchoverAckMode
from switchover.wire.cursor import u32
from switchover.wire.ram import RAMParser
from switchover.wire.stream import MULTIFD_MAGIC

SECOND_NS = 1_000_000_000
NEVER_NS = 1 << 62


# All is well


def test_guest_is_on_disk_before_its_source_is_told(listener: Listener, tmp_path: Path) -> None:
    guest = make_guest()
    stream = make_stream(guest, pings=[7])
    path = tmp_path / "guest"
    with connect_to(listener) as source:
        receiving = Destination(listener, path).start()
        source.send(join(stream, until="description"))
        assert source.recv(len(pong(7))) == pong(7)
        assert not path.exists()
        source.send(stream["description"])
        assert source.recv(len(shut())) == shut()
        assert_same_guest(load_file(path), guest)
        assert source.recv_rest() == b""
    assert_same_guest(receiving.guest(), guest)
    report = receiving.progress.report()
    assert report.status == MigrationStatus.COMPLETED
    assert report.machine == guest.machine
    assert report.ram_bytes == guest.ram_bytes
    assert report.transferred_bytes == len(join(stream))
    assert report.pages == guest.ram_bytes // TARGET_PAGE_SIZE
    assert [device.name for device in report.devices] == ["timer", "timer"]
    assert report.switchover_ack.asked_ms is None
    assert not receiving.warnings


def test_guest_comes_a_byte_at_a_time(tmp_path: Path) -> None:
    guest = make_guest(pages=1)
    data = join(make_stream(guest, pings=[1, 2]))
    with joined() as (channel, source):
        receiving = Destination(channel, tmp_path / "guest").start()
        for position in range(len(data)):
            source.send(data[position : position + 1])
        assert source.recv(24) == pong(1) + pong(2) + shut()
        assert_same_guest(receiving.guest(), guest)


def test_large_guest(listener: Listener, tmp_path: Path) -> None:
    guest = make_guest(pages=8000, device_size=1 << 20)
    with connect_to(listener) as source:
        receiving = Destination(listener, tmp_path / "guest").start()
        source.send(join(make_stream(guest)))
        assert source.recv_rest() == shut()
    assert_same_guest(receiving.guest(), guest)


def test_guest_of_an_old_machine_type(tmp_path: Path) -> None:
    guest = make_guest(None)
    with joined() as (channel, source):
        source.send(join(make_stream(guest)))
        Destination(channel, tmp_path / "guest").run()
        assert source.recv(len(shut())) == shut()
    assert_same_guest(load_file(tmp_path / "guest"), guest)


@pytest.mark.parametrize("is_sent", [True, False])
def test_switchover_start_is_kept(tmp_path: Path, is_sent: bool) -> None:
    with joined() as (channel, source):
        source.send(join(make_stream(make_guest(), sends_switchover_start=is_sent)))
        Destination(channel, tmp_path / "guest").run()
    assert load_file(tmp_path / "guest").sent_switchover_start == is_sent


def test_source_without_a_return_path_is_told_nothing(listener: Listener, tmp_path: Path) -> None:
    guest = make_guest()
    options = ReceiveOptions(SWITCHOVER_ACK, hold_ack_ns=NEVER_NS)
    with connect_to(listener) as source:
        receiving = Destination(listener, tmp_path / "guest", options).start()
        source.send(join(make_stream(guest, opens_return_path=False)))
        assert source.recv_rest() == b""
    assert_same_guest(receiving.guest(), guest)


def test_guest_from_a_pipe_a_file_and_a_command(tmp_path: Path) -> None:
    guest = make_guest()
    data = join(make_stream(guest, opens_return_path=False))
    stream = tmp_path / "stream"
    stream.write_bytes(data)
    for number, channel in enumerate(
        (
            DescriptorChannel(open_pipe(data), "pipe"),
            open_file(str(stream), "file"),
            ExecChannel(f"cat {stream}", writes=False),
        )
    ):
        path = tmp_path / str(number)
        with channel:
            Destination(channel, path).run()
        assert_same_guest(load_file(path), guest)


def test_earlier_guest_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "guest"
    path.write_bytes(b"earlier")
    with joined() as (channel, source):
        source.send(join(make_stream(make_guest())))
        Destination(channel, path).run()
    assert_same_guest(load_file(path), make_guest())


# A source that goes away


def _cuts(stream: dict[str, bytes]) -> Iterator[int]:
    """Every byte of a stream, of the inside of its pages some."""
    begin = len(join(stream, until="pages"))
    end = begin + len(stream["pages"])
    for cut in range(len(join(stream))):
        if not begin + 64 < cut < end - 64 or cut % 61 == 0:
            yield cut


def test_source_that_stops_at_any_byte_leaves_no_file_and_no_shut(tmp_path: Path) -> None:
    stream = make_stream(make_guest(pages=2), pings=[1], sends_switchover_start=True)
    data = join(stream)
    opened = len(join(stream, until="pings"))
    ended = len(join(stream, until="description"))
    for cut in _cuts(stream):
        with joined() as (channel, source):
            source.send(data[:cut])
            source.leave()
            with pytest.raises(MigrationError) as caught:
                Destination(channel, tmp_path / "guest", ReceiveOptions(SWITCHOVER_ACK)).run()
            if cut == ended:
                assert "suppress-vmdesc=on" in str(caught.value)
            else:
                assert isinstance(caught.value, PeerError)
                assert not caught.value.after_switchover
                assert "the source left before the guest was whole" in str(caught.value)
            channel.close()
            expected = b""
            if cut >= opened:
                expected += ACK
            if cut >= opened + len(stream["pings"]):
                expected += pong(1)
            assert source.recv_rest() == expected, f"cut at {cut}"
        assert parked_names(tmp_path) == [], f"cut at {cut}"


def test_source_that_vanishes_at_any_byte_leaves_no_file(tmp_path: Path) -> None:
    """Who cannot even be answered."""
    stream = make_stream(make_guest(pages=2), pings=[1])
    data = join(stream)
    for cut in _cuts(stream):
        with joined() as (channel, source):
            source.send(data[:cut])
            source.close()
            with pytest.raises((PeerError, ChannelError)):
                Destination(channel, tmp_path / "guest").run()
        assert parked_names(tmp_path) == [], f"cut at {cut}"


def test_stream_that_is_cut_in_a_file_is_truncated(tmp_path: Path) -> None:
    stream = make_stream(make_guest(pages=2), opens_return_path=False)
    data = join(stream)
    for cut in list(_cuts(stream))[::7]:
        with DescriptorChannel(open_pipe(data[:cut]), "pipe") as channel:
            with pytest.raises(StreamError) as caught:
                Destination(channel, tmp_path / "guest").run()
            assert 0 <= caught.value.offset <= cut
        assert parked_names(tmp_path) == []


def test_command_that_fails_behind_a_whole_stream_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(join(make_stream(make_guest(), opens_return_path=False)))
    command = f"cat {tmp_path}/stream; exit 9"
    with (
        ExecChannel(command, writes=False) as channel,
        pytest.raises(ChannelError, match="the command ended with status 9"),
    ):
        Destination(channel, tmp_path / "guest").run()
    assert parked_names(tmp_path) == ["stream"]


def test_source_that_left_when_all_was_sent_leaves_no_file(tmp_path: Path) -> None:
    # It hears no SHUT, so its guest goes on there.
    with joined() as (channel, source):
        source.send(join(make_stream(make_guest())))
        source.close()
        with pytest.raises(PeerError, match="left before it was told that its guest is here"):
            Destination(channel, tmp_path / "guest").run()
    assert parked_names(tmp_path) == []


def test_source_that_leaves_while_it_is_told_leaves_a_file_and_a_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = make_guest()
    path = tmp_path / "guest"
    finish = AtomicFile.finish
    with joined() as (channel, source):

        def finish_and_leave(file: AtomicFile) -> None:
            finish(file)
            source.close()

        monkeypatch.setattr(AtomicFile, "finish", finish_and_leave)
        source.send(join(make_stream(guest)))
        with pytest.raises(PeerError) as caught:
            Destination(channel, path).run()
    assert caught.value.after_switchover
    assert str(caught.value) == (
        f"pair: sending failed: Broken pipe; {path} holds the whole guest, but its source may not "
        "know: look whether it runs there before the file is used"
    )
    assert_same_guest(load_file(path), guest)


def test_interrupt_before_the_file_has_its_name_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: AtomicFile) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AtomicFile, "finish", interrupt)
    with joined() as (channel, source):
        source.send(join(make_stream(make_guest())))
        with pytest.raises(KeyboardInterrupt) as caught:
            Destination(channel, tmp_path / "guest").run()
        channel.close()
        assert source.recv_rest() == b""
    assert not hasattr(caught.value, "__notes__")
    assert parked_names(tmp_path) == []


def test_interrupt_behind_that_says_that_there_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = AtomicFile.finish

    def finish_and_interrupt(file: AtomicFile) -> None:
        finish(file)
        raise KeyboardInterrupt

    monkeypatch.setattr(AtomicFile, "finish", finish_and_interrupt)
    with joined() as (channel, source):
        source.send(join(make_stream(make_guest())))
        with pytest.raises(KeyboardInterrupt) as caught:
            Destination(channel, tmp_path / "guest").run()
    (note,) = caught.value.__notes__
    assert "holds the whole guest, but its source may not know" in note
    assert parked_names(tmp_path) == ["guest"]


def test_reset_of_the_connection(tmp_path: Path) -> None:
    with Listener(InetAddress("127.0.0.1", 0)) as listener:
        source = connect_to(listener)
        source.send(join(make_stream(make_guest()), until="pages"))
        source.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        receiving = Destination(listener, tmp_path / "guest")
        source.close()
        with pytest.raises(ChannelError, match="Connection reset by peer"):
            receiving.run()
    assert parked_names(tmp_path) == []


# A source that sends something else


@pytest.mark.parametrize("name", list(make_stream(make_guest())))
def test_garbage_in_place_of_any_piece(tmp_path: Path, name: str) -> None:
    stream = make_stream(make_guest(), pings=[1], sends_switchover_start=True)
    with joined() as (channel, source):
        source.send(join(stream, until=name) + b"\xfe\xdc\xba\x98" * 32)
        source.leave()
        with pytest.raises(MigrationError):
            Destination(channel, tmp_path / "guest").run()
        channel.close()
        assert shut() not in source.recv_rest()
    assert parked_names(tmp_path) == []


def test_one_wrong_byte_anywhere_never_parks_another_guest(tmp_path: Path) -> None:
    """What the stream itself can show to be wrong, that is; where it goes on, it is whole."""
    stream = make_stream(make_guest(pages=1), pings=[1])
    data = join(stream)
    begin = len(join(stream, until="pages"))
    frame = [*range(begin), *range(len(join(stream, until="end of RAM")), len(data))]
    path = tmp_path / "guest"
    for position in frame[::3]:
        wrong = bytearray(data)
        wrong[position] ^= 0xFF
        with joined() as (channel, source):
            source.send(bytes(wrong))
            source.leave()
            try:
                Destination(channel, path).run()
            except MigrationError:
                assert parked_names(tmp_path) == []
            else:
                load_file(path)
                path.unlink()


def test_bytes_behind_the_end(tmp_path: Path) -> None:
    with joined() as (channel, source):
        source.send(join(make_stream(make_guest())) + b"x")
        with pytest.raises(StreamError, match="bytes behind the end of the stream"):
            Destination(channel, tmp_path / "guest").run()
    assert parked_names(tmp_path) == []


def test_more_ram_than_allowed_is_refused_before_it_is_reserved(tmp_path: Path) -> None:
    guest = make_guest()
    options = ReceiveOptions(max_ram_bytes=guest.ram_bytes - 1)
    with joined() as (channel, source):
        source.send(join(make_stream(guest)))
        receiving = Destination(channel, tmp_path / "guest", options)
        with pytest.raises(StreamError, match="more RAM than is allowed here"):
            receiving.run()
        assert receiving.progress.ram_bytes == 0
    with joined() as (channel, source):
        source.send(join(make_stream(guest)))
        options = ReceiveOptions(max_ram_bytes=guest.ram_bytes)
        Destination(channel, tmp_path / "guest", options).run()


def test_return_path_is_refused_where_there_is_none(tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    stream.write_bytes(join(make_stream(make_guest())))
    with open_file(str(stream), "file:stream") as channel:
        with pytest.raises(UnsupportedStream) as caught:
            Destination(channel, tmp_path / "guest").run()
        assert "the source asks for a return path, which file:stream does not have" in str(
            caught.value
        )
    assert parked_names(tmp_path) == ["stream"]


def test_ping_without_a_return_path(tmp_path: Path) -> None:
    with joined() as (channel, source):
        source.send(join(make_stream(make_guest(), opens_return_path=False, pings=[1])))
        with pytest.raises(StreamError, match="a PING before the return path is open"):
            Destination(channel, tmp_path / "guest").run()


def test_disk_that_is_full_leaves_the_guest_to_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: AtomicFile, buffers: object) -> None:
        raise ChannelError("guest: writing failed: No space left on device")

    monkeypatch.setattr(AtomicFile, "send", refuse)
    with joined() as (channel, source):
        source.send(join(make_stream(make_guest())))
        with pytest.raises(ChannelError, match="No space left"):
            Destination(channel, tmp_path / "guest").run()
        channel.close()
        assert source.recv_rest() == b""
    assert parked_names(tmp_path) == []


# Time


@pytest.mark.parametrize("sends_switchover_start", [True, False])
def test_source_that_sends_no_description_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sends_switchover_start: bool
) -> None:
    monkeypatch.setattr(destination, "STALL_LIMIT_NS", 1)
    stream = make_stream(make_guest(), sends_switchover_start=sends_switchover_start)
    with joined() as (channel, source):
        source.send(join(stream, until="description"))
        with pytest.raises(UnsupportedStream, match="suppress-vmdesc=on"):
            Destination(channel, tmp_path / "guest").run()
        channel.close()
        assert source.recv_rest() == b""
    assert parked_names(tmp_path) == []


def test_source_that_stops_its_machine_and_then_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination, "STALL_LIMIT_NS", 1)
    stream = make_stream(make_guest(), sends_switchover_start=True)
    with joined() as (channel, source):
        source.send(join(stream, until="end of RAM"))
        with pytest.raises(TruncatedStream, match=r"the stream stops: expected .*END"):
            Destination(channel, tmp_path / "guest").run()


def test_source_whose_machine_runs_may_take_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination, "STALL_LIMIT_NS", 1)
    timeouts: list[int | None] = []

    def note(filenos: set[int], timeout_ns: int | None) -> set[int]:
        timeouts.append(timeout_ns)
        return wait_readable(filenos, timeout_ns)

    monkeypatch.setattr(destination, "wait_readable", note)
    stream = make_stream(make_guest())
    with joined() as (channel, source):
        source.send(join(stream, until="end of RAM"))
        source.leave()
        with pytest.raises(PeerError):
            Destination(channel, tmp_path / "guest").run()
    assert 1 not in timeouts


@pytest.mark.parametrize("listens", [True, False])
def test_source_that_never_reads_its_return_path_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    monkeypatch.setattr(connection, "SEND_TIMEOUT_S", 1)
    begin = join(make_stream(make_guest()), until="block list")
    ours, theirs = socket.socketpair()
    with (
        Listener(UnixAddress(str(tmp_path / "socket"))) as listener,
        Connection(ours, "fd:3") as channel,
        PeerSocket(theirs) as pair,
        connect_to(listener) as knocking,
    ):
        source = knocking if listens else pair
        # Never more than fits between the two: this thread must not wait either.
        source.send(begin + encode_ping(1) * 4000)
        with pytest.raises(ChannelError, match=r"the other side does not read$"):
            Destination(listener if listens else channel, tmp_path / "guest").run()
    assert parked_names(tmp_path) == []


# The SWITCHOVER_ACK


@pytest.mark.parametrize(
    ("machine", "mode", "expected"),
    [
        ("pc-q35-8.1", None, SwitchoverAckMode.LEGACY),
        ("pc-i440fx-11.0", None, SwitchoverAckMode.LEGACY),
        ("pc-q35-11.1", None, SwitchoverAckMode.PER_DEVICE),
        ("pc-i440fx-12.0", None, SwitchoverAckMode.PER_DEVICE),
        ("microvm", None, SwitchoverAckMode.LEGACY),
        (None, None, SwitchoverAckMode.LEGACY),
        ("pc-q35-11.1", SwitchoverAckMode.LEGACY, SwitchoverAckMode.LEGACY),
        ("pc-q35-10.0", SwitchoverAckMode.PER_DEVICE, SwitchoverAckMode.PER_DEVICE),
        ("microvm", SwitchoverAckMode.PER_DEVICE, SwitchoverAckMode.PER_DEVICE),
    ],
)
def test_ack_is_the_first_thing_that_a_legacy_source_is_told(
    tmp_path: Path,
    machine: str | None,
    mode: SwitchoverAckMode | None,
    expected: SwitchoverAckMode,
) -> None:
    stream = make_stream(make_guest(machine), pings=[5])
    with joined() as (channel, source):
        receiving = Destination(
            channel, tmp_path / "guest", ReceiveOptions(SWITCHOVER_ACK, ack_mode=mode)
        ).start()
        source.send(join(stream, until="pings"))
        is_legacy = expected == SwitchoverAckMode.LEGACY
        if is_legacy:
            # At once: the source has not sent anything else, and does not for now.
            assert source.recv(len(ACK)) == ACK
        source.send(join(stream, since="pings"))
        assert source.recv(len(pong(5) + shut())) == pong(5) + shut()
        receiving.guest()
    ack = receiving.progress.report().switchover_ack
    assert ack.mode == expected
    assert (ack.asked_ms is not None, ack.sent_ms is not None) == (is_legacy, is_legacy)
    names_no_version = machine in (None, "microvm") and mode is None
    assert len(receiving.warnings) == names_no_version
    if names_no_version:
        assert f"machine type '{machine}' does not tell the mode" in receiving.warnings[0]
        assert "--switchover-ack-mode per-device" in receiving.warnings[0]


@pytest.mark.parametrize("machine", ["pc-q35-9.2", "pc-q35-11.1", "microvm"])
def test_without_the_capability_there_is_no_ack(tmp_path: Path, machine: str) -> None:
    with joined() as (channel, source):
        source.send(join(make_stream(make_guest(machine), pings=[5])))
        receiving = Destination(channel, tmp_path / "guest", ReceiveOptions(RETURN_PATH))
        receiving.run()
        channel.close()
        assert source.recv_rest() == pong(5) + shut()
    assert receiving.progress.report().switchover_ack.asked_ms is None
    assert not receiving.warnings


def test_hold_in_per_device_mode_holds_nothing_and_says_so(tmp_path: Path) -> None:
    options = ReceiveOptions(SWITCHOVER_ACK, hold_ack_ns=NEVER_NS)
    with joined() as (channel, source):
        source.send(join(make_stream(make_guest("pc-q35-11.1"), pings=[5])))
        receiving = Destination(channel, tmp_path / "guest", options)
        receiving.run()
        channel.close()
        assert source.recv_rest() == pong(5) + shut()
    (warning,) = receiving.warnings
    assert "there is no ACK to be held" in warning


def test_ack_is_held_while_a_flood_of_empty_sections_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = _count_steps(monkeypatch)
    stream = make_stream(make_guest(), pings=[5])
    options = ReceiveOptions(SWITCHOVER_ACK, hold_ack_ns=SECOND_NS // 2)
    sections = 0
    with joined() as (channel, source):
        receiving = Destination(channel, tmp_path / "guest", options).start()
        source.send(join(stream, until="end of RAM"))
        assert source.recv(len(pong(5))) == pong(5), "the PONG comes before the ACK that is held"
        while not select.select([source.socket], [], [], 0)[0]:
            source.send(EMPTY_PART * 2000)
            sections += 2000
        assert source.recv(len(ACK)) == ACK
        source.send(join(stream, since="end of RAM"))
        assert source.recv(len(shut())) == shut()
        assert_same_guest(receiving.guest(), make_guest())
    progress = receiving.progress
    assert progress.ack_asked_ns is not None
    assert progress.ack_sent_ns is not None
    assert progress.ack_sent_ns - progress.ack_asked_ns >= options.hold_ack_ns
    assert progress.transferred_bytes == len(join(stream)) + sections * len(EMPTY_PART)
    assert len(steps) < 100 + sections // 10, "a step for each section"


def test_ack_is_sent_to_a_source_that_is_silent_meanwhile(tmp_path: Path) -> None:
    options = ReceiveOptions(SWITCHOVER_ACK, hold_ack_ns=SECOND_NS // 20)
    stream = make_stream(make_guest())
    with joined() as (channel, source):
        receiving = Destination(channel, tmp_path / "guest", options).start()
        source.send(join(stream, until="end of RAM"))
        assert source.recv(len(ACK)) == ACK
        source.send(join(stream, since="end of RAM"))
        assert source.recv(len(shut())) == shut()
        receiving.guest()


@pytest.mark.parametrize("sends_switchover_start", [True, False])
def test_source_that_does_not_wait_gets_no_ack(
    tmp_path: Path, sends_switchover_start: bool
) -> None:
    """One whose machine does not run stops it no later for an ACK."""
    options = ReceiveOptions(SWITCHOVER_ACK, hold_ack_ns=NEVER_NS)
    stream = make_stream(make_guest(), pings=[5], sends_switchover_start=sends_switchover_start)
    with joined() as (channel, source):
        receiving = Destination(channel, tmp_path / "guest", options).start()
        source.send(join(stream))
        assert source.recv(len(pong(5) + shut())) == pong(5) + shut()
        receiving.guest()
    ack = receiving.progress.report().switchover_ack
    assert ack.asked_ms is not None
    assert ack.sent_ms is None


def test_return_path_that_is_opened_twice_asks_once(tmp_path: Path) -> None:
    stream = make_stream(make_guest())
    stream["return path"] = OPEN_RETURN_PATH * 2
    with joined() as (channel, source):
        source.send(join(stream))
        Destination(channel, tmp_path / "guest", ReceiveOptions(SWITCHOVER_ACK)).run()
        channel.close()
        assert source.recv_rest() == ACK + shut()


def test_each_ping_has_its_pong(tmp_path: Path) -> None:
    values = [0, 1, 0xFFFFFFFF, 0x80000000, 7, 7]
    with joined() as (channel, source):
        source.send(join(make_stream(make_guest(), pings=values)))
        Destination(channel, tmp_path / "guest").run()
        channel.close()
        assert source.recv_rest() == b"".join(map(pong, values)) + shut()


def _count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    steps: list[int] = []
    parse = RAMParser.parse

    def count(self: RAMParser, section_type: object, body: memoryview, offset: int) -> object:
        steps.append(len(body))
        return parse(self, section_type, body, offset)  # type: ignore[arg-type]

    monkeypatch.setattr(RAMParser, "parse", count)
    return steps


# Connections beside the main one


def test_multifd_is_named(listener: Listener, tmp_path: Path) -> None:
    stream = make_stream(make_guest())
    with connect_to(listener) as source, connect_to(listener) as second:
        source.send(join(stream, until="pages"))
        second.send(u32(MULTIFD_MAGIC) + u32(1) + bytes(56))
        with pytest.raises(UnsupportedStream, match="capability 'multifd' is not supported yet"):
            Destination(listener, tmp_path / "guest").run()
        assert source.recv_rest() == b""
    assert parked_names(tmp_path) == []


def test_multifd_channel_that_comes_first_is_named_too(tmp_path: Path) -> None:
    with joined() as (channel, source):
        source.send(u32(MULTIFD_MAGIC) + u32(1) + bytes(56))
        with pytest.raises(UnsupportedStream, match="this connection is a multifd channel"):
            Destination(channel, tmp_path / "guest").run()


@pytest.mark.parametrize("says", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x11\x22\x33\x45", b"\x11"])
def test_stranger_is_shown_out_and_the_rest_goes_on(
    listener: Listener, tmp_path: Path, says: bytes
) -> None:
    guest = make_guest()
    stream = make_stream(guest)
    with connect_to(listener) as source, connect_to(listener) as stranger:
        receiving = Destination(listener, tmp_path / "guest").start()
        source.send(join(stream, until="pages"))
        stranger.send(says)
        stranger.leave()
        assert stranger.recv_rest() == b""
        source.send(join(stream, since="pages"))
        assert source.recv_rest() == shut()
        assert_same_guest(receiving.guest(), guest)
    (warning,) = receiving.warnings
    assert warning.endswith(": a second connection, which was closed")


def test_stranger_who_says_nothing_is_closed_in_the_end(listener: Listener, tmp_path: Path) -> None:
    stream = make_stream(make_guest())
    with connect_to(listener) as source, connect_to(listener) as stranger:
        receiving = Destination(listener, tmp_path / "guest").start()
        source.send(join(stream))
        assert source.recv_rest() == shut()
        receiving.guest()
        listener.close()
        assert stranger.recv_rest() == b""
    assert not receiving.warnings


def test_strangers_are_not_collected_without_end(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination, "MAX_OTHERS", 1)
    stream = make_stream(make_guest())
    with (
        connect_to(listener) as source,
        connect_to(listener),
        connect_to(listener) as third,
    ):
        receiving = Destination(listener, tmp_path / "guest").start()
        source.send(join(stream, until="pages"))
        assert third.recv_rest() == b""
        source.send(join(stream, since="pages"))
        assert source.recv_rest() == shut()
        receiving.guest()


def test_nothing_is_inherited_by_a_command(tmp_path: Path) -> None:
    """A command that outlives us would keep a source from seeing that we are gone."""
    with joined() as (channel, _), AtomicFile(tmp_path / "guest") as file:
        assert not os.get_inheritable(channel.fileno())
        assert not os.get_inheritable(file.fileno())
