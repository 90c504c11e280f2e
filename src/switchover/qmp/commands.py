"""The commands: what each does to one machine, and what it answers.

All are called by one thread, and none of them waits for a migration.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import MigrationError
from ..guest.base import Guest
from ..model.address import parse_address
from ..model.capability import Capability, change_capabilities
from ..model.parameter import Parameters
from ..model.status import MigrationStatus
from .guest import SharedGuest
from .migration import Incoming, Migration, Notify, Outgoing, Wiring
from .schema import COMMANDS, change_parameters, describe_parameters
from .session import NEGOTIATE, CommandError, ErrorClass

_CLOSE_S = 1.0


class Machine:
    """A machine and its migrations, controlled by commands.

    Args:
        guest: The machine, which is stopped.
        wiring: How a migration comes to its channel.
        notify: Told of events, by any thread.
        version: The answer to `query-version`.
        has_incoming: Whether the machine is to be received.
        is_paused: Whether it then, or at once, stays stopped.
    """

    def __init__(
        self,
        guest: Guest,
        wiring: Wiring,
        notify: Notify,
        version: Mapping[str, object],
        *,
        has_incoming: bool = False,
        is_paused: bool = False,
    ) -> None:
        self._wiring = wiring
        self._notify = notify
        self._version = version
        self._has_incoming = has_incoming
        self._guest = SharedGuest(
            guest, self._tell_running, is_incoming=has_incoming, wants_running=not is_paused
        )
        self._was_started = False
        self._capabilities: frozenset[Capability] = frozenset()
        self._parameters = Parameters()
        self._outgoing: Outgoing | None = None
        self._incoming: Incoming | None = None
        self._commands: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
            "cont": self._cont,
            "migrate": self._migrate,
            "migrate-continue": self._migrate_continue,
            "migrate-incoming": self._migrate_incoming,
            "migrate-set-capabilities": self._set_capabilities,
            "migrate-set-parameters": self._set_parameters,
            "migrate_cancel": self._cancel,
            "query-commands": self._query_commands,
            "query-migrate": self._query_migrate,
            "query-migrate-capabilities": self._query_capabilities,
            "query-migrate-parameters": self._query_parameters,
            "query-status": self._query_status,
            "query-version": lambda _: self._version,
            "quit": self._quit,
            "stop": self._stop,
        }
        self.quits: Callable[[], None] = _nothing
        self.dies: Callable[[str], None] = _ignore
        if not has_incoming and not is_paused:
            self._guest.cont()

    def execute(self, command: str, arguments: Mapping[str, Any]) -> object:
        """Runs a command, and gives what it returns.

        Raises:
            CommandError: It is refused.
        """
        run = self._commands.get(command)
        if run is None:
            raise CommandError(
                f"The command {command} has not been found", ErrorClass.COMMAND_NOT_FOUND
            )
        checked = COMMANDS[command](dict(arguments), "")
        try:
            return run(checked)
        except MigrationError as error:
            raise CommandError(str(error)) from error

    def listen(self, uri: str) -> None:
        """Begins to receive, as the command line says; a failure ends the process.

        Raises:
            MigrationError: It cannot.
        """
        self._listen(uri, exits_on_error=True)

    def close(self) -> None:
        """Ends what goes on, for a process that is about to end; the machine is stopped."""
        if self._outgoing is not None and not self._outgoing.is_over:
            self._outgoing.cancel()
            # One that connects, or waits for SHUT, may take longer than anybody would wait.
            self._outgoing.is_done.wait(_CLOSE_S)
        if self._incoming is not None and not self._incoming.is_over:
            self._incoming.close()
        self._guest.stop_by_hand()

    # Running

    @property
    def run_state(self) -> str:
        """The state by its QAPI name."""
        outgoing = self._outgoing
        if self._guest.is_running:
            return "running"
        if self._is_awaited:
            return "inmigrate"
        if outgoing is not None and self._guest.is_held:
            return "finish-migrate"
        if outgoing is not None and outgoing.is_given_away:
            return "postmigrate"
        return "paused" if self._was_started or self._incoming is not None else "prelaunch"

    @property
    def _is_awaited(self) -> bool:
        """Whether the machine is not here yet."""
        incoming = self._incoming
        is_here = incoming is not None and incoming.is_over and incoming.error is None
        return self._has_incoming and not is_here

    def _tell_running(self, is_running: bool) -> None:
        if is_running:
            self._was_started = True
            if self._outgoing is not None:
                self._outgoing.is_given_away = False
        self._notify("RESUME" if is_running else "STOP", {})

    def _query_status(self, _: Mapping[str, Any]) -> object:
        state = self.run_state
        return {"status": state, "running": state == "running"}

    def _stop(self, _: Mapping[str, Any]) -> object:
        self._guest.stop_by_hand()
        return {}

    def _cont(self, _: Mapping[str, Any]) -> object:
        self._guest.cont_by_hand(is_incoming=self._is_awaited)
        return {}

    def _quit(self, _: Mapping[str, Any]) -> object:
        self.quits()
        return {}

    def _query_commands(self, _: Mapping[str, Any]) -> object:
        return [{"name": name} for name in (NEGOTIATE, *self._commands)]

    # Migration

    @property
    def _is_migrating(self) -> bool:
        return self._outgoing is not None and not self._outgoing.is_over

    def _check_not_migrating(self) -> None:
        if self._is_migrating:
            raise CommandError("There's a migration process in progress")

    def _has_events(self) -> bool:
        return Capability.EVENTS in self._capabilities

    def _migrate(self, arguments: Mapping[str, Any]) -> object:
        uri = _uri(arguments)
        if arguments.get("resume"):
            raise CommandError("Cannot resume if there is no paused migration")
        self._check_not_migrating()
        if self._is_awaited:
            raise CommandError("Guest is waiting for an incoming migration")
        if self.run_state == "postmigrate":
            raise CommandError("Can't migrate the vm that was paused due to previous migration")
        address = parse_address(uri)
        capabilities, parameters = self._capabilities, self._parameters
        self._outgoing = Outgoing(
            self._guest,
            self._has_events,
            self._notify,
            lambda progress: self._wiring.open_source(
                address, self._guest, capabilities, parameters, progress
            ),
        )
        return {}

    def _migrate_continue(self, arguments: Mapping[str, Any]) -> object:
        outgoing = self._outgoing
        status = MigrationStatus.NONE if outgoing is None else outgoing.status
        if outgoing is None or status != arguments["state"]:
            raise CommandError(f"Migration not in expected state: {status.value}")
        outgoing.continue_switchover()
        return {}

    def _migrate_incoming(self, arguments: Mapping[str, Any]) -> object:
        if not self._has_incoming:
            raise CommandError("'-incoming' was not specified on the command line")
        if self._incoming is not None:
            raise CommandError("The incoming migration has already been started")
        self._listen(_uri(arguments), exits_on_error=arguments.get("exit-on-error", True))
        return {}

    def _listen(self, uri: str, *, exits_on_error: bool) -> None:
        address = parse_address(uri)
        capabilities = self._capabilities
        self._incoming = Incoming(
            self._guest,
            self._has_events,
            self._notify,
            lambda progress: self._wiring.open_destination(
                address, self._guest, capabilities, progress
            ),
            self._die if exits_on_error else _go_on,
        )

    def _die(self, incoming: Migration) -> None:
        if incoming.error is not None:
            self.dies(f"load of migration failed: {incoming.error}")

    def _cancel(self, _: Mapping[str, Any]) -> object:
        if self._outgoing is not None:
            self._outgoing.cancel()
        return {}

    def _query_migrate(self, _: Mapping[str, Any]) -> object:
        if self._outgoing is not None:
            return self._outgoing.describe(self._parameters)
        return {} if self._incoming is None else self._incoming.describe()

    def _set_capabilities(self, arguments: Mapping[str, Any]) -> object:
        self._check_not_migrating()
        changes = {
            Capability(change["capability"]): change["state"]
            for change in arguments["capabilities"]
        }
        self._capabilities = change_capabilities(self._capabilities, changes)
        return {}

    def _query_capabilities(self, _: Mapping[str, Any]) -> object:
        return [
            {"capability": capability.value, "state": capability in self._capabilities}
            for capability in Capability
        ]

    def _set_parameters(self, arguments: Mapping[str, Any]) -> object:
        self._parameters = change_parameters(self._parameters, arguments)
        if self._outgoing is not None:
            self._outgoing.set_parameters(self._parameters)
        return {}

    def _query_parameters(self, _: Mapping[str, Any]) -> object:
        return describe_parameters(self._parameters)


def _uri(arguments: Mapping[str, Any]) -> str:
    uri = arguments.get("uri")
    if uri is not None and arguments.get("channels"):
        raise CommandError("'uri' and 'channels' arguments are mutually exclusive")
    if arguments.get("channels"):
        raise CommandError("argument 'channels' is not supported by switchover: use 'uri'")
    if uri is None:
        raise CommandError("need either 'uri' or 'channels' argument")
    return str(uri)


def _nothing() -> None:
    """Nobody wants to know."""


def _ignore(reason: str) -> None:
    """Nobody wants to know why."""


def _go_on(incoming: Migration) -> None:
    """A failure is told to those who ask."""
