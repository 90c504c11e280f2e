"""Where a stream goes to or comes from: QEMU's migration URIs."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UsageError

_PORT = re.compile(r"[0-9]{1,5}")
_FD_DIGITS = 9
"""No process has more open files than that."""


@dataclass(frozen=True, slots=True)
class InetAddress:
    """`tcp:HOST:PORT`; an IPv6 host stands in brackets. An empty host listens everywhere."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """`unix:PATH`."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class FdAddress:
    """`fd:NUMBER`, a descriptor that this process was started with."""

    number: int

    def __str__(self) -> str:
        return f"fd:{self.number}"


@dataclass(frozen=True, slots=True)
class ExecAddress:
    """`exec:COMMAND`, whose standard input or output carries the stream; run by a shell."""

    command: str

    def __str__(self) -> str:
        return f"exec:{self.command}"


@dataclass(frozen=True, slots=True)
class FileAddress:
    """`file:PATH`."""

    path: str

    def __str__(self) -> str:
        return f"file:{self.path}"


MigrationAddress = InetAddress | UnixAddress | FdAddress | ExecAddress | FileAddress


def parse_address(uri: str) -> MigrationAddress:
    """The address that a URI names.

    Raises:
        UsageError: The URI is not one of `tcp:`, `unix:`, `fd:`, `exec:`, `file:`, or lacks a part.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == "tcp":
        return _parse_inet(uri, rest)
    if scheme == "fd":
        if not rest.isdecimal() or len(rest) > _FD_DIGITS:
            raise UsageError(f"{uri!r} is not a migration URI: expected fd:NUMBER")
        return FdAddress(int(rest))
    kinds: dict[str, Callable[[str], MigrationAddress]] = {
        "unix": UnixAddress,
        "exec": ExecAddress,
        "file": FileAddress,
    }
    if scheme not in kinds:
        raise UsageError(
            f"unknown migration protocol {uri!r}: expected tcp:HOST:PORT, unix:PATH, fd:NUMBER, "
            "exec:COMMAND or file:PATH"
        )
    if not rest:
        raise UsageError(f"{uri!r} is not a migration URI: nothing stands behind {scheme}:")
    if scheme == "file" and ",offset=" in rest:
        raise UsageError(f"{uri!r}: an offset in a file is not supported yet")
    return kinds[scheme](rest)


def _parse_inet(uri: str, rest: str) -> InetAddress:
    host, colon, port = rest.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise UsageError(f"{uri!r} is not a migration URI: expected tcp:HOST:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{uri!r} is not a migration URI: an IPv6 host stands in brackets")
    return InetAddress(host, int(port))
