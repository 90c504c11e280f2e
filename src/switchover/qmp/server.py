"""The QMP server: several clients at a time, on one asyncio loop that nothing blocks.

A client that sends nonsense gets an error and stays. A client that does not read is dropped.
"""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping

from .message import encode_message
from .session import CommandError, Request, Session, SessionState

_LOG = logging.getLogger(__name__)

MAX_UNREAD_BYTES = 1 << 20
"""A client that has not read so much is not reading at all: an answer has a few KiB at most."""
MAX_CLIENTS = 64
"""Each costs a descriptor, which migrations need too."""
_READ_BYTES = 1 << 16
_CLOSE_S = 1.0

Execute = Callable[[str, Mapping[str, object]], object]
"""Runs a command with its arguments, and gives what it returns; or raises CommandError."""


class Server:
    """Serves one machine. To be made and used within a running loop.

    Args:
        version: The version object of the greeting.
        execute: Runs the commands.
    """

    def __init__(self, version: Mapping[str, object], execute: Execute) -> None:
        self._version = version
        self._execute = execute
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._clients: dict[asyncio.Task[None], tuple[Session, asyncio.StreamWriter]] = {}
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Serves those who connect to a socket that listens."""
        self._server = await asyncio.start_server(self._accept, sock=sock)

    async def close(self) -> None:
        """Sends what is to be sent, and closes all connections."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._clients)
        for _, writer in list(self._clients.values()):
            writer.close()
        if tasks:
            # Whoever does not read its last answers by then does not get them.
            _, late = await asyncio.wait(tasks, timeout=_CLOSE_S)
            for task in late:
                self._clients[task][1].transport.abort()

    def notify(self, event: str, data: Mapping[str, object]) -> None:
        """Tells all clients of an event; from any thread."""
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        message: dict[str, object] = {
            "timestamp": {"seconds": seconds, "microseconds": nanoseconds // 1000},
            "event": event,
        }
        if data:
            message["data"] = data
        encoded = encode_message(message)
        if threading.get_ident() == self._thread:
            self._tell_all(encoded)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell_all, encoded)

    def _tell_all(self, encoded: bytes) -> None:
        for session, writer in list(self._clients.values()):
            if session.state == SessionState.READY:
                _write(writer, encoded)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        session = Session(self._version)
        if len(self._clients) == MAX_CLIENTS:
            writer.transport.abort()
            return
        self._clients[task] = session, writer
        try:
            _write(writer, session.greeting())
            while not writer.is_closing() and (data := await reader.read(_READ_BYTES)):
                for work in session.receive(data):
                    answer = self._answer(work) if isinstance(work, Request) else work
                    _write(writer, answer)
        except OSError:
            pass  # It is gone, which is its right.
        finally:
            del self._clients[task]
            writer.close()

    def _answer(self, request: Request) -> bytes:
        try:
            return request.answer(self._execute(request.command, request.arguments))
        except CommandError as error:
            return request.refusal(error)
        except Exception as bug:
            _LOG.exception("a bug, please report: command %s", request.command)
            return request.refusal(CommandError(f"internal error: {bug!r}"))


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Writes without waiting, to whoever reads."""
    if writer.is_closing():
        return
    writer.write(data)
    if writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
        writer.transport.abort()
