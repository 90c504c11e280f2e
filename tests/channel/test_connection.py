"""Connections and listeners over real sockets of this machine."""

import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from switchover.channel import connection
from switchover.channel.base import wait_readable
from switchover.channel.connection import Connection, Listener, connect
from switchover.errors import ChannelError
from switchover.model.address import InetAddress, UnixAddress
from switchover.worker import Worker

LOCALHOST = "127.0.0.1"


@contextmanager
def joined() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the other end of it."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(60)
    with Connection(ours, "pair") as channel, theirs:
        yield channel, theirs


def recv_all(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (data := sock.recv(size - len(received))):
        received += data
    return bytes(received)


def recv_whole(channel: Connection) -> bytes:
    """All that comes until the end."""
    received = bytearray()
    buffer = memoryview(bytearray(1 << 16))
    while size := channel.recv_into(buffer):
        received += buffer[:size]
    return bytes(received)


# Sending and receiving


def test_many_buffers_go_out_whole_and_in_order() -> None:
    """More of them, and more bytes, than one call of the kernel takes."""
    buffers: list[bytes | memoryview] = []
    for index in range(3 * connection.MAX_BUFFERS):
        buffer = bytes([index % 251]) * (index % 7 * 300)
        buffers.append(memoryview(buffer) if index % 2 else buffer)
    expected = b"".join(buffers)
    with joined() as (channel, theirs):
        channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        worker = Worker("test/send", lambda: channel.send(buffers))
        assert recv_all(theirs, len(expected)) == expected
        worker.join()
        assert worker.error is None


@pytest.mark.parametrize("taken", [1, 2, 5, 6, 7, 100])
def test_any_partial_send_goes_on_where_it_stopped(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = bytearray()

    class Short:
        """A socket that takes a few bytes at a time."""

        family = socket.AF_UNIX

        def setsockopt(self, *_: object) -> None:
            pass

        def sendmsg(self, buffers: list[memoryview]) -> int:
            data = b"".join(buffers)[:taken]
            written.extend(data)
            return len(data)

    channel = Connection(Short(), "short")  # type: ignore[arg-type]
    channel.send([b"", b"abc", memoryview(b"de"), b"", b"fghijklm", b""])
    assert written == b"abcdefghijklm"


def test_sending_nothing_is_no_call() -> None:
    with joined() as (channel, theirs):
        theirs.close()
        channel.send([])
        channel.send([b"", b""])


def test_other_side_that_left_breaks_sending() -> None:
    with joined() as (channel, theirs):
        theirs.close()
        with pytest.raises(ChannelError, match=r"^pair: sending failed: Broken pipe$") as caught:
            channel.send([b"x"])
        assert isinstance(caught.value.__cause__, OSError)


def test_bytes_come_before_the_end() -> None:
    with joined() as (channel, theirs):
        theirs.sendall(b"abc")
        theirs.close()
        assert recv_whole(channel) == b"abc"
        assert channel.recv_into(memoryview(bytearray(4))) == 0


def test_reset_breaks_receiving() -> None:
    with Listener(InetAddress(LOCALHOST, 0)) as listener:
        theirs = socket.create_connection((LOCALHOST, _port(listener)), timeout=60)
        with listener.accept() as channel:
            # Not to linger means to reset.
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            theirs.close()
            name = channel.name
            with pytest.raises(
                ChannelError, match=rf"^{name}: receiving failed: Connection reset by peer$"
            ):
                channel.recv_into(memoryview(bytearray(4)))
            assert channel.peek(4) == b""


def test_peek_leaves_bytes_unread() -> None:
    with joined() as (channel, theirs):
        theirs.sendall(b"abcdef")
        assert channel.peek(4) == b"abcd"
        assert channel.peek(4) == b"abcd"
        theirs.close()
        assert recv_whole(channel) == b"abcdef"
        assert channel.peek(4) == b""


def test_shutdown_wakes_both_sides() -> None:
    with joined() as (channel, theirs):
        received: list[int] = []
        worker = Worker(
            "test/recv", lambda: received.append(channel.recv_into(memoryview(bytearray(4))))
        )
        channel.shutdown()
        worker.join()
        assert received == [0]
        assert theirs.recv(1) == b""
        channel.shutdown()


def test_limited_sending_gives_up_on_who_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SEND_TIMEOUT_S", 1)
    with joined() as (channel, _):
        channel.limit_sending()
        with pytest.raises(ChannelError, match=r"^pair: the other side does not read$"):
            channel.send([bytes(64 << 20)])


def test_close_may_be_repeated() -> None:
    with joined() as (channel, _):
        channel.finish()
        channel.close()
        channel.close()


# Listening and connecting


def _port(listener: Listener) -> int:
    assert isinstance(listener.address, InetAddress)
    return listener.address.port


def _round_trip(listener: Listener) -> Connection:
    """Sends something through a listener; returns its accepted connection, closed."""
    with connect(listener.address) as source, listener.accept() as channel:
        source.send([b"ab", b"c"])
        source.shutdown()
        assert recv_whole(channel) == b"abc"
        return channel


@pytest.mark.parametrize("host", [LOCALHOST, "localhost", ""])
def test_port_0_takes_a_free_one(host: str) -> None:
    with Listener(InetAddress(host, 0)) as listener:
        assert _port(listener) != 0
        assert str(listener.address) == f"tcp:{host}:{_port(listener)}"
        channel = _round_trip(listener)
        assert channel.name.startswith("tcp:")
        assert channel.has_return_path


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="found no IPv6 loopback, ::1 is required")
def test_ipv6() -> None:
    with Listener(InetAddress("::1", 0)) as listener:
        assert str(listener.address) == f"tcp:[::1]:{_port(listener)}"
        assert _round_trip(listener).name.startswith("tcp:[::1]:")


@pytest.mark.skipif(not _has_ipv6(), reason="found no IPv6 loopback, ::1 is required")
def test_no_host_listens_for_both_families() -> None:
    with Listener(InetAddress("", 0)) as listener:
        for host in (LOCALHOST, "::1"):
            with connect(InetAddress(host, _port(listener))), listener.accept():
                pass


def test_without_ipv6_no_host_listens_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with Listener(InetAddress("", 0)) as listener:
        _round_trip(listener)


def test_port_that_is_taken() -> None:
    with Listener(InetAddress(LOCALHOST, 0)) as listener:
        port = _port(listener)
        with pytest.raises(ChannelError) as caught:
            Listener(InetAddress(LOCALHOST, port))
        expected = f"cannot listen on tcp:{LOCALHOST}:{port}: Address already in use"
        assert str(caught.value) == expected


def test_nobody_listens() -> None:
    with socket.socket() as reserved:
        reserved.bind((LOCALHOST, 0))
        port = reserved.getsockname()[1]
        with pytest.raises(ChannelError) as caught:
            connect(InetAddress(LOCALHOST, port))
        assert str(caught.value) == f"cannot connect to tcp:{LOCALHOST}:{port}: Connection refused"
        assert isinstance(caught.value.__cause__, OSError)


UNUSABLE = [
    InetAddress("label" * 20, 1),
    InetAddress("a..b", 1),
    InetAddress("\udcff", 1),
    UnixAddress("/nowhere/at/all"),
    UnixAddress("/" + "long" * 30),
    UnixAddress("/tmp/nul\0byte"),
    InetAddress("\0", 1),
]


@pytest.mark.parametrize("address", UNUSABLE, ids=repr)
def test_what_cannot_be_connected_to(address: InetAddress | UnixAddress) -> None:
    with pytest.raises(ChannelError, match=r"^cannot connect to (tcp|unix):[^\n]*: .+") as caught:
        connect(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", UNUSABLE, ids=repr)
def test_what_cannot_be_listened_on(address: InetAddress | UnixAddress) -> None:
    with pytest.raises(ChannelError, match=r"^cannot listen on (tcp|unix):[^\n]*: .+"):
        Listener(address)


def test_host_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(
        ChannelError, match=r"^cannot connect to tcp:nohost:1: Name or service not known$"
    ):
        connect(InetAddress("nohost", 1))


def test_broken_listener_cannot_accept() -> None:
    with Listener(InetAddress(LOCALHOST, 0)) as listener:
        listener._socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ChannelError, match=r"^tcp:.*: accepting failed: Invalid argument$"):
            listener.accept()


def test_listener_is_readable_when_somebody_comes() -> None:
    with Listener(InetAddress(LOCALHOST, 0)) as listener:
        assert wait_readable([listener.fileno()], 0) == set()
        with connect(listener.address):
            assert wait_readable([listener.fileno()], None) == {listener.fileno()}


# Unix sockets' names


def test_unix_socket_is_private_and_its_name_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Listener(UnixAddress(str(path))) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert _round_trip(listener).name == f"unix:{path}"
        listener.close()
        assert not path.exists()
        path.write_text("somebody else's")
        listener.close()
    assert path.exists()


def test_name_that_was_left_behind_is_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(path)
        crashed.listen()
    with Listener(UnixAddress(path)) as listener:
        _round_trip(listener)


def test_name_in_use_is_left_alone_and_its_listener_not_disturbed(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "socket"))
    with Listener(address) as listener:
        with pytest.raises(ChannelError, match=r"^cannot listen on unix:.*Address already in use$"):
            Listener(address)
        assert wait_readable([listener.fileno()], 0) == set(), "somebody knocked"
        _round_trip(listener)


def test_file_under_the_name_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.write_text("precious")
    with pytest.raises(ChannelError, match="Address already in use"):
        Listener(UnixAddress(str(path)))
    assert path.read_text() == "precious"


def test_listener_that_fails_behind_bind_leaves_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr("os.chmod", refuse)
    with pytest.raises(ChannelError, match="Operation not permitted"):
        Listener(UnixAddress(str(tmp_path / "socket")))
