"""From an address to the channel that it names."""

import os
import socket
from pathlib import Path

import pytest

from switchover.channel.base import Channel
from switchover.channel.connection import Connection, Listener
from switchover.channel.exec import ExecChannel
from switchover.channel.file import AtomicFile, DescriptorChannel
from switchover.channel.open import open_incoming, open_outgoing
from switchover.errors import ChannelError
from switchover.model.address import FdAddress, FileAddress, parse_address


def recv_one(channel: Channel | Listener) -> bytes:
    assert not isinstance(channel, Listener)
    buffer = memoryview(bytearray(100))
    return bytes(buffer[: channel.recv_into(buffer)])


def test_tcp_and_unix_listen_and_connect(tmp_path: Path) -> None:
    for uri in ("tcp:127.0.0.1:0", f"unix:{tmp_path}/socket"):
        with open_incoming(parse_address(uri)) as listener:
            assert isinstance(listener, Listener)
            with open_outgoing(listener.address) as source, listener.accept() as channel:
                source.send([b"abc"])
                assert recv_one(channel) == b"abc"


def test_file_is_written_at_once_and_read(tmp_path: Path) -> None:
    address = FileAddress(str(tmp_path / "guest"))
    with open_outgoing(address) as channel:
        assert isinstance(channel, AtomicFile)
        assert channel.name == str(address)
        channel.send([b"abc"])
        channel.finish()
    with open_incoming(address) as incoming:
        assert recv_one(incoming) == b"abc"


def test_command_is_written_or_read(tmp_path: Path) -> None:
    with open_outgoing(parse_address(f"exec:cat > {tmp_path}/out")) as channel:
        assert isinstance(channel, ExecChannel)
        channel.send([b"abc"])
        channel.finish()
    with open_incoming(parse_address(f"exec:cat {tmp_path}/out")) as incoming:
        assert recv_one(incoming) == b"abc"


@pytest.mark.parametrize("is_blocking", [True, False])
def test_descriptor_of_a_socket_goes_both_ways(is_blocking: bool) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(is_blocking)
    theirs.settimeout(60)
    number = ours.detach()
    with theirs, open_outgoing(FdAddress(number)) as channel:
        assert isinstance(channel, Connection)
        assert (channel.name, channel.has_return_path) == (f"fd:{number}", True)
        assert os.get_blocking(number)
        channel.send([b"abc"])
        assert theirs.recv(10) == b"abc"
        theirs.sendall(b"def")
        assert recv_one(channel) == b"def"


@pytest.mark.parametrize("is_blocking", [True, False])
def test_descriptor_of_a_pipe_goes_one_way(is_blocking: bool) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, is_blocking)
    with open_incoming(FdAddress(reader)) as incoming:
        with open_outgoing(FdAddress(writer)) as channel:
            assert isinstance(channel, DescriptorChannel)
            assert not channel.has_return_path
            channel.send([b"abc"])
        assert os.get_blocking(reader)
        assert recv_one(incoming) == b"abc"
        assert recv_one(incoming) == b""


@pytest.mark.parametrize(
    ("number", "why"),
    [(987654, "Bad file descriptor"), (1 << 70, "[Pp]ython int too large to convert to C .*")],
)
def test_descriptor_that_is_not_open(number: int, why: str) -> None:
    for open_channel in (open_incoming, open_outgoing):
        with pytest.raises(ChannelError, match=rf"^fd:{number} is not open: {why}$"):
            open_channel(FdAddress(number))
