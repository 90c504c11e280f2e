"""Programs for a player to play to: Python, whose calls are made where they are written."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from switchover.player.call import Answer, Call
from switchover.player.process import PlayedProcess, why_not

_reason = why_not()
needs_player = pytest.mark.skipif(_reason is not None, reason=_reason or "")
"""Marks a test for which the calls of a process must be answerable."""

TIMEOUT_S = 60
PRELUDE = """
import errno, fcntl, os, sys, threading
def fails(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
"""


def python(text: str) -> list[str]:
    """The arguments that run a text as a program."""
    return [sys.executable, "-I", "-S", "-c", PRELUDE + text]


def play(text: str, answer: Callable[[Call], Answer], **options: Any) -> PlayedProcess:
    """Plays to a text as a program, whose output is read."""
    return PlayedProcess(python(text), answer, stdout=subprocess.PIPE, **options)


def outcome(process: PlayedProcess) -> str:
    """What it printed, once it has ended well."""
    assert process.stdout is not None
    printed = process.stdout.read().decode()
    assert process.wait(TIMEOUT_S) == 0
    return printed.strip()
