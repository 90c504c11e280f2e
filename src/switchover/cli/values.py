"""Values as people write them on the command line."""

import re
from collections.abc import Callable
from decimal import Decimal

from typer import BadParameter

from ..errors import UsageError
from ..model import quantity


def _parse(parser: Callable[[str], int], text: str) -> int:
    try:
        return parser(text)
    except UsageError as error:
        raise BadParameter(str(error)) from error


def parse_size(text: str) -> int:
    """Bytes: `4096`, `300M`, `2GiB`.

    Raises:
        BadParameter: It is no size.
    """
    return _parse(quantity.parse_size, text)


def parse_seconds(text: str) -> int:
    """Nanoseconds from seconds, with decimals if need be.

    Raises:
        BadParameter: It is no time, or a negative one.
    """
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text.strip()):
        raise BadParameter(f"{text!r} is not a time: expected seconds, such as 3 or 0.5")
    return int(Decimal(text.strip()) * 10**9)


def parse_time(text: str) -> int:
    """Nanoseconds: `1480ms`, `1.5s`.

    Raises:
        BadParameter: It is no time.
    """
    return _parse(quantity.parse_time, text)
