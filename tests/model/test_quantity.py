"""Sizes and times as people write them."""

import pytest

from switchover.errors import UsageError
from switchover.model.quantity import parse_size, parse_time


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("1k", 1024),
        ("300M", 300 << 20),
        ("2GiB", 2 << 30),
        ("2gib", 2 << 30),
        (" 1T ", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_a_size_has_no_more_digits_than_any_memory() -> None:
    assert parse_size("9" * 20 + "K") == (10**20 - 1) << 10
    for parse in (parse_size, parse_time):
        with pytest.raises(UsageError):
            parse("9" * 21 + "s" * (parse is parse_time))


@pytest.mark.parametrize(
    "text",
    ["", "M", "-1", "1.5G", "1 G", "1P", "0x10", "1GG", "1i", "G1", "1\N{DEVANAGARI DIGIT ONE}"],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert str(caught.value) == f"{text!r} is not a size: expected a number and K, M, G or T"


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("0s", 0),
        ("1480ms", 1_480_000_000),
        ("1.5s", 1_500_000_000),
        (".5s", 500_000_000),
        (" 2.s ", 2_000_000_000),
        ("0.0000001ms", 0),
        ("4.35s", 4_350_000_000),
    ],
)
def test_times(text: str, duration_ns: int) -> None:
    assert parse_time(text) == duration_ns


@pytest.mark.parametrize("text", ["", "1", "ms", ".s", "-1s", "1 s", "1us", "1S", "1e3s", "1,5s"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_time(text)
    assert str(caught.value) == f"{text!r} is not a time: expected a number and ms or s"
