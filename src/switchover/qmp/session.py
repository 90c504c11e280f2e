"""One client's session: negotiation first, then commands, each checked for its form.

It knows no command but `qmp_capabilities`, and does not run any: it says what is to be run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .message import MessageError, MessageReader, encode_message

NEGOTIATE = "qmp_capabilities"


class SessionState(Enum):
    """How far a client has come.

    NEGOTIATING: it has been greeted, and must say which capabilities of QMP it wants: there are
    none.
    READY: it may run commands, and is told of events.
    """

    NEGOTIATING = "negotiating"
    READY = "ready"


MOVES = {SessionState.NEGOTIATING: SessionState.READY}
"""Where `qmp_capabilities` leads; it is refused where no row is."""


class ErrorClass(Enum):
    """The classes of QMP errors that clients tell apart."""

    GENERIC = "GenericError"
    COMMAND_NOT_FOUND = "CommandNotFound"


class CommandError(Exception):
    """A command is refused; the text is for the client.

    Args:
        text: The text.
        error_class: Its class.
    """

    def __init__(self, text: str, error_class: ErrorClass = ErrorClass.GENERIC) -> None:
        super().__init__(text)
        self.error_class = error_class


@dataclass(frozen=True, slots=True)
class Request:
    """A command to be run.

    Attributes:
        command: Its name.
        arguments: Its arguments, unchecked.
        tag: The `id` that the answer repeats, in a mapping that is empty where there was none.
    """

    command: str
    arguments: Mapping[str, Any]
    tag: Mapping[str, Any]

    def answer(self, result: object) -> bytes:
        """The answer of a command that was run."""
        return encode_message({"return": result, **self.tag})

    def refusal(self, error: CommandError) -> bytes:
        """The answer of a command that was not."""
        return _refusal(error, self.tag)


class Session:
    """The server's side of one client.

    Args:
        version: The version object of the greeting.
    """

    def __init__(self, version: Mapping[str, object]) -> None:
        self._version = version
        self._reader = MessageReader()
        self.state = SessionState.NEGOTIATING

    def greeting(self) -> bytes:
        """What the client is sent first."""
        return encode_message({"QMP": {"version": self._version, "capabilities": []}})

    def receive(self, data: bytes) -> Iterator[Request | bytes]:
        """Takes bytes, and gives what is to be done: a request to be run, or an answer to be sent.

        One at a time: what comes after a request waits until that has been run.
        """
        for value in self._reader.receive(data):
            yield self._judge(value)

    def _judge(self, value: object) -> Request | bytes:
        tag = {"id": value["id"]} if isinstance(value, dict) and "id" in value else {}
        try:
            request = _request(value, tag)
            if request.command == NEGOTIATE:
                return self._negotiate(request)
            if self.state == SessionState.NEGOTIATING:
                raise CommandError(
                    f"Expecting capabilities negotiation with '{NEGOTIATE}'",
                    ErrorClass.COMMAND_NOT_FOUND,
                )
        except CommandError as error:
            return _refusal(error, tag)
        return request

    def _negotiate(self, request: Request) -> bytes:
        if self.state not in MOVES:
            raise CommandError(
                "Capabilities negotiation is already complete, command ignored",
                ErrorClass.COMMAND_NOT_FOUND,
            )
        _check_wishes(request.arguments)
        self.state = MOVES[self.state]
        return request.answer({})


def _request(value: object, tag: Mapping[str, Any]) -> Request:
    if isinstance(value, MessageError):
        raise CommandError(str(value))
    if not isinstance(value, dict):
        raise CommandError("QMP input must be a JSON object")
    for member in value:
        if member not in ("execute", "exec-oob", "arguments", "id"):
            raise CommandError(f"QMP input member '{member}' is unexpected")
    if "exec-oob" in value:
        if "execute" in value:
            raise CommandError("QMP input member 'execute' clashes with 'exec-oob'")
        raise CommandError("QMP input member 'exec-oob' is unexpected")
    if "execute" not in value:
        raise CommandError("QMP input lacks member 'execute'")
    command, arguments = value["execute"], value.get("arguments", {})
    if not isinstance(command, str):
        raise CommandError("QMP input member 'execute' must be a string")
    if not isinstance(arguments, dict):
        raise CommandError("QMP input member 'arguments' must be an object")
    return Request(command, arguments, tag)


def _check_wishes(arguments: Mapping[str, Any]) -> None:
    wishes = arguments.get("enable", [])
    if not isinstance(wishes, list):
        raise CommandError("Invalid parameter type for 'enable', expected: array")
    for place, wish in enumerate(wishes):
        if not isinstance(wish, str):
            raise CommandError(f"Invalid parameter type for 'enable[{place}]', expected: string")
        if wish != "oob":
            raise CommandError(f"Parameter 'null' does not accept value '{wish}'")
        raise CommandError(f"QMP capability '{wish}' not available")
    for name in arguments:
        if name != "enable":
            raise CommandError(f"Parameter '{name}' is unexpected")


def _refusal(error: CommandError, tag: Mapping[str, Any]) -> bytes:
    described = {"class": error.error_class.value, "desc": str(error)}
    return encode_message({"error": described, **tag})
