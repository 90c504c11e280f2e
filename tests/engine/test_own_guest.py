"""A guest of one's own: whatever has memory and state can be moved while it runs.

What stands between the two marks is all that its author writes.
"""

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from switchover.channel.connection import Connection
from switchover.engine.arrival import ArrivingDestination
from switchover.engine.incoming import ReceiveOptions
from switchover.engine.precopy import PrecopySource
from switchover.engine.progress import Progress
from switchover.guest.base import Device, LiveDevice
from switchover.guest.ram import GuestRAM
from switchover.model.capability import Capability
from switchover.model.parameter import Parameters
from switchover.model.ramblock import RAMBlock
from switchover.model.vmstate import VmstateDescription, VmstateField, VmstateType
from switchover.worker import Worker


# guest: begin
class Diary(LiveDevice):  # is sent piece by piece while the guest runs
    idstr = "diary"
    lines: Sequence[bytes] = ()
    sent = 0

    def save_setup(self) -> bytes:
        self.sent = 0
        return self.save_iterate()

    def save_iterate(self) -> bytes:
        new = self.lines[self.sent :]
        self.sent += len(new)
        return b"".join(new)

    save_complete = save_iterate

    def load(self, piece: bytes, ready: Callable[[], None]) -> None:
        self.lines = (*self.lines, *piece.splitlines(keepends=True))


class Wanderer:  # a guest, and its own device: the steps are saved once it stands still
    machine, idstr = "wanderer-1", "steps"
    description = VmstateDescription("steps", (VmstateField("steps", VmstateType.UINT64),))
    steps, is_running = 0, False

    def __init__(self) -> None:
        self.ram = (GuestRAM(RAMBlock("places", 16 << 20)),)
        self.diary = Diary()
        self.devices: Sequence[Device] = (self,)
        self.live_devices = (self.diary,)

    def save(self) -> Mapping[str, Any]:
        return {"steps": self.steps}

    def load(self, values: Mapping[str, Any]) -> None:
        self.steps = values["steps"]

    def cont(self) -> None:
        self.is_running = True
        self.worker = Worker("wanderer", self.wander)

    def stop(self) -> None:
        self.is_running = False
        self.worker.join()

    def wander(self) -> None:
        while self.is_running:
            time.sleep(0.0005)
            self.ram[0].memory[self.steps * 997 % 4096, 0] += 1
            self.steps += 1
            if self.steps % 10 == 0:
                self.diary.lines = (*self.diary.lines, b"%d steps\n" % self.steps)


# guest: end


def check(guest: Wanderer) -> None:
    """Its memory, its device and its diary tell the same story."""
    visits = np.zeros(4096, np.uint8)
    np.add.at(visits, np.arange(guest.steps) * 997 % 4096, 1)
    assert np.array_equal(guest.ram[0].memory[:, 0], visits)
    assert not guest.ram[0].memory[:, 1:].any()
    assert list(guest.diary.lines) == [
        b"%d steps\n" % steps for steps in range(10, guest.steps + 1, 10)
    ]


def wait_for_steps(guest: Wanderer, steps: int) -> None:
    never = threading.Event()
    for _ in range(60_000):
        if guest.steps >= steps:
            return
        never.wait(0.001)
    raise AssertionError(f"{guest.steps} steps only")


def test_own_guest_moves_while_it_runs() -> None:
    here, there = Wanderer(), Wanderer()
    here.cont()
    wait_for_steps(here, 50)
    capabilities = frozenset({Capability.RETURN_PATH})
    ours, theirs = socket.socketpair()
    with Connection(ours, "to there") as to_there, Connection(theirs, "from here") as from_here:
        destination = ArrivingDestination(
            there, from_here, ReceiveOptions(capabilities), Progress(), print
        )
        receiving = Worker("test/dst", destination.run)
        PrecopySource(here, to_there, capabilities, Parameters(), Progress()).run()
        receiving.join()
    assert receiving.error is None
    assert there.is_running and not here.is_running
    arrived = here.steps
    wait_for_steps(there, arrived + 50)
    there.stop()
    check(there)


def test_readme_shows_this_guest() -> None:
    text = Path(__file__).read_text().partition("# guest: begin\n")[2].partition("# guest: end")[0]
    assert text.strip() in (Path(__file__).parents[2] / "README.md").read_text()


def test_own_guest_is_short() -> None:
    text = Path(__file__).read_text().partition("# guest: begin\n")[2].partition("# guest: end")[0]
    lines = [line for line in text.splitlines() if line]
    assert len(lines) <= 40
