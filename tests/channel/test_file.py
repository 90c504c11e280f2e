"""Files and pipes, and the file that has its name only when it is whole."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from switchover.channel.file import AtomicFile, DescriptorChannel, open_file
from switchover.errors import ChannelError, UsageError

NOBODY = 65534


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# Channels by descriptor


def test_pipe_carries_many_buffers_to_their_end() -> None:
    reader, writer = os.pipe()
    with DescriptorChannel(reader, "in") as incoming:
        with DescriptorChannel(writer, "out") as outgoing:
            outgoing.send([b"ab", b"", memoryview(b"cd")])
            outgoing.shutdown()
            outgoing.finish()
        buffer = memoryview(bytearray(8))
        assert incoming.recv_into(buffer) == 4
        assert bytes(buffer[:4]) == b"abcd"
        assert incoming.recv_into(buffer) == 0
        assert not incoming.has_return_path


def test_short_writes_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fileno, data: write(fileno, data[:3]))
    reader, writer = os.pipe()
    with DescriptorChannel(reader, "in") as incoming, DescriptorChannel(writer, "out") as outgoing:
        outgoing.send([b"abcdefgh", b"ij"])
        buffer = memoryview(bytearray(16))
        assert bytes(buffer[: incoming.recv_into(buffer)]) == b"abcdefghij"


def test_pipe_without_a_reader_breaks_sending() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        DescriptorChannel(writer, "pipe") as channel,
        pytest.raises(ChannelError, match=r"^pipe: writing failed: Broken pipe$"),
    ):
        channel.send([b"x"])


def test_full_disk_is_said() -> None:
    with (
        DescriptorChannel(os.open("/dev/full", os.O_WRONLY), "full") as channel,
        pytest.raises(ChannelError, match=r"^full: writing failed: No space left on device$"),
    ):
        channel.send([b"x"])


def test_flush_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "no")

    monkeypatch.setattr(os, "fsync", fail)
    descriptor = os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT)
    with (
        DescriptorChannel(descriptor, "x") as channel,
        pytest.raises(ChannelError, match=r"^x: flushing failed: Input/output error$"),
    ):
        channel.finish()


def test_directory_cannot_be_read(tmp_path: Path) -> None:
    with (
        open_file(str(tmp_path), "file:dir") as channel,
        pytest.raises(ChannelError, match=r"^file:dir: reading failed: Is a directory$"),
    ):
        channel.recv_into(memoryview(bytearray(1)))


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nothing", "No such file or directory"),
        ("x" * 300, "File name too long"),
        ("nul\0byte", "embedded null byte"),
    ],
)
def test_file_that_cannot_be_opened(path: str, why: str) -> None:
    with pytest.raises(ChannelError, match=rf"^cannot open file:it: {why}$"):
        open_file(path, "file:it")


def test_close_may_be_repeated_and_closes_nobody_elses() -> None:
    reader, writer = os.pipe()
    channel = DescriptorChannel(reader, "pipe")
    channel.close()
    again = os.dup(writer)
    assert again == reader
    channel.close()
    os.fstat(again)
    os.close(again)
    os.close(writer)


# The file that takes its name when it is whole


def test_file_has_its_name_only_when_it_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "guest"
    with AtomicFile(path) as channel:
        channel.send([b"ab", b"c"])
        assert not path.exists()
        assert not channel.is_finished
        channel.finish()
        assert path.read_bytes() == b"abc"
        assert channel.is_finished
    assert names(tmp_path) == ["guest"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_flushed_is_the_file_and_then_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "guest"
    flushed: list[tuple[str, bool]] = []

    def note(fileno: int) -> None:
        flushed.append((os.readlink(f"/proc/self/fd/{fileno}"), path.exists()))

    monkeypatch.setattr(os, "fsync", note)
    with AtomicFile(path) as channel:
        channel.finish()
    (partial, named_early), (directory, named_late) = flushed
    assert partial.startswith(f"{tmp_path}/.guest.")
    assert (named_early, directory, named_late) == (False, str(tmp_path), True)


def test_file_that_was_not_finished_is_removed(tmp_path: Path) -> None:
    with AtomicFile(tmp_path / "guest") as channel:
        channel.send([b"abc"])
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == []
    channel.close()


def test_earlier_file_is_kept_until_then(tmp_path: Path) -> None:
    path = tmp_path / "guest"
    path.write_bytes(b"earlier")
    path.chmod(0o644)
    with AtomicFile(path) as channel:
        channel.send([b"new"])
        assert path.read_bytes() == b"earlier"
    assert path.read_bytes() == b"earlier"
    with AtomicFile(path) as channel:
        channel.send([b"new"])
        assert path.read_bytes() == b"earlier"
        channel.finish()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["guest"]


def test_two_for_one_name_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "guest"
    with AtomicFile(path) as first, AtomicFile(path) as second:
        second.send([b"second"])
        first.send([b"first"])
        first.finish()
        assert path.read_bytes() == b"first"
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["guest"]


@pytest.mark.parametrize("is_there", [True, False], ids=["there", "dangling"])
def test_behind_a_link_the_file_is_written_where_it_leads(tmp_path: Path, is_there: bool) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    target = elsewhere / "guest"
    if is_there:
        target.write_bytes(b"earlier")
    link = tmp_path / "link"
    link.symlink_to(target)
    with AtomicFile(link) as channel:
        channel.send([b"new"])
        assert names(tmp_path) == ["elsewhere", "link"]
        channel.finish()
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert names(elsewhere) == ["guest"]


def test_relative_name_in_a_directory_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with AtomicFile("guest") as channel:
        monkeypatch.chdir("/")
        channel.finish()
    assert names(tmp_path) == ["guest"]


def test_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("\N{SNOWMAN}" * 85)
    with AtomicFile(path) as channel:
        channel.finish()
    assert path.exists()


@pytest.mark.parametrize("path", ["/dev/null", "/dev", "."])
def test_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match=r"^\S+ is not a file, and will not be replaced by one$"):
        AtomicFile(path)


def test_socket_and_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is not a file"):
        AtomicFile(tmp_path / "pipe")
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere/guest", "No such file or directory"),
        ("file/guest", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("x" * 300, "File name too long"),
        ("nul\0byte", "embedded null byte"),
    ],
)
def test_place_that_cannot_be_written(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = names(tmp_path)
    with pytest.raises(ChannelError) as caught:
        AtomicFile(tmp_path / name)
    assert str(caught.value) == f"cannot write {tmp_path / name}: {why}"
    assert names(tmp_path) == before


def test_directory_that_nobody_may_write() -> None:
    # Not even root may make a file there.
    with pytest.raises(ChannelError, match=r"^cannot write /sys/guest: [A-Z][\w -]+$"):
        AtomicFile("/sys/guest")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write anywhere: for a while this process is somebody who may not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o500], ids=oct)
def test_directory_without_the_rights(mode: int) -> None:
    # Not in pytest's own directory, which is closed to anybody but its user.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        with as_nobody():
            directory = Path(name) / "locked"
            directory.mkdir(mode)
            with pytest.raises(ChannelError, match=r"^cannot write .*: Permission denied$"):
                AtomicFile(directory / "guest")
            directory.chmod(0o700)
            assert names(directory) == []


FULL = """
import resource, sys
from switchover.channel.file import AtomicFile
from switchover.errors import ChannelError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    with AtomicFile(sys.argv[1]) as channel:
        channel.send([bytes(9_000), bytes(9_000)])
        channel.finish()
except ChannelError as error:
    print(error)
"""


def test_file_that_finds_no_room_is_said_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "guest"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{path}: writing failed: File too large\n"
    assert names(tmp_path) == []


def test_rename_that_fails_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "guest"
    with AtomicFile(path) as channel:
        path.mkdir()
        (path / "something").touch()
        with pytest.raises(ChannelError, match=r"renaming failed: Is a directory$"):
            channel.finish()
        assert not channel.is_finished
    assert names(tmp_path) == ["guest"]


def test_directory_that_cannot_be_flushed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def flush_files_only(fileno: int) -> None:
        if stat.S_ISDIR(os.fstat(fileno).st_mode):
            raise OSError(5, "no")
        fsync(fileno)

    monkeypatch.setattr(os, "fsync", flush_files_only)
    with AtomicFile(tmp_path / "guest") as channel:
        with pytest.raises(ChannelError, match=r"renaming failed: Input/output error$"):
            channel.finish()
        assert channel.is_finished
