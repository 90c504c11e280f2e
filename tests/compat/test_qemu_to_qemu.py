"""QEMU to QEMU: what the guests and the driver say when nothing of ours is in between."""

from pathlib import Path

import pytest

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


def migrate(source: Qemu, destination: Qemu) -> None:
    """Moves the guest over a Unix socket and waits until it runs on the other side."""
    uri = f"unix:{destination.directory / 'migration'}"
    destination.migrate_incoming(uri)
    source.migrate(uri)
    source.wait_status("completed")
    destination.wait_status("completed")
    destination.wait_run_state("running")


def check_stopped(source: Qemu, destination: Qemu) -> None:
    """Stops the boot-sector guest on the destination and checks all that it has left."""
    destination.execute("stop")
    destination.wait_event("STOP")
    passes = check_memory(destination.save_memory(REGION_START_GPA, REGION_BYTES))
    check_progress(passes, check_serial(source.serial() + destination.serial()))


@pytest.mark.parametrize("machine", ["pc", "q35", "isapc"])
def test_boot_sector_guest_goes_on_where_it_was(peer: Peer, machine: str) -> None:
    guest = BootSectorGuest()
    with (
        Qemu(peer, machine, guest=guest) as source,
        Qemu(peer, machine, guest=guest, incoming="defer") as destination,
    ):
        source.wait_serial("ABCDEFG")
        migrate(source, destination)
        assert source.run_state() == "postmigrate"
        destination.wait_serial(lambda text: len(text) >= 30)
        check_stopped(source, destination)


def test_boot_sector_guest_goes_on_from_the_oldest_to_the_newest_and_back(
    peer_7_2: Peer, peer_11_1: Peer
) -> None:
    guest, machine = BootSectorGuest(), peer_7_2.machine("pc-i440fx")
    with (
        Qemu(peer_7_2, machine, guest=guest) as first,
        Qemu(peer_11_1, machine, guest=guest, incoming="defer") as second,
        Qemu(peer_7_2, machine, guest=guest, incoming="defer") as third,
    ):
        first.wait_serial("ABC")
        migrate(first, second)
        second.wait_serial(lambda text: len(text) >= 5)
        migrate(second, third)
        third.wait_serial(lambda text: len(text) >= 5)
        third.execute("stop")
        passes = check_memory(third.save_memory(REGION_START_GPA, REGION_BYTES))
        output = first.serial() + second.serial() + third.serial()
        check_progress(passes, check_serial(output))


@pytest.mark.parametrize("machine", ["pc", "q35", "microvm"])
def test_linux_guest_counts_on(peer: Peer, linux_guest: LinuxGuest, machine: str) -> None:
    with (
        Qemu(peer, machine, "128M", guest=linux_guest) as source,
        Qemu(peer, machine, "128M", guest=linux_guest, incoming="defer") as destination,
    ):
        source.wait_serial("tick 3")
        migrate(source, destination)
        destination.wait_serial(lambda text: len(parse_ticks(text)) >= 5)
        assert check_ticks(source.serial() + destination.serial()) >= 8


def test_guest_goes_through_a_file(peer: Peer, tmp_path: Path) -> None:
    guest, stream = BootSectorGuest(), tmp_path / "stream"
    with (
        Qemu(peer, guest=guest) as source,
        Qemu(peer, guest=guest, incoming="defer") as destination,
    ):
        source.wait_serial("ABC")
        source.migrate(f"exec:cat > {stream}")
        source.wait_status("completed")
        assert stream.read_bytes()[:4] == b"QEVM"
        has_file_uri = peer.version >= (8, 2)
        destination.migrate_incoming(f"file:{stream}" if has_file_uri else f"exec:cat {stream}")
        destination.wait_run_state("running")
        destination.wait_serial(lambda text: len(text) >= 5)
        check_stopped(source, destination)
