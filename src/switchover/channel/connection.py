"""Connections over tcp and unix sockets, and the listener that accepts them."""

import os
import socket
import stat
import struct
from collections.abc import Sequence
from contextlib import suppress

from ..errors import ChannelError
from ..model.address import InetAddress, UnixAddress
from .base import Buffer, Closing, reason

MAX_BUFFERS = os.sysconf("SC_IOV_MAX")
"""Buffers that the kernel takes in one call."""
BACKLOG = 16
"""Connections that may wait: a multifd source opens several at once."""
SEND_TIMEOUT_S = 30
"""How long an answer may wait for a source that does not read its return path."""

_SO_MAX_PACING_RATE = 47
"""On Linux; Python has no name for it."""


class Connection(Closing):
    """A connected stream socket.

    Args:
        sock: The socket, which is this object's from now on.
        name: What it is called in errors.
    """

    has_return_path = True

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.name = name
        self._socket = sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """Its descriptor, to wait on."""
        return self._socket.fileno()

    def recv_into(self, buffer: memoryview) -> int:
        """Waits for bytes and reads at least one; 0 when no more will come."""
        try:
            return self._socket.recv_into(buffer)
        except OSError as error:
            raise ChannelError(f"{self.name}: receiving failed: {reason(error)}") from error

    def peek(self, size: int) -> bytes:
        """At most `size` bytes that have arrived, which stay unread; none at the end."""
        try:
            return self._socket.recv(size, socket.MSG_PEEK)
        except OSError:
            return b""

    def limit_sending(self) -> None:
        """From now on a write that the other side does not read fails after SEND_TIMEOUT_S."""
        limit = struct.pack("ll", SEND_TIMEOUT_S, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def limit_rate(self, bytes_per_second: int) -> None:
        """Has the kernel send no faster than that (SO_MAX_PACING_RATE); over tcp only.

        Raises:
            ChannelError: The kernel refuses.
        """
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, bytes_per_second)
        except OSError as error:
            raise ChannelError(f"{self.name}: a rate cannot be set: {reason(error)}") from error

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Writes all of the buffers."""
        left = [memoryview(buffer) for buffer in buffers if len(buffer)]
        try:
            while left:
                sent = self._socket.sendmsg(left[:MAX_BUFFERS])
                while left and sent >= len(left[0]):
                    sent -= len(left.pop(0))
                if sent:
                    left[0] = left[0][sent:]
        except BlockingIOError as error:
            raise ChannelError(f"{self.name}: the other side does not read") from error
        except OSError as error:
            raise ChannelError(f"{self.name}: sending failed: {reason(error)}") from error

    def finish(self) -> None:
        """Does nothing: that the other side has everything is what its SHUT says."""

    def shutdown(self) -> None:
        """Wakes whoever waits on it, on both sides."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


def connect(address: InetAddress | UnixAddress) -> Connection:
    """A connection to whoever listens there.

    Raises:
        ChannelError: Nobody does.
    """
    try:
        if isinstance(address, InetAddress):
            host = address.host or "localhost"
            return Connection(socket.create_connection((host, address.port)), str(address))
        if "\0" in address.path:
            raise ValueError("embedded null byte")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(address.path)
        except BaseException:
            sock.close()
            raise
        return Connection(sock, str(address))
    except (OSError, ValueError) as error:
        raise ChannelError(f"cannot connect to {address}: {reason(error)}") from error


class Listener(Closing):
    """A socket that listens.

    Args:
        address: Where. Port 0 takes a free one.

    Attributes:
        address: Where it listens, with the port that it took.

    Raises:
        ChannelError: It cannot.
    """

    def __init__(self, address: InetAddress | UnixAddress) -> None:
        try:
            if isinstance(address, InetAddress):
                self._socket = _listen_inet(address)
                port = self._socket.getsockname()[1]
                self.address: InetAddress | UnixAddress = InetAddress(address.host, port)
            else:
                self._socket = _listen_unix(address)
                self.address = address
        except (OSError, ValueError) as error:
            raise ChannelError(f"cannot listen on {address}: {reason(error)}") from error

    def fileno(self) -> int:
        """Its descriptor, to wait on."""
        return self._socket.fileno()

    def accept(self) -> Connection:
        """Waits for a connection.

        Raises:
            ChannelError: The listener broke.
        """
        try:
            sock, peer = self._socket.accept()
        except OSError as error:
            raise ChannelError(f"{self.address}: accepting failed: {reason(error)}") from error
        name = str(InetAddress(*peer[:2]) if isinstance(peer, tuple) else self.address)
        return Connection(sock, name)

    def close(self) -> None:
        """Stops listening; a unix socket's name goes with it."""
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        if isinstance(self.address, UnixAddress):
            with suppress(OSError):
                os.unlink(self.address.path)


def _listen_inet(address: InetAddress) -> socket.socket:
    address.host.encode("idna")  # What is no name is a ValueError here, and a TypeError below.
    if "\0" in address.host:
        raise ValueError("embedded null byte")
    is_ipv6 = not address.host or ":" in address.host
    if is_ipv6 and not socket.has_dualstack_ipv6():
        is_ipv6 = ":" in address.host
    return socket.create_server(
        (address.host, address.port),
        family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
        backlog=BACKLOG,
        dualstack_ipv6=is_ipv6 and not address.host,
    )


def _listen_unix(address: UnixAddress) -> socket.socket:
    _remove_stale(address.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(address.path)
        os.chmod(address.path, 0o600)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Removes the name of a socket that nobody has any more."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    # Of the wrong type, lest whoever listens there takes it for the source.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            pass  # Somebody has it: to bind it fails with the reason.
