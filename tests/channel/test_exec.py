"""Commands that carry a stream."""

from pathlib import Path

import pytest

from switchover.channel.exec import ExecChannel
from switchover.errors import ChannelError


def recv_whole(channel: ExecChannel) -> bytes:
    received = bytearray()
    buffer = memoryview(bytearray(1 << 16))
    while size := channel.recv_into(buffer):
        received += buffer[:size]
    return bytes(received)


def test_output_of_a_command_is_read_to_its_end() -> None:
    with ExecChannel("printf abc; printf def", writes=False) as channel:
        assert not channel.has_return_path
        assert recv_whole(channel) == b"abcdef"


def test_command_that_is_read_has_no_input() -> None:
    with ExecChannel("cat", writes=False) as channel:
        assert recv_whole(channel) == b""


def test_input_of_a_command_is_written_and_its_end_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with ExecChannel(f"cat > {path}.part && mv {path}.part {path}", writes=True) as channel:
        channel.send([b"abc", bytes(1 << 20)])
        channel.finish()
        assert path.read_bytes() == b"abc" + bytes(1 << 20)


@pytest.mark.parametrize(
    ("command", "status"), [("exit 3", 3), ("no-such-command 2>/dev/null", 127), ("kill $$", -15)]
)
def test_command_that_fails_is_said_by_its_status(command: str, status: int) -> None:
    name = f"exec:{command}"
    with ExecChannel(f"cat > /dev/null; {command}", writes=True) as channel:
        channel.send([b"abc"])
        with pytest.raises(ChannelError, match=rf"the command ended with status {status}$"):
            channel.finish()
    with ExecChannel(command, writes=False) as channel:
        with pytest.raises(ChannelError) as caught:
            recv_whole(channel)
        assert str(caught.value) == f"{name}: the command ended with status {status}"


def test_output_of_a_command_that_fails_at_last_is_not_believed() -> None:
    """As of a decompressor that finds a wrong checksum."""
    with ExecChannel("printf abc; exit 1", writes=False) as channel:
        buffer = memoryview(bytearray(8))
        assert channel.recv_into(buffer) == 3
        with pytest.raises(ChannelError, match="status 1"):
            channel.recv_into(buffer)


def test_what_a_command_prints_is_not_our_output(capfd: pytest.CaptureFixture[str]) -> None:
    with ExecChannel("cat > /dev/null; echo chatter; echo trouble >&2", writes=True) as channel:
        channel.finish()
    assert capfd.readouterr() == ("", "trouble\n")


@pytest.mark.parametrize("writes", [True, False])
def test_close_ends_a_command_that_would_go_on(writes: bool) -> None:
    channel = ExecChannel("exec sleep 1000", writes=writes)
    channel.close()
    channel.close()
    assert channel._process.returncode == -15


@pytest.mark.parametrize(
    ("command", "why"),
    [("nul\0byte", "embedded null byte"), ("x" * (1 << 20), "Argument list too long")],
    ids=["NUL", "too long"],
)
def test_command_that_cannot_be_run(command: str, why: str) -> None:
    with pytest.raises(ChannelError, match=rf"^cannot run exec:[^\n]*: {why}$"):
        ExecChannel(command, writes=False)
