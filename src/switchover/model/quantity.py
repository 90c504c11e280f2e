"""Sizes and times as people write them."""

import re
from decimal import Decimal

from ..errors import UsageError

_SIZE = re.compile(r"([0-9]{1,20})([KMGT]?)(?:i?B)?", re.IGNORECASE)
_TIME = re.compile(r"([0-9]{1,20}(?:\.[0-9]*)?|\.[0-9]+)(ms|s)")
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def parse_size(text: str) -> int:
    """Bytes: `4096`, `300M`, `2GiB`.

    Raises:
        UsageError: It is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size: expected a number and K, M, G or T")
    return int(match[1]) << _SHIFTS[match[2].upper()]


def parse_time(text: str) -> int:
    """Nanoseconds: `1480ms`, `1.5s`.

    Raises:
        UsageError: It is no time.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a time: expected a number and ms or s")
    return int(Decimal(match[1]) * (10**6 if match[2] == "ms" else 10**9))
