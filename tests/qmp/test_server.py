"""The server: several clients, and none of them in the way of another."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from switchover.qmp.server import MAX_CLIENTS, MAX_UNREAD_BYTES, Server
from switchover.qmp.session import CommandError
from switchover.worker import Worker

VERSION: Mapping[str, object] = {"qemu": {"major": 1, "minor": 2, "micro": 3}, "package": "test"}
NEGOTIATION = b'{"execute": "qmp_capabilities"}'


def execute(command: str, arguments: Mapping[str, object]) -> object:
    """The only command that works says what it was given."""
    if command == "break":
        raise ZeroDivisionError
    if command != "say":
        raise CommandError("no")
    return arguments


class Client:
    """A client that does not believe what a library says.

    Args:
        path: The server's socket.
    """

    opened: ClassVar[list["Client"]] = []

    def __init__(self, path: Path) -> None:
        self._path = path
        self.opened.append(self)

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def connect(self) -> "Client":
        self.reader, self.writer = await asyncio.open_unix_connection(self._path, limit=1 << 24)
        return self

    async def negotiate(self) -> "Client":
        await self.connect()
        assert (await self.read())["QMP"]["version"] == VERSION
        assert await self.ask(NEGOTIATION) == {"return": {}}
        return self

    async def read(self) -> Any:
        """The next line; None at the end."""
        line = await self.reader.readline()
        assert line.endswith(b"\r\n") or not line
        return json.loads(line) if line else None

    async def ask(self, text: bytes) -> Any:
        self.writer.write(text)
        return await self.read()


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield sock


def serve(path: Path, test: Callable[[Server], Awaitable[None]]) -> None:
    """Runs a test against a server."""

    async def run() -> None:
        with listening(path) as sock:
            server = Server(VERSION, execute)
            await server.start(sock)
            try:
                async with asyncio.timeout(30):
                    await test(server)
            finally:
                await server.close()
                while Client.opened:
                    await Client.opened.pop().close()

    asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp"


def test_clients_do_not_see_one_anothers_answers(path: Path) -> None:
    async def test(_: Server) -> None:
        first, second = [await Client(path).negotiate() for _ in range(2)]
        said = b'{"execute": "say", "arguments": {"a": 1}, "id": 7}'
        assert await first.ask(said) == {"return": {"a": 1}, "id": 7}
        refused = {"error": {"class": "GenericError", "desc": "no"}}
        assert await second.ask(b'{"execute": "hush"}') == refused

    serve(path, test)


def test_events_go_to_all_who_negotiated(path: Path) -> None:
    async def test(server: Server) -> None:
        clients = [await Client(path).negotiate() for _ in range(3)]
        new = await Client(path).connect()
        assert "QMP" in await new.read()
        server.notify("STOP", {})
        worker = Worker("test", lambda: server.notify("MIGRATION", {"status": "setup"}))
        worker.join()
        for client in clients:
            event = await client.read()
            assert (event["event"], "data" in event) == ("STOP", False)
            assert set(event["timestamp"]) == {"seconds", "microseconds"}
            event = await client.read()
            assert (event["event"], event["data"]) == ("MIGRATION", {"status": "setup"})
        assert await new.ask(NEGOTIATION) == {"return": {}}

    serve(path, test)


def test_garbage_is_an_error_and_the_client_stays(path: Path) -> None:
    async def test(_: Server) -> None:
        client = await Client(path).negotiate()
        reply = await client.ask(b"garbage\n")
        assert reply["error"]["desc"] == "JSON parse error, invalid keyword 'garbage'"
        reply = await client.ask(b'{"execute": "say"}')
        assert reply == {"return": {}}

    serve(path, test)


def test_a_bug_is_an_error_and_the_client_stays(path: Path) -> None:
    async def test(_: Server) -> None:
        client = await Client(path).negotiate()
        reply = await client.ask(b'{"execute": "break"}')
        assert reply["error"]["desc"] == "internal error: ZeroDivisionError()"
        assert await client.ask(b'{"execute": "say"}') == {"return": {}}

    serve(path, test)


def test_a_client_that_vanishes_is_forgotten(path: Path) -> None:
    async def test(server: Server) -> None:
        leaving, staying = [await Client(path).negotiate() for _ in range(2)]
        leaving.writer.write(b'{"execute": "say')
        leaving.writer.transport.abort()
        server.notify("STOP", {})
        assert (await staying.read())["event"] == "STOP"
        assert await staying.ask(b'{"execute": "say"}') == {"return": {}}

    serve(path, test)


def test_a_client_that_does_not_read_is_dropped_and_holds_nobody_up(path: Path) -> None:
    async def test(server: Server) -> None:
        deaf, hearing = [await Client(path).negotiate() for _ in range(2)]
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        text = "x" * 1000
        for _ in range(3 * MAX_UNREAD_BYTES // 1000):
            server.notify("STOP", {"text": text})
            assert (await hearing.read())["event"] == "STOP"
        assert await hearing.ask(b'{"execute": "say"}') == {"return": {}}
        deaf.writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError, AssertionError)):
            while await deaf.read():
                pass
            raise ConnectionError

    serve(path, test)


def test_too_many_clients_are_turned_away(path: Path) -> None:
    async def test(_: Server) -> None:
        clients = [await Client(path).negotiate() for _ in range(MAX_CLIENTS)]
        more = await Client(path).connect()
        with pytest.raises(ConnectionError):
            assert await more.read() is None
            raise ConnectionError
        assert await clients[0].ask(b'{"execute": "say"}') == {"return": {}}

    serve(path, test)


def test_the_last_words_are_sent_before_the_end(path: Path) -> None:
    async def test(server: Server) -> None:
        client = await Client(path).negotiate()
        server.notify("SHUTDOWN", {"reason": "test"})
        await server.close()
        assert (await client.read())["event"] == "SHUTDOWN"
        assert await client.read() is None

    serve(path, test)


def test_who_does_not_read_does_not_hold_up_the_end(path: Path) -> None:
    async def test(server: Server) -> None:
        deaf = await Client(path).negotiate()
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(600):
            server.notify("STOP", {"text": "x" * 1000})
        await server.close()
        deaf.writer.transport.abort()

    serve(path, test)
