"""What a simulated device is to be like, and how that is written: `KEY=VALUE,…`.

id=NAME             its name
state=SIZE          its state (300M)
initial=SIZE        as much of it, from its beginning, is initial data (all)
dirty-rate=SIZE     bytes it rewrites in a second, of what was read (0)
allocate=TIME       how long the destination takes to allocate (1480ms; 0s: it needs nothing)
load-rate=SIZE      bytes it takes in a second (0: as fast as it goes)
save-rate=SIZE      bytes it gives in a second (0: as fast as it goes)
data-size=HOW       left, whole or error: what it says to be left once it is stopped (left)
precopy=on|off      whether it can be read while it runs (on)
p2p=on|off          whether it has the P2P states (on)
reinit=TIME[:…]     so long after PRE_COPY was entered, all initial data is new again
lie=LIE[:…]         a wrong size: initial, dirty or stop-copy, and +SIZE, -SIZE or *FACTOR
fail=STEP:ERRNO     a step that fails: a state, read, write, precopy-info or data-size
never-ack=on|off    whether it never gets ready for the switchover (off)
"""

import errno
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any, TypeVar

from ..errors import UsageError
from ..model.quantity import parse_size, parse_time
from ..model.vfio import VfioState

_LIE = re.compile(r"([a-z-]+?)([+*-])([^+*-]+)")
_FACTOR = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_LARGEST = 2**64 - 1
"""What a size of the kernel's interface can say."""
_LARGEST_ERRNO = 4095
"""As in the kernel."""
_SWITCHES = {"on": True, "off": False}


class DataSize(StrEnum):
    """What the device says to be left once it is stopped.

    LEFT: What is left.
    WHOLE: All of its image, whatever was read before, as drivers do that only know that.
    ERROR: Nothing: it cannot tell.
    """

    LEFT = "left"
    WHOLE = "whole"
    ERROR = "error"


class Step(StrEnum):
    """A step that can fail; those that are named like a state are the moves into it."""

    PRE_COPY = "pre-copy"
    PRE_COPY_P2P = "pre-copy-p2p"
    STOP_COPY = "stop-copy"
    STOP = "stop"
    RESUMING = "resuming"
    RUNNING = "running"
    RUNNING_P2P = "running-p2p"
    READ = "read"
    WRITE = "write"
    PRECOPY_INFO = "precopy-info"
    DATA_SIZE = "data-size"

    @classmethod
    def into(cls, state: VfioState) -> "Step":
        """The move into a state, any but ERROR."""
        return cls[state.name]


class Told(StrEnum):
    """A size that the device tells."""

    INITIAL = "initial"
    DIRTY = "dirty"
    STOP_COPY = "stop-copy"


@dataclass(frozen=True, slots=True)
class Lie:
    """How far a size is from the truth.

    Attributes:
        told: Which size.
        factor: What the truth is multiplied by.
        more_bytes: What is added to that.
    """

    told: Told
    factor: Fraction = Fraction(1)
    more_bytes: int = 0

    def apply(self, size: int) -> int:
        """What is told instead of a size; never less than nothing."""
        return min(max(int(size * self.factor) + self.more_bytes, 0), _LARGEST)


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that always fails.

    Attributes:
        step: Which one.
        errno: Why.
    """

    step: Step
    errno: int


@dataclass(frozen=True, slots=True)
class SimOptions:
    """What a simulated device is like. Rates are in bytes a second, 0 for as fast as it goes.

    Attributes:
        id: Its name.
        state_bytes: Its state.
        initial: As much of it, from its beginning, is initial data; None for all.
        dirty_rate: What it rewrites of what was read; 0 for nothing.
        allocate_ns: How long the destination takes to allocate; 0 if it needs nothing.
        load_rate: At which it takes its state.
        save_rate: At which it gives its state.
        data_size: What it says to be left once it is stopped.
        has_precopy: Whether it can be read while it runs.
        has_p2p: Whether it has the P2P states.
        reinit_ns: When all of the initial data is new again, after PRE_COPY was entered, in order.
        lies: The sizes that are wrong.
        failure: The step that fails.
        never_acks: Whether it never gets ready for the switchover.

    Raises:
        UsageError: There is more initial data than state.
    """

    id: str
    state_bytes: int = 300 << 20
    initial: int | None = None
    dirty_rate: int = 0
    allocate_ns: int = 1_480_000_000
    load_rate: int = 0
    save_rate: int = 0
    data_size: DataSize = DataSize.LEFT
    has_precopy: bool = True
    has_p2p: bool = True
    reinit_ns: tuple[int, ...] = ()
    lies: tuple[Lie, ...] = ()
    failure: Failure | None = None
    never_acks: bool = False

    def __post_init__(self) -> None:
        if self.initial_bytes > self.state_bytes:
            raise UsageError(
                f"device '{self.id}' has {self.initial_bytes} bytes of initial data: expected at "
                f"most its state, {self.state_bytes} bytes"
            )

    @property
    def initial_bytes(self) -> int:
        """As much of the state, from its beginning, is initial data."""
        return self.state_bytes if self.initial is None else self.initial

    def told(self, told: Told, size: int) -> int:
        """What is told of a size, all lies applied."""
        for lie in self.lies:
            if lie.told == told:
                size = lie.apply(size)
        return size


_Enum = TypeVar("_Enum", DataSize, Step, Told)


def _member(kind: type[_Enum], text: str, noun: str) -> _Enum:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{text!r} is not {noun}: expected {_any_of(kind)}") from None


def _any_of(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


def _name(text: str) -> str:
    if not text:
        raise UsageError("'' is not a name: expected at least one letter")
    return text


def _switch(text: str) -> bool:
    if text not in _SWITCHES:
        raise UsageError(f"{text!r} is neither of two: expected on or off")
    return _SWITCHES[text]


def _data_size(text: str) -> DataSize:
    return _member(DataSize, text, "a way to tell it")


def _times(text: str) -> tuple[int, ...]:
    return tuple(sorted(parse_time(time) for time in text.split(":")))


def _lies(text: str) -> tuple[Lie, ...]:
    return tuple(_lie(lie) for lie in text.split(":"))


def _lie(text: str) -> Lie:
    match = _LIE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a lie: expected a size's name and +SIZE, -SIZE, *FACTOR")
    told, sign, amount = _member(Told, match[1], "a size that is told"), match[2], match[3]
    if sign != "*":
        return Lie(told, more_bytes=parse_size(amount) * (1 if sign == "+" else -1))
    if not _FACTOR.fullmatch(amount):
        raise UsageError(f"{amount!r} is not a factor: expected a number such as 2 or 0.5")
    return Lie(told, factor=Fraction(amount))


def _failure(text: str) -> Failure:
    step, _, reason = text.partition(":")
    return Failure(_member(Step, step, "a step"), _errno(reason))


def _errno(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < (number := int(text[:9])) <= _LARGEST_ERRNO:
        return number
    for number, name in errno.errorcode.items():
        if name == text:
            return number
    raise UsageError(
        f"{text!r} is not an errno: expected its name, such as EIO, or 1 to {_LARGEST_ERRNO}"
    )


_KEYS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "id": ("id", _name),
    "state": ("state_bytes", parse_size),
    "initial": ("initial", parse_size),
    "dirty-rate": ("dirty_rate", parse_size),
    "allocate": ("allocate_ns", parse_time),
    "load-rate": ("load_rate", parse_size),
    "save-rate": ("save_rate", parse_size),
    "data-size": ("data_size", _data_size),
    "precopy": ("has_precopy", _switch),
    "p2p": ("has_p2p", _switch),
    "reinit": ("reinit_ns", _times),
    "lie": ("lies", _lies),
    "fail": ("failure", _failure),
    "never-ack": ("never_acks", _switch),
}
"""The field of each key, and what reads its value."""


KEYS = tuple(_KEYS)
"""All keys, in the order in which they are explained above."""


def parse_options(text: str, name: str) -> SimOptions:
    """Reads `KEY=VALUE,…`; a switch that stands alone is on.

    Args:
        text: The options; none if it is empty.
        name: The device's, if they do not say.

    Raises:
        UsageError: There is no such key or value, or a key stands there twice.
    """
    values: dict[str, Any] = {"id": name}
    seen = set[str]()
    for option in text.split(",") if text else ():
        key, equals, value = option.partition("=")
        if key not in _KEYS:
            raise UsageError(f"a simulated device has no option {key!r}: expected {_any_of(_KEYS)}")
        if key in seen:
            raise UsageError(f"option '{key}' stands there twice")
        seen.add(key)
        field, parser = _KEYS[key]
        if not equals and parser is _switch:
            value = "on"
        try:
            values[field] = parser(value)
        except UsageError as error:
            raise UsageError(f"option '{key}': {error}") from error
    return SimOptions(**values)
