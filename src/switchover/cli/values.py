"""Values as people write them on the command line."""

import re
from decimal import Decimal

from typer import BadParameter

_SIZE = re.compile(r"(\d+)([KMGT]?)(?:i?B)?", re.IGNORECASE)
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s)")
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def parse_size(text: str) -> int:
    """Bytes: `4096`, `300M`, `2GiB`.

    Raises:
        BadParameter: It is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadParameter(f"{text!r} is not a size: expected a number and K, M, G or T")
    return int(match[1]) << _SHIFTS[match[2].upper()]


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
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise BadParameter(f"{text!r} is not a time: expected a number and ms or s")
    return int(Decimal(match[1]) * (10**6 if match[2] == "ms" else 10**9))
