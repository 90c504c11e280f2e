"""Waiting on several channels, and what is said of a call that failed."""

import errno
import os
import socket

import pytest

from switchover.channel.base import Closing, reason, wait_readable


def test_only_the_readable_ones_are_named() -> None:
    quiet, quiet_end = socket.socketpair()
    busy, busy_end = socket.socketpair()
    with quiet, quiet_end, busy, busy_end:
        busy_end.sendall(b"x")
        assert wait_readable({quiet.fileno(), busy.fileno()}, None) == {busy.fileno()}


def test_the_end_is_readable() -> None:
    end, other_end = socket.socketpair()
    with end:
        other_end.close()
        assert wait_readable([end.fileno()], None) == {end.fileno()}


@pytest.mark.parametrize("timeout_ns", [-5, 0, 1, 999_999, 1_000_000])
def test_nothing_is_named_when_the_time_is_over(timeout_ns: int) -> None:
    end, other_end = socket.socketpair()
    with end, other_end:
        assert wait_readable([end.fileno()], timeout_ns) == set()


def test_a_wait_of_years_is_taken() -> None:
    end, other_end = socket.socketpair()
    with end, other_end:
        other_end.sendall(b"x")
        assert wait_readable([end.fileno()], 10**30) == {end.fileno()}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EPIPE, "anything"), os.strerror(errno.EPIPE)),
        (OSError("AF_UNIX path too long"), "AF_UNIX path too long"),
        (socket.gaierror(socket.EAI_NONAME, "Name not known"), "Name not known"),
        (ValueError("embedded null byte"), "embedded null byte"),
    ],
)
def test_reason_is_the_systems_word(error: OSError | ValueError, expected: str) -> None:
    assert reason(error) == expected


def test_closing_needs_something_to_close() -> None:
    with pytest.raises(NotImplementedError), Closing():
        pass
