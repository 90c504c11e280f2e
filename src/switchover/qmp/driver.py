"""Drives a migration between two QMP servers, whose ever they are, and watches it."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from qemu.qmp import QMPClient, QMPError
from qemu.qmp.qmp_client import ExecuteError

from ..errors import ChannelError, MigrationError, PeerError
from ..model.stats import ExpectedDowntime, Phase

POLL_S = 0.1
"""How often the servers are asked how far they are."""
END_TIMEOUT_S = 30.0
"""How long a destination without a return path may take behind the end of its source."""
_FINAL = frozenset({"completed", "failed", "cancelled"})
_UNDERFLOW = "Switchover ack pending num underflowed"
_OTHER_MODE = (
    "the source counts the ACKs per device, and the destination sent one for all devices: both "
    "must count in the same way, so use -global migration.switchover-ack-legacy=on at a source "
    "that is a QEMU from 11.1 on, =off at such a destination, or --switchover-ack-mode where "
    "switchover is one of the two"
)
"""What QEMU's few words mean."""

Address = str | tuple[str, int]
Watcher = Callable[[Mapping[str, Any]], None]
"""Told now and then what the source's `query-migrate` says."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        uri: Where the migration goes.
        capabilities: Those to be switched on, on both sides.
        parameters: Those to be set, on both sides.
    """

    uri: str
    capabilities: Sequence[str] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AckWait:
    """How a source waits for the SWITCHOVER_ACK, as far as it tells: ours does.

    Attributes:
        mode: Who counts the ACKs, if that is known.
        waiting_for: The devices that have not been acknowledged.
        waiting_ms: How long nothing but the ACK has kept the source from stopping its machine.
        timed_out: Whether it went on without.
    """

    mode: str | None
    waiting_for: tuple[str, ...]
    waiting_ms: float | None
    timed_out: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended.

    Attributes:
        source: What the source's `query-migrate` said last.
        destination: What the destination's did; None where there is none.
        error: Why it failed.
    """

    source: Mapping[str, Any]
    destination: Mapping[str, Any] | None = None
    error: str | None = None

    @property
    def status(self) -> str:
        """The status of the whole."""
        status = str(self.source.get("status", "none"))
        return "failed" if status == "completed" and self.error is not None else status

    @property
    def expected_downtime(self) -> ExpectedDowntime | None:
        """What the source expected before the stop; None where it does not tell."""
        return read_expected_downtime(self.source)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The parts of the downtime; none where the source does not tell."""
        return tuple(_read_phases(self.source))

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        ack, expected = read_ack_wait(self.source), self.expected_downtime
        return {
            "status": self.status,
            "total_ms": self.source.get("total-time"),
            "setup_ms": self.source.get("setup-time"),
            "downtime_ms": self.source.get("downtime"),
            "expected_downtime": None if expected is None else asdict(expected),
            "phases": [asdict(phase) for phase in self.phases],
            "switchover_ack": None if ack is None else asdict(ack),
            "hint": _read_hint(self.source),
            "ram": self.source.get("ram"),
            "destination_status": (self.destination or {}).get("status"),
            "error": self.error,
        }


class Server:
    """A QMP server, as its client sees it.

    Args:
        role: What it is called in errors.
        address: Where it is: a path, or a host and a port.
    """

    def __init__(self, role: str, address: Address) -> None:
        self._role = role
        self._address = address
        self._client = QMPClient(role)

    async def connect(self) -> None:
        """Connects and negotiates.

        Raises:
            ChannelError: It cannot.
        """
        try:
            await self._client.connect(self._address)
        except (QMPError, OSError) as error:
            where = self._address
            where = where if isinstance(where, str) else f"{where[0]}:{where[1]}"
            cause = getattr(error, "exc", error)
            cause = getattr(cause, "strerror", None) or cause
            raise ChannelError(
                f"cannot connect to the {self._role}'s QMP {where}: {cause}"
            ) from error

    async def disconnect(self) -> None:
        """Leaves, whatever the other side thinks of it."""
        try:
            await self._client.disconnect()
        except (QMPError, OSError, EOFError):
            return

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Executes a command.

        Raises:
            PeerError: It was refused; or the server is gone, and then it is a ChannelError.
        """
        try:
            return await self._client.execute(command, dict(arguments or {}) or None)
        except ExecuteError as error:
            raise PeerError(f"the {self._role} refuses {command}: {error}") from error
        except (QMPError, OSError) as error:
            raise ChannelError(f"the {self._role} left its QMP connection") from error

    async def set_up(self, plan: Plan) -> None:
        """Sets what is to be set."""
        if plan.capabilities:
            switched_on = [{"capability": name, "state": True} for name in plan.capabilities]
            await self.execute("migrate-set-capabilities", {"capabilities": switched_on})
        if plan.parameters:
            await self.execute("migrate-set-parameters", plan.parameters)

    async def query_migrate(self) -> Mapping[str, Any]:
        """How far the migration is."""
        found: Mapping[str, Any] = await self.execute("query-migrate")
        return found


class Driver:
    """One migration.

    Args:
        plan: What is to be done.
        source: The source.
        destination: The destination, where it is to be driven too.
        watcher: Told how far it is.
        say: Told, in a sentence, what a person may want to know.
    """

    def __init__(
        self,
        plan: Plan,
        source: Server,
        destination: Server | None,
        watcher: Watcher,
        say: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._source = source
        self._destination = destination
        self._watcher = watcher
        self._say = say
        self._said: set[str] = set()
        self._cancel = asyncio.Event()

    def cancel(self) -> None:
        """Has it cancelled; `run` then waits for that."""
        self._cancel.set()

    async def run(self) -> Outcome:
        """Migrates, and watches until it is over.

        Raises:
            MigrationError: It could not be begun, or a server left.
        """
        uri = self._plan.uri
        await self._source.set_up(self._plan)
        if self._destination is not None:
            await self._destination.set_up(self._plan)
            uri = await self._listen(self._destination)
        await self._source.execute("migrate", {"uri": uri})
        source = await self._watch()
        if source["status"] != "completed":
            error = source.get("error-desc", f"the migration is {source['status']}")
            reason = await self._ask_destination() if source["status"] == "failed" else ""
            return Outcome(source, error=_explain(f"{error}{reason}"))
        if self._destination is None:
            return Outcome(source)
        return await self._await_destination(self._destination, source)

    async def _ask_destination(self) -> str:
        """What the destination of a migration that failed has to say, as the end of a sentence."""
        if self._destination is None:
            return ""
        try:
            found = await self._destination.query_migrate()
        except MigrationError:
            return "; the destination is gone"
        return f"; the destination says: {found['error-desc']}" if "error-desc" in found else ""

    async def _listen(self, destination: Server) -> str:
        """Has the destination listen; where the source has to go."""
        uri = self._plan.uri
        try:
            await self._begin_incoming(destination, uri)
        except PeerError as error:
            if "already been started" not in str(error):
                raise
            self._say("the destination was told before where to listen, and that is left so")
        if not uri.startswith("tcp:") or not uri.endswith(":0"):
            return uri
        listening = await destination.query_migrate()
        port = listening["socket-address"][0]["port"]
        host = uri[len("tcp:") : -len(":0")]
        return f"tcp:{host or 'localhost'}:{port}"

    async def _begin_incoming(self, destination: Server, uri: str) -> None:
        try:
            await destination.execute("migrate-incoming", {"uri": uri, "exit-on-error": False})
        except PeerError as error:
            # Older than QEMU 9.1.
            if "'exit-on-error' is unexpected" not in str(error):
                raise
            await destination.execute("migrate-incoming", {"uri": uri})

    async def _watch(self) -> Mapping[str, Any]:
        """Watches the source until it is over."""
        is_cancelled = False
        while True:
            now = await self._source.query_migrate()
            self._watcher(now)
            if now.get("status") in _FINAL:
                return now
            self._tell_trouble(now)
            if self._cancel.is_set() and not is_cancelled:
                is_cancelled = True
                await self._source.execute("migrate_cancel")
            elif is_cancelled:
                await asyncio.sleep(POLL_S)
            else:
                await self._pause()

    def _tell_trouble(self, now: Mapping[str, Any]) -> None:
        """Says once what a source that goes on has to complain of."""
        if hint := _read_hint(now):
            self._say_once(hint)
        # Some errors end the migration only when something else does.
        if "error-desc" in now:
            error = _explain(str(now["error-desc"]))
            self._say_once(f"the source is {now.get('status')} and has an error: {error}")

    def _say_once(self, text: str) -> None:
        """The same with other figures is no news."""
        kind = re.sub(r"\d+", "", text)
        if kind not in self._said:
            self._said.add(kind)
            self._say(text)

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._cancel.wait(), POLL_S)
        except TimeoutError:
            return

    async def _await_destination(self, destination: Server, source: Mapping[str, Any]) -> Outcome:
        """Waits until the destination says that it has the machine."""
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                while (now := await destination.query_migrate()).get("status") not in _FINAL:
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            error = f"the source has completed, and the destination has not in {END_TIMEOUT_S:g} s"
            return Outcome(source, None, error)
        except MigrationError as failure:
            return Outcome(source, None, f"the source has completed, and {failure}")
        if now["status"] == "completed":
            return Outcome(source, now)
        reason = now.get("error-desc", f"it is {now['status']}")
        return Outcome(
            source, now, f"the source has completed, and the destination failed: {reason}"
        )


def _explain(error: str) -> str:
    """An error-desc, with what it means where its own words do not tell."""
    return f"{error}; {_OTHER_MODE}" if _UNDERFLOW in error else error


# What our own servers tell beyond QEMU's, under names that it will not use. Whoever else uses them
# for something else is not understood, and is not asked for more.


def read_ack_wait(info: Mapping[str, Any]) -> AckWait | None:
    """How a source waits for the ACK, by its `query-migrate`; None where it does not tell."""
    match info.get("x-switchover-ack"):
        case {
            "mode": str() | None as mode,
            "waiting-for": list() as names,
            "waiting": int() | float() | None as waiting_ms,
            "timed-out": bool() as timed_out,
        }:
            return AckWait(mode, tuple(map(str, names)), waiting_ms, timed_out)
    return None


def read_expected_downtime(info: Mapping[str, Any]) -> ExpectedDowntime | None:
    """What a source expects, by its `query-migrate`; None where it does not tell."""
    match info.get("x-expected-downtime"):
        case {
            "expected": int() | float() as expected,
            "transfer": int() | float() as transfer,
            "load-measured": bool() as is_load_measured,
        }:
            return ExpectedDowntime(expected, transfer, is_load_measured)
    return None


def _read_phases(info: Mapping[str, Any]) -> Iterator[Phase]:
    told = info.get("x-downtime-phases")
    for entry in told if isinstance(told, list) else ():
        match entry:
            case {
                "side": str() as side,
                "name": str() as name,
                "start": int() | float() as start_ms,
                "duration": int() | float() as duration_ms,
            }:
                yield Phase(side, name, start_ms, duration_ms)


def _read_hint(info: Mapping[str, Any]) -> str | None:
    hint = info.get("x-hint")
    return hint if isinstance(hint, str) else None
