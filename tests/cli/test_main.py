"""The command as a whole: its help, its version, its exit codes for what it cannot understand."""

import re

import pytest
from tests.cli.command import run_here, start

from switchover import __version__


def test_module_is_the_command() -> None:
    with start("--version") as running:
        done = running.wait()
    assert (done.exit_code, done.stdout) == (0, f"switchover {__version__}\n")
    assert done.stderr == ""


def test_help_names_the_commands() -> None:
    done = run_here("--help")
    assert done.exit_code == 0
    for name in ("migrate", "receive", "run", "send"):
        assert re.search(rf"^ +{name} ", done.stdout, re.MULTILINE)


def test_no_command_is_help_and_wrong_usage() -> None:
    done = run_here()
    assert done.exit_code == 2
    assert "Usage:" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "receive",
            [
                "--output",
                "--capability",
                "--hold-ack",
                "--switchover-ack-mode",
                "auto|legacy|per-device",
                "--max-ram",
                "--json",
                "switchover-ack",
                "tcp:HOST:PORT",
            ],
        ),
        (
            "migrate",
            ["SOURCE", "DESTINATION", "--to-qmp", "--capability", "--set", "NAME=VALUE", "--json"],
        ),
        (
            "run",
            [
                "unix:PATH",
                "URI|defer",
                "--memory",
                "--dirty-rate",
                "--device",
                "vfio-sim[,KEY=VALUE]",
                "-",
            ],
        ),
        ("bench", ["switchover-ack", "downtime-estimate"]),
        ("send", ["FILE", "URI", "--json", "tcp:HOST:PORT", "exec:COMMAND"]),
    ],
)
def test_help_of_a_command(command: str, words: list[str]) -> None:
    done = run_here(command, "--help")
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage: ")
    for word in words:
        assert word in done.stdout, word


@pytest.mark.parametrize(
    "arguments",
    [
        ["teleport"],
        ["--nonsense"],
        ["receive"],
        ["receive", "tcp::0"],
        ["receive", "tcp::0", "--output"],
        ["receive", "tcp::0", "--output", "x", "--nonsense"],
        ["send", "x"],
        ["send", "x", "tcp::0", "more"],
    ],
    ids=" ".join,
)
def test_what_is_not_understood_is_wrong_usage(arguments: list[str]) -> None:
    done = run_here(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr != ""
