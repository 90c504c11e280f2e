"""A guest is parked in a file and goes on in another QEMU of the same version."""

from pathlib import Path

import pytest
from tests.compat.parking import incoming_uri, receive, send

from switchover.testing import (
    BootSectorGuest,
    LinuxGuest,
    Peer,
    Qemu,
    check_memory,
    check_progress,
    check_serial,
    check_ticks,
)
from switchover.testing.guest import REGION_BYTES, REGION_START_GPA, parse_ticks

RAM_BYTES = 64 << 20

WAYS = ["send", "incoming"]
"""How the guest leaves the file: by our source, or read by QEMU itself."""


def deliver(way: str, file: Path, destination: Qemu) -> None:
    if way == "send":
        send(file, destination)
    else:
        destination.migrate_incoming(incoming_uri(destination, file))
        destination.wait_status("completed")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("machine", ["pc", "q35", "isapc"])
def test_boot_sector_guest_goes_on(peer: Peer, machine: str, way: str, tmp_path: Path) -> None:
    guest, file = BootSectorGuest(), tmp_path / "guest"
    with (
        Qemu(peer, machine, guest=guest) as source,
        Qemu(peer, machine, guest=guest, incoming="defer") as destination,
    ):
        source.wait_serial("ABCDEFG")
        outcome = receive(source, file)
        assert outcome.report["ram_bytes"] >= RAM_BYTES
        before = source.serial()
        deliver(way, file, destination)
        destination.wait_run_state("running")
        destination.wait_serial(lambda text: len(text) >= 30)
        destination.execute("stop")
        passes = check_memory(destination.save_memory(REGION_START_GPA, REGION_BYTES))
        check_progress(passes, check_serial(before + destination.serial()))
        assert source.serial() == before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("machine", ["pc", "microvm"])
def test_linux_counts_on(
    peer: Peer, linux_guest: LinuxGuest, machine: str, way: str, tmp_path: Path
) -> None:
    file = tmp_path / "guest"
    with (
        Qemu(peer, machine, "128M", guest=linux_guest) as source,
        Qemu(peer, machine, "128M", guest=linux_guest, incoming="defer") as destination,
    ):
        source.wait_serial("tick 3")
        receive(source, file)
        before = check_ticks(source.serial())
        deliver(way, file, destination)
        destination.wait_serial(lambda text: len(parse_ticks(text)) >= 5)
        assert check_ticks(source.serial() + destination.serial()) >= before + 5


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("machine", ["pc", "microvm"])
def test_memory_is_the_same_bit_for_bit(peer: Peer, machine: str, way: str, tmp_path: Path) -> None:
    file = tmp_path / "guest"
    guest = BootSectorGuest() if machine == "pc" else None
    with (
        Qemu(peer, machine, guest=guest) as source,
        Qemu(peer, machine, guest=guest, incoming="defer", paused=True) as destination,
    ):
        if guest is not None:
            source.wait_serial("ABC")
        receive(source, file)
        deliver(way, file, destination)
        assert destination.save_memory(0, RAM_BYTES) == source.save_memory(0, RAM_BYTES)


def test_machine_without_configuration_and_footers(peer_7_2: Peer, tmp_path: Path) -> None:
    guest, machine, file = BootSectorGuest(), "pc-i440fx-2.3", tmp_path / "guest"
    with (
        Qemu(peer_7_2, machine, guest=guest) as source,
        Qemu(peer_7_2, machine, guest=guest, incoming="defer") as destination,
    ):
        source.wait_serial("ABC")
        outcome = receive(source, file)
        assert outcome.report["machine"] is None
        send(file, destination)
        destination.wait_serial(lambda text: len(text) >= 5)
        check_serial(source.serial() + destination.serial())


def test_acks_that_nobody_asked_for_are_accepted(peer_10_0: Peer, tmp_path: Path) -> None:
    guest, file = BootSectorGuest(), tmp_path / "guest"
    with (
        Qemu(peer_10_0, guest=guest) as source,
        Qemu(peer_10_0, guest=guest, incoming="defer") as destination,
    ):
        source.wait_serial("ABC")
        receive(source, file)
        destination.set_capabilities("return-path", "switchover-ack")
        outcome = send(file, destination)
    assert outcome.report["switchover_ack"]["received_ms"] is not None


def test_stream_that_qemu_wrote_is_sent(peer: Peer, tmp_path: Path) -> None:
    guest, file = BootSectorGuest(), tmp_path / "guest"
    with (
        Qemu(peer, guest=guest) as source,
        Qemu(peer, guest=guest, incoming="defer") as destination,
    ):
        source.wait_serial("ABC")
        source.migrate(f"exec:cat > {file}")
        source.wait_status("completed")
        send(file, destination)
        destination.wait_serial(lambda text: len(text) >= 5)
        check_serial(source.serial() + destination.serial())


def test_from_the_oldest_through_us_to_the_newest(
    peer_7_2: Peer, peer_11_1: Peer, tmp_path: Path
) -> None:
    guest, machine, file = BootSectorGuest(), "pc-i440fx-7.2", tmp_path / "guest"
    with (
        Qemu(peer_7_2, machine, guest=guest) as source,
        Qemu(peer_11_1, machine, guest=guest, incoming="defer") as destination,
    ):
        source.wait_serial("ABC")
        receive(source, file)
        send(file, destination)
        destination.wait_serial(lambda text: len(text) >= 5)
        check_serial(source.serial() + destination.serial())
