"""Peers are found by what they are, and a missing one says what was found in its place."""

from pathlib import Path

import pytest

from switchover.testing.peer import (
    SYSTEM_PROGRAM,
    Peer,
    default_directory,
    find_peer,
    missing_reason,
    parse_version,
)


def put_program(path: Path, script: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def put_qemu(path: Path, version: str) -> Path:
    """A program that says that it is QEMU of a version."""
    return put_program(path, f"echo 'QEMU emulator version {version} (Debian 1:x)'")


@pytest.fixture(autouse=True)
def no_system_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """PATH is one empty directory, so that the host's own QEMU cannot be found."""
    directory = tmp_path / "path"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright", (7, 2, 22)),
        ("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1)", (11, 1, 3)),
        ("QEMU emulator version 10.0\n", (10, 0)),
        ("qemu-img version 10.0.2", None),
        ("QEMU emulator version unknown", None),
        ("", None),
    ],
)
def test_version_is_read_from_what_qemu_prints(text: str, version: tuple[int, ...] | None) -> None:
    assert parse_version(text) == version


def test_peer_is_found_with_its_exact_version(tmp_path: Path) -> None:
    path = put_qemu(tmp_path / "bin" / "qemu-11.1", "11.1.3")
    peer = find_peer("11.1", tmp_path)
    assert peer == Peer((11, 1, 3), path)
    assert peer.name == "11.1"
    assert peer.machine("pc-q35") == "pc-q35-11.1"
    with pytest.raises(ValueError, match="is not missing"):
        missing_reason("11.1", tmp_path)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'QEMU emulator version 7.1.0'", "qemu-7.2 is 7.1.0"),
        ("echo 'QEMU emulator version 7.20.0'", "qemu-7.2 is 7.20.0"),
        ("echo 'QEMU emulator version 7.2.0'; exit 1", "qemu-7.2 does not start"),
        ("echo hello", "qemu-7.2 does not start"),
    ],
)
def test_peer_that_is_something_else_is_missing(tmp_path: Path, script: str, found: str) -> None:
    put_program(tmp_path / "bin" / "qemu-7.2", script)
    assert find_peer("7.2", tmp_path) is None
    assert found in missing_reason("7.2", tmp_path)


def test_peer_that_cannot_be_executed_is_missing(tmp_path: Path) -> None:
    put_qemu(tmp_path / "bin" / "qemu-7.2", "7.2.0").write_bytes(b"\x7fELF nonsense")
    assert find_peer("7.2", tmp_path) is None


def test_reason_says_found_needed_and_remedy(tmp_path: Path) -> None:
    assert missing_reason("7.2", tmp_path) == (
        f"QEMU 7.2 is needed, but there is no {tmp_path}/bin/qemu-7.2; `make peers` installs it"
    )


@pytest.mark.parametrize("version", ["10.0.0", "10.2.1", "11.1.3"])
def test_system_qemu_stands_in_for_10_0(tmp_path: Path, no_system_qemu: Path, version: str) -> None:
    path = put_qemu(no_system_qemu / SYSTEM_PROGRAM, version)
    assert find_peer("10.0", tmp_path) == Peer(tuple(map(int, version.split("."))), path)


def test_system_qemu_comes_second(tmp_path: Path, no_system_qemu: Path) -> None:
    put_qemu(no_system_qemu / SYSTEM_PROGRAM, "11.1.3")
    path = put_qemu(tmp_path / "bin" / "qemu-10.0", "10.0.13")
    assert find_peer("10.0", tmp_path) == Peer((10, 0, 13), path)


def test_older_system_qemu_does_not_stand_in(tmp_path: Path, no_system_qemu: Path) -> None:
    put_qemu(no_system_qemu / SYSTEM_PROGRAM, "7.2.22")
    assert find_peer("10.0", tmp_path) is None
    assert missing_reason("10.0", tmp_path) == (
        f"QEMU 10.0 is needed, but there is no {tmp_path}/bin/qemu-10.0 and"
        f" {no_system_qemu}/{SYSTEM_PROGRAM} is 7.2.22; `make peers` installs it"
    )


@pytest.mark.parametrize("name", ["7.2", "11.1"])
def test_system_qemu_stands_in_for_no_other(
    tmp_path: Path, no_system_qemu: Path, name: str
) -> None:
    put_qemu(no_system_qemu / SYSTEM_PROGRAM, f"{name}.0")
    assert find_peer(name, tmp_path) is None


def test_unknown_name_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no peer is called '9\.0'; there are 7\.2, 10\.0, 11\.1"):
        find_peer("9.0", tmp_path)


def test_default_directory_is_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cache" / "switchover" / "peers"
