"""Takes the bytes of a QMP client apart into JSON objects, and makes bytes of answers.

As in QEMU an object ends where its last brace closes, not where the line does; there may be none,
several, or a part of one on a line. Strings may stand in single quotes. What is no JSON costs the
client an error, and what stands behind it on the line.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

MAX_MESSAGE_BYTES = 1 << 20
"""No command that is known here comes near to it; QEMU takes 64 MiB."""
MAX_NESTING = 64
"""The same; QEMU takes 1024."""

_SPACE = b" \t\r\n"
_START = re.compile(rb"[ \t\r\n]*")
_WORD = re.compile(rb"""[^ \t\r\n{}\[\]"',:]*""")
_OUTSIDE = re.compile(rb"""[{}\[\]"']""")
_INSIDE = {quote: re.compile(rb"\\|" + bytes([quote])) for quote in b"\"'"}
_STRING = re.compile(r"""'((?:[^'\\]|\\.)*)'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_SINGLE_QUOTED = re.compile(r'\\.|"', re.DOTALL)


class MessageError(Exception):
    """What a client sent is not JSON; the text is for the client."""


def encode_message(message: Mapping[str, object]) -> bytes:
    """A message as a server writes it."""
    return json.dumps(message).encode() + b"\r\n"


class MessageReader:
    """Takes what one client sends apart."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._is_skipping = False
        self._forget()

    def _forget(self) -> None:
        self._scanned = 0
        self._depth = 0
        self._quote: int | None = None

    def receive(self, data: bytes) -> Iterator[object]:
        """Takes bytes, and gives each JSON value that is whole, or a MessageError in its place."""
        self._buffer += data
        while True:
            if self._is_skipping and not self._skip_line():
                return
            try:
                text = self._next_text()
                if text is None:
                    return
                yield _parse(text)
            except MessageError as error:
                yield error

    def _skip_line(self) -> bool:
        """Drops the rest of a line; whether its end was there."""
        end = self._buffer.find(b"\n") + 1
        del self._buffer[: end or len(self._buffer)]
        self._is_skipping = not end
        return bool(end)

    def _next_text(self) -> bytes | None:
        """The next whole value as text; None where there is none yet."""
        if self._scanned == 0:
            start = _START.match(self._buffer)
            assert start is not None
            del self._buffer[: start.end()]
        if not self._buffer:
            return None
        if self._scanned == 0 and self._buffer[0] not in b"{[}]\"'":
            return self._next_word()
        if end := self._find_end():
            return self._take(end)
        if len(self._buffer) > MAX_MESSAGE_BYTES:
            self._give_up(f"JSON message size limit exceeded: {MAX_MESSAGE_BYTES} bytes")
        return None

    def _next_word(self) -> bytes | None:
        """What begins like a number, a keyword or nothing that JSON knows."""
        word = _WORD.match(self._buffer)
        assert word is not None
        if word.end() == 0:
            return self._take(1)
        if word.end() < len(self._buffer):
            return self._take(word.end())
        if len(self._buffer) > MAX_MESSAGE_BYTES:
            self._give_up(f"JSON message size limit exceeded: {MAX_MESSAGE_BYTES} bytes")
        return None

    def _find_end(self) -> int | None:
        """Where the value that the buffer begins with ends; None while it has no end."""
        while True:
            pattern = _OUTSIDE if self._quote is None else _INSIDE[self._quote]
            found = pattern.search(self._buffer, self._scanned)
            if found is None:
                self._scanned = len(self._buffer)
                return None
            sign = self._buffer[found.start()]
            if sign == ord("\\"):
                if found.end() == len(self._buffer):
                    self._scanned = found.start()
                    return None
                self._scanned = found.end() + 1
                continue
            self._scanned = found.end()
            if self._quote is not None:
                self._quote = None
            elif sign in b"\"'":
                self._quote = sign
                continue
            else:
                self._depth += 1 if sign in b"{[" else -1
                if self._depth > MAX_NESTING:
                    self._give_up("JSON nesting depth limit exceeded")
            if self._depth <= 0:
                return self._scanned

    def _take(self, end: int) -> bytes:
        text = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._forget()
        return text

    def _give_up(self, reason: str) -> NoReturn:
        self._forget()
        self._is_skipping = True
        raise MessageError(reason)


def _parse(text: bytes) -> object:
    try:
        return json.loads(
            _STRING.sub(_double_quoted, text.decode()),
            object_pairs_hook=_object,
            parse_float=_finite,
            parse_constant=_refuse_word,
        )
    except MessageError:
        raise
    except UnicodeDecodeError:
        raise MessageError("JSON parse error, invalid UTF-8 sequence in string") from None
    except json.JSONDecodeError as error:
        word = _WORD.match(text)
        if word is not None and word[0].isalpha():
            _refuse_word(word[0].decode())
        reason = error.msg.lower().removesuffix(" starting at")
        raise MessageError(f"JSON parse error, {reason}") from None
    except ValueError as error:
        raise MessageError("JSON parse error, number with too many digits") from error


def _double_quoted(string: re.Match[str]) -> str:
    """A string of JSON; one in single quotes is no JSON to others than QEMU."""
    if string[1] is None:
        return string[0]
    body = _SINGLE_QUOTED.sub(
        lambda found: {'"': '\\"', "\\'": "'"}.get(found[0], found[0]), string[1]
    )
    return f'"{body}"'


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MessageError("JSON parse error, duplicate key")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise MessageError(f"JSON parse error, number out of range '{text}'")
    return value


def _refuse_word(word: str) -> NoReturn:
    raise MessageError(f"JSON parse error, invalid keyword '{word}'")
