"""From an address to a channel."""

import os
import socket
import stat

from ..errors import ChannelError
from ..model.address import (
    ExecAddress,
    FdAddress,
    FileAddress,
    InetAddress,
    MigrationAddress,
    UnixAddress,
)
from .base import Channel, reason
from .connection import Connection, Listener, connect
from .exec import ExecChannel
from .file import AtomicFile, DescriptorChannel, open_file


def open_outgoing(address: MigrationAddress) -> Channel:
    """A channel that a stream can be sent to.

    Raises:
        ChannelError: It cannot be opened.
    """
    match address:
        case InetAddress() | UnixAddress():
            return connect(address)
        case ExecAddress():
            return ExecChannel(address.command, writes=True)
        case FileAddress():
            return AtomicFile(address.path, str(address))
        case FdAddress():
            return _open_descriptor(address)


def open_incoming(address: MigrationAddress) -> Channel | Listener:
    """Where a stream comes from: a channel that has it, or a listener that waits for its source.

    Raises:
        ChannelError: It cannot be opened.
    """
    match address:
        case InetAddress() | UnixAddress():
            return Listener(address)
        case ExecAddress():
            return ExecChannel(address.command, writes=False)
        case FileAddress():
            return open_file(address.path, str(address))
        case FdAddress():
            return _open_descriptor(address)


def _open_descriptor(address: FdAddress) -> Channel:
    try:
        mode = os.fstat(address.number).st_mode
        # Whoever made it may have left it otherwise.
        os.set_blocking(address.number, True)
        if stat.S_ISSOCK(mode):
            return Connection(socket.socket(fileno=address.number), str(address))
    except (OSError, OverflowError) as error:
        raise ChannelError(f"{address} is not open: {reason(error)}") from error
    return DescriptorChannel(address.number, str(address))
