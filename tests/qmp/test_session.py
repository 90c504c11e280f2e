"""A client negotiates first; what is no command is refused in QEMU's words."""

import json
from typing import Any

import pytest

from switchover.qmp.session import (
    MOVES,
    NEGOTIATE,
    CommandError,
    ErrorClass,
    Request,
    Session,
    SessionState,
)

VERSION = {"qemu": {"major": 1, "minor": 2, "micro": 3}, "package": "test"}


def send(session: Session, text: str) -> list[Any]:
    """What comes of a text: requests, and answers as objects."""
    return [
        json.loads(work) if isinstance(work, bytes) else work
        for work in session.receive(text.encode())
    ]


def refusal(text: str, error_class: str = "GenericError") -> dict[str, Any]:
    return {"error": {"class": error_class, "desc": text}}


@pytest.fixture
def ready() -> Session:
    session = Session(VERSION)
    assert send(session, '{"execute": "qmp_capabilities"}') == [{"return": {}}]
    return session


def test_the_greeting_tells_the_version() -> None:
    greeting = json.loads(Session(VERSION).greeting())
    assert greeting == {"QMP": {"version": VERSION, "capabilities": []}}


def test_nothing_goes_before_the_negotiation() -> None:
    session = Session(VERSION)
    text = "Expecting capabilities negotiation with 'qmp_capabilities'"
    assert send(session, '{"execute": "stop", "id": 1}') == [
        {**refusal(text, "CommandNotFound"), "id": 1}
    ]
    assert session.state == SessionState.NEGOTIATING


def test_the_negotiation_is_done_once() -> None:
    session = Session(VERSION)
    text = "Capabilities negotiation is already complete, command ignored"
    both = '{"execute": "qmp_capabilities", "id": [1]}\n{"execute": "qmp_capabilities"}'
    assert send(session, both) == [
        {"return": {}, "id": [1]},
        refusal(text, "CommandNotFound"),
    ]
    assert session.state == SessionState.READY


def test_each_state_is_in_the_table_or_the_last() -> None:
    assert {*MOVES, SessionState.READY} == set(SessionState)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"enable": 5}', "Invalid parameter type for 'enable', expected: array"),
        ('{"enable": [5]}', "Invalid parameter type for 'enable[0]', expected: string"),
        ('{"enable": ["foo"]}', "Parameter 'null' does not accept value 'foo'"),
        ('{"enable": ["oob"]}', "QMP capability 'oob' not available"),
        ('{"enable": [], "foo": 1}', "Parameter 'foo' is unexpected"),
    ],
)
def test_what_cannot_be_negotiated_is_refused(arguments: str, text: str) -> None:
    session = Session(VERSION)
    asked = f'{{"execute": "{NEGOTIATE}", "arguments": {arguments}}}'
    assert send(session, asked) == [refusal(text)]
    assert session.state == SessionState.NEGOTIATING
    assert send(session, asked.replace(arguments, '{"enable": []}')) == [{"return": {}}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("garbage\n", "JSON parse error, invalid keyword 'garbage'"),
        ("[1]", "QMP input must be a JSON object"),
        ("5\n", "QMP input must be a JSON object"),
        ("{}", "QMP input lacks member 'execute'"),
        ('{"arguments": {}}', "QMP input lacks member 'execute'"),
        ('{"execute": 5}', "QMP input member 'execute' must be a string"),
        ('{"execute": "stop", "arguments": 5}', "QMP input member 'arguments' must be an object"),
        ('{"execute": "stop", "foo": 5}', "QMP input member 'foo' is unexpected"),
        (
            '{"execute": "stop", "exec-oob": "x"}',
            "QMP input member 'execute' clashes with 'exec-oob'",
        ),
        ('{"exec-oob": "stop"}', "QMP input member 'exec-oob' is unexpected"),
    ],
)
def test_what_is_no_command_is_refused(ready: Session, text: str, reason: str) -> None:
    assert send(ready, text) == [refusal(reason)]
    assert send(ready, '{"execute": "stop"}') == [Request("stop", {}, {})]


def test_a_command_is_handed_on_and_its_answer_repeats_the_id(ready: Session) -> None:
    (request,) = send(ready, '{"execute": "x", "arguments": {"a": 1}, "id": {"b": null}}')
    assert request == Request("x", {"a": 1}, {"id": {"b": None}})
    assert json.loads(request.answer([1])) == {"return": [1], "id": {"b": None}}
    error = CommandError("no", ErrorClass.COMMAND_NOT_FOUND)
    expected = {**refusal("no", "CommandNotFound"), "id": {"b": None}}
    assert json.loads(request.refusal(error)) == expected
