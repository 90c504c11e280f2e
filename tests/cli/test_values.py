"""Values as people write them."""

import pytest
from typer import BadParameter

from switchover.cli.values import parse_seconds, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("1k", 1024),
        ("300M", 300 << 20),
        ("2G", 2 << 30),
        ("2GiB", 2 << 30),
        ("2gib", 2 << 30),
        (" 1T ", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "1 G", "1P", "0x10", "1GG", "1i", "G1"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(BadParameter, match="is not a size: expected a number and K, M, G or T"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("0", 0),
        ("3", 3_000_000_000),
        ("0.5", 500_000_000),
        (".5", 500_000_000),
        ("2.", 2_000_000_000),
        (" 1 ", 1_000_000_000),
        ("0.000000001", 1),
        ("0.0000000001", 0),
        ("0.3", 300_000_000),
        ("4.35", 4_350_000_000),
    ],
)
def test_seconds(text: str, duration_ns: int) -> None:
    assert parse_seconds(text) == duration_ns


def test_ages_are_a_time_too() -> None:
    assert parse_seconds("9" * 4000) > 10**4000


@pytest.mark.parametrize(
    "text", ["", ".", "-1", "-.5", "1e3", "inf", "nan", "1s", "1,5", "0x1", "1 2"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(BadParameter, match=r"is not a time: expected seconds, such as 3 or 0\.5"):
        parse_seconds(text)
