"""`switchover migrate`: drives a migration of any QMP server, QEMU's included, and watches it."""

import asyncio
import json as json_module
import re
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from rich.console import Console
from typer import Argument, BadParameter, Exit, Option

from ..errors import MigrationError
from ..qmp.driver import AckWait, Address, Driver, Outcome, Plan, Server, read_ack_wait
from .console import fail, say, size, working
from .timeline import downtime_table
from .values import parse_size

_FAILED = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SIZE = re.compile(r"\d+[KMGT]")


def _parse_qmp(text: str) -> Address:
    if text.startswith("tcp:"):
        host, colon, port = text.removeprefix("tcp:").rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise BadParameter(f"{text!r} is not an address: expected tcp:HOST:PORT")
        return host.removeprefix("[").removesuffix("]") or "localhost", int(port)
    path = text.removeprefix("unix:")
    if not path:
        raise BadParameter(f"{text!r} is not an address: expected unix:PATH or tcp:HOST:PORT")
    return path


def _parse_setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise BadParameter(f"{text!r} is not a parameter: expected NAME=VALUE")
    if _SIZE.fullmatch(value):
        return name, parse_size(value)
    if re.fullmatch(r"-?\d+|true|false|null", value):
        return name, json_module.loads(str(int(value)) if value[-1].isdecimal() else value)
    return name, value


def migrate(
    uri: Annotated[
        str,
        Argument(
            metavar="URI",
            help="Where the machine goes, as the source's QEMU is told: tcp:HOST:PORT, unix:PATH, "
            "exec:COMMAND, file:PATH. With --to-qmp port 0 takes a free one.",
        ),
    ],
    qmp: Annotated[
        str, Option(metavar="SOURCE", help="The source's QMP: unix:PATH or tcp:HOST:PORT.")
    ],
    to_qmp: Annotated[
        str | None,
        Option(
            metavar="DESTINATION",
            help="The destination's QMP: it is set up too, and told to listen (-incoming defer).",
        ),
    ] = None,
    capability: Annotated[
        list[str] | None,
        Option(
            metavar="NAME",
            help="A migration capability to switch on, on both sides. May be given several times.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="NAME=VALUE",
            help="A migration parameter to set, on both sides, such as max-bandwidth=100M. "
            "May be given several times.",
        ),
    ] = None,
    json: Annotated[bool, Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Drive a migration of any QMP server, QEMU's too, and watch it.

    It succeeds only when the source says that it has completed and, with --to-qmp, the destination
    says so too. Ctrl-C cancels the migration. Where the source tells where its downtime went, as
    that of `switchover run` does, it is printed as a table.
    """
    source = Server("source", _parse_qmp(qmp))
    destination = None if to_qmp is None else Server("destination", _parse_qmp(to_qmp))
    plan = Plan(uri, tuple(capability or ()), dict(map(_parse_setting, set_ or ())))
    try:
        outcome = asyncio.run(_drive(plan, source, destination))
    except MigrationError as error:
        outcome = Outcome({"status": "failed"}, error=str(error))
    if json:
        json_module.dump(outcome.as_dict(), sys.stdout, indent=2)
        sys.stdout.write("\n")
    if outcome.error is not None:
        fail(outcome.error)
        raise Exit(_FAILED)
    say(f"the machine was moved: {_figures(outcome.source)}{_expected(outcome)}")
    if outcome.phases and not json:
        # The parts have the names of a peer's devices: text, whatever it looks like.
        console = Console(highlight=False, markup=False, emoji=False)
        console.print(downtime_table("Where the downtime went", {"this move": outcome.phases}))


async def _drive(plan: Plan, source: Server, destination: Server | None) -> Outcome:
    with working() as show:
        return await _watch(plan, source, destination, _Watching(show).show)


async def _watch(
    plan: Plan,
    source: Server,
    destination: Server | None,
    show: Callable[[Mapping[str, Any]], None],
) -> Outcome:
    loop = asyncio.get_running_loop()
    driver = Driver(plan, source, destination, show, say)

    def cancel() -> None:
        say("cancelling; once more to leave it at that")
        driver.cancel()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, cancel)
    try:
        await source.connect()
        if destination is not None:
            await destination.connect()
        return await driver.run()
    finally:
        await source.disconnect()
        if destination is not None:
            await destination.disconnect()


class _Watching:
    """Says each change of status, and now and then how much is left."""

    _EVERY = 10

    def __init__(self, say_it: Callable[[str], None]) -> None:
        self._say = say_it
        self._status = ""
        self._quiet = 0

    def show(self, info: Mapping[str, Any]) -> None:
        """Shows what `query-migrate` said."""
        self._quiet += 1
        status = str(info.get("status", "none"))
        if status != self._status or self._quiet == self._EVERY:
            self._status, self._quiet = status, 0
            figures = _figures(info)
            self._say(f"{status}: {figures}" if figures else status)


def _figures(info: Mapping[str, Any]) -> str:
    parts = []
    if ram := info.get("ram"):
        parts.append(f"{size(ram['transferred'])} transferred")
        parts.append(f"{size(ram['remaining'])} remaining")
    for name in ("total-time", "downtime"):
        if name in info:
            parts.append(f"{name} {info[name]} ms")
    if ack := read_ack_wait(info):
        parts.append(_waiting(ack))
    return ", ".join(parts)


def _waiting(ack: AckWait) -> str:
    """Whose ACK is waited for, or was, and for how long."""
    names = f" of {' and '.join(ack.waiting_for)}" if ack.waiting_for else ""
    if ack.waiting_ms is None:
        return f"ACK{names} not there yet"
    end = ", and not any longer" if ack.timed_out else ""
    return f"ACK{names} waited for {ack.waiting_ms:.0f} ms{end}"


def _expected(outcome: Outcome) -> str:
    """What was expected of the downtime, behind what it was."""
    expected = outcome.expected_downtime
    if expected is None:
        return ""
    return (
        f", expected {expected.expected_ms:.0f} ms and by QEMU's formula "
        f"{expected.transfer_ms:.0f} ms"
    )
