"""JSON objects are found in bytes however they are cut, and nonsense costs its line at most."""

import json

import pytest

from switchover.qmp.message import (
    MAX_MESSAGE_BYTES,
    MAX_NESTING,
    MessageError,
    MessageReader,
    encode_message,
)


def read(*pieces: bytes) -> list[object]:
    """What a reader finds, errors as their texts."""
    reader = MessageReader()
    return [
        str(value) if isinstance(value, MessageError) else value
        for piece in pieces
        for value in reader.receive(piece)
    ]


def cut(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


ACCEPTED: list[tuple[bytes, list[object]]] = [
    (b'{"execute": "stop"}', [{"execute": "stop"}]),
    (b'\r\n {"a": 1}\r\n{"b": 2} {"c": 3}{"d": []}', [{"a": 1}, {"b": 2}, {"c": 3}, {"d": []}]),
    (b'{\n"a":\n[1, 2, {"b": {}}]\n}', [{"a": [1, 2, {"b": {}}]}]),
    (b'{"a": "}]{["}', [{"a": "}]{["}]),
    (b'{"a": "\\"}"}', [{"a": '"}'}]),
    (b'{"a": "\\\\"}', [{"a": "\\"}]),
    (b'{"a": "it\'s"}', [{"a": "it's"}]),
    (b"{'a': 'b'}", [{"a": "b"}]),
    (b"{'a': 'say \"it\\'s\" \\n'}", [{"a": 'say "it\'s" \n'}]),
    (b'{"a": "\\u00e4\xc3\xa4"}', [{"a": "ää"}]),
    (b"[1]", [[1]]),
    (b'"text"', ["text"]),
    (b"5 true null\n", [5, True, None]),
    (b'1.5\n{"a": -2}', [1.5, {"a": -2}]),
    (b"", []),
    (b" \n ", []),
    (b'{"a": ', []),
]


@pytest.mark.parametrize(("data", "values"), ACCEPTED)
def test_values_are_found_however_they_arrive(data: bytes, values: list[object]) -> None:
    assert read(data) == values
    assert read(*cut(data)) == values
    for place in range(len(data)):
        assert read(data[:place], data[place:]) == values


REFUSED: list[tuple[bytes, str]] = [
    (b"garbage\n", "JSON parse error, invalid keyword 'garbage'"),
    (b"garbage ", "JSON parse error, invalid keyword 'garbage'"),
    (b"NaN ", "JSON parse error, invalid keyword 'NaN'"),
    (b'{"a": Infinity}', "JSON parse error, invalid keyword 'Infinity'"),
    (b"}", "JSON parse error, expecting value"),
    (b",", "JSON parse error, expecting value"),
    (b"%\n", "JSON parse error, expecting value"),
    (b"{]", "JSON parse error, expecting property name enclosed in double quotes"),
    (b'{"a" 1}', "JSON parse error, expecting ':' delimiter"),
    (b'{"a": 1, "a": 2}', "JSON parse error, duplicate key"),
    (b'{"a": "\x01"}', "JSON parse error, invalid control character at"),
    (b'{"a": "\xff"}', "JSON parse error, invalid UTF-8 sequence in string"),
    (b'{"a": 1e999}', "JSON parse error, number out of range '1e999'"),
    (b'{"a": ' + b"9" * 5000 + b"}", "JSON parse error, number with too many digits"),
]


@pytest.mark.parametrize(("data", "text"), REFUSED)
def test_nonsense_is_an_error_and_what_follows_is_heard(data: bytes, text: str) -> None:
    assert read(data + b'\n{"a": 1}') == [text, {"a": 1}]
    assert read(*cut(data + b'\n{"a": 1}')) == [text, {"a": 1}]


def test_an_object_may_be_nested_so_deep_and_no_deeper() -> None:
    whole = b"[" * MAX_NESTING + b"]" * MAX_NESTING
    assert read(whole) == [json.loads(whole)]
    deep = b"[" + whole + b"]"
    assert read(deep + b' {"a": 1}\n{"b": 2}') == ["JSON nesting depth limit exceeded", {"b": 2}]
    assert read(deep, b"more\n", b"5\n") == ["JSON nesting depth limit exceeded", 5]


@pytest.mark.parametrize("begin", [b'{"a": "', b"'", b"x", b'{"a": [1'])
def test_what_has_no_end_is_dropped_before_it_fills_the_memory(begin: bytes) -> None:
    endless = begin + b"1" * MAX_MESSAGE_BYTES
    text = f"JSON message size limit exceeded: {MAX_MESSAGE_BYTES} bytes"
    assert read(endless, endless, b'"}\n{"a": 1}') == [text, {"a": 1}]


def test_a_message_is_a_line() -> None:
    assert encode_message({"return": {}, "id": "ä\n"}) == b'{"return": {}, "id": "\\u00e4\\n"}\r\n'
