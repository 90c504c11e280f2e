"""A QEMU with played devices that ends, is left alone, is cancelled, or gets one more device."""

import os
import signal
import threading
from pathlib import Path

import pytest
from tests.channel.leaks import nothing_left
from tests.compat.test_vfio import (
    ARRIVED,
    CALLED_OFF,
    LEFT,
    SMALL,
    STARTED,
    SWITCHOVER_ACK,
    WENT_BACK,
    Move,
    Nic,
    goes_on,
    moving,
    nics,
    prepare,
    pytestmark,
    status_of,
)
from tests.waiting import wait_until

from switchover.testing import BootSectorGuest, Peer, QemuError
from switchover.testing.qemu import FINAL_STATUSES
from switchover.testing.vfio import VfioQemu

__all__ = ["nothing_left", "pytestmark"]

ENDLESS = f"{SMALL},dirty-rate=100G,lie=initial+1T"
NATIVE_HOT_PLUG = (
    *("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"),
    *("-device", "pcie-root-port,id=hot,chassis=1"),
)


def own_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("is_moving", [False, True], ids=["at rest", "while it moves"])
def test_qemu_is_killed(peer_10_0: Peer, is_moving: bool) -> None:
    threads = threading.active_count()
    with moving(peer_10_0, devices=[ENDLESS], capabilities=SWITCHOVER_ACK) as move:
        if is_moving:
            move.begin()
            wait_until(lambda: nics(move.source)[0].asked["read"] >= 3, "third read")
        os.kill(move.source.pid, signal.SIGKILL)
        assert move.source.wait_exit() == -signal.SIGKILL
        if is_moving:
            assert move.destination.wait_error()
    assert threading.active_count() == threads


def test_nobody_answers_any_more(peer_10_0: Peer) -> None:
    with moving(peer_10_0, devices=[ENDLESS], capabilities=SWITCHOVER_ACK) as move:
        move.begin()
        wait_until(lambda: nics(move.source)[0].asked["read"] >= 3, "third read")
        move.source.played.stop()
        with pytest.raises(QemuError):
            move.source.wait_status("completed")
        # It cannot even reset the device, and does not go on with one of that kind.
        assert move.source.wait_exit() == -signal.SIGABRT
        assert "Function not implemented" in move.source.stderr()


def test_several_at_once(peer_10_0: Peer) -> None:
    with (
        moving(peer_10_0, capabilities=SWITCHOVER_ACK) as one,
        moving(peer_10_0, capabilities=SWITCHOVER_ACK) as two,
    ):
        for move in (one, two):
            move.begin()
        for move in (one, two):
            move.finish()
            assert move.same()


def test_machine_that_has_not_begun(peer_10_0: Peer) -> None:
    with moving(peer_10_0, extra=["-S"]) as move:
        assert move.source.states("nic") == []
        move.begin()
        move.source.wait_status("completed")
        move.destination.wait_status("completed")
        assert move.source.states("nic") == ["PRE_COPY", "STOP_COPY", "STOP"]
        assert move.same()
        move.destination.execute("cont")
        move.destination.wait_run_state("running")
        assert move.destination.states("nic") == ARRIVED


def test_cancelled_and_moved_afterwards(peer_10_0: Peer) -> None:
    guest = BootSectorGuest()
    with moving(
        peer_10_0,
        devices=[ENDLESS],
        arriving=[SMALL],
        capabilities=SWITCHOVER_ACK,
        guest=guest,
    ) as move:
        move.begin()
        wait_until(lambda: nics(move.source)[0].asked["read"] >= 3, "third read")
        move.source.execute("migrate_cancel")
        wait_until(lambda: status_of(move.source) in CALLED_OFF, "the end of the migration")
        goes_on(move.source)
        assert move.source.states("nic") == [*WENT_BACK, "RUNNING"]
        nics(move.source)[0].become()
        with VfioQemu(
            peer_10_0,
            [Nic(is_empty=True)],
            move.source.machine,
            guest=guest,
            incoming="defer",
        ) as other:
            prepare(other, SWITCHOVER_ACK)
            second = Move(move.source, other)
            second.run()
            assert second.same()
            goes_on(other)


def test_descriptors_are_used_again(peer_10_0: Peer) -> None:
    with moving(peer_10_0, devices=[ENDLESS], arriving=[SMALL], guest=BootSectorGuest()) as move:
        pid = move.source.pid
        before = os.listdir(f"/proc/{pid}/fd")
        for times in range(1, 4):
            with VfioQemu(
                peer_10_0,
                [Nic(is_empty=True)],
                move.source.machine,
                guest=BootSectorGuest(),
                incoming="defer",
            ) as other:
                prepare(other, ["return-path"])
                nic = nics(move.source)[0]
                reads = nic.asked["read"]
                Move(move.source, other).begin()
                wait_until(lambda: nic.asked["read"] > reads + 3, "third read")  # noqa: B023
                numbers = {int(number) for number in os.listdir(f"/proc/{pid}/fd")}
                assert max(numbers) == 1064
                move.source.execute("migrate_cancel")
                # Whichever is first: that, or the error of what it was about to send.
                wait_until(
                    lambda: move.source.query("query-migrate")["status"] in FINAL_STATUSES,
                    "end of the migration",
                )
            assert move.source.states("nic").count("PRE_COPY") == times
        assert len(os.listdir(f"/proc/{pid}/fd")) <= len(before)


def test_device_is_plugged_in_moved_and_taken_out(peer_10_0: Peer) -> None:
    with moving(peer_10_0, capabilities=SWITCHOVER_ACK, extra=NATIVE_HOT_PLUG) as move:
        added = []
        for qemu in (move.source, move.destination):
            device = Nic(name="late", is_empty=qemu is move.destination)
            arguments = qemu.played.add_device(device)
            assert arguments["fd"] == "1002"
            qemu.execute("device_add", bus="hot", **arguments)
            added.append(device)
        move.run()
        assert move.source.states("nic") == LEFT
        # It came when the machine ran already.
        assert move.source.states("late") == LEFT[len(STARTED) :]
        assert move.destination.states("late") == ARRIVED
        assert move.same() and added[0].sim.digest() == added[1].sim.digest()


def test_device_is_taken_out(peer_10_0: Peer) -> None:
    with VfioQemu(peer_10_0, [Nic()], peer_10_0.machine("pc-q35"), extra=NATIVE_HOT_PLUG) as qemu:
        for place in range(2):
            fd = 1002 + place
            arguments = qemu.played.add_device(Nic(name=f"late{place}"))
            assert arguments["fd"] == str(fd)
            qemu.execute("device_add", bus="hot", **arguments)
            assert Path(f"/proc/{qemu.pid}/fd/{fd}").exists()
            qemu.execute("device_del", id=f"late{place}")
            qemu.wait_event("DEVICE_DELETED")
            calls = [event.call for event in qemu.events if event.device == f"late{place}"]
            assert "VFIO_DEVICE_DETACH_IOMMUFD_PT" in calls
            assert calls[-1] == "close"
            wait_until(
                lambda: not Path(f"/proc/{qemu.pid}/fd/{fd}").exists(),  # noqa: B023
                "descriptor that is closed",
            )
