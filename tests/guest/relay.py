"""A process that takes a machine over, lets it run a little, and hands it back.

What goes over the pipe is what a migration carries: each device's state in its described layout,
and the RAM.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from tests.waiting import DEADLINE_S, wait_until

from switchover.guest.machine import REGION_START, BuiltinMachine
from switchover.model.ramblock import TARGET_PAGE_SIZE, Bytes
from switchover.wire.cursor import Cursor
from switchover.wire.vmstate import decode_vmstate, encode_vmstate

RAM_BYTES = 2 << 20
REGION_BYTES = 251 * TARGET_PAGE_SIZE
"""No part of what the program is granted at once, so that it may be stopped at any page."""

_ROOT = Path(__file__).parents[2]


def new_machine() -> BuiltinMachine:
    return BuiltinMachine(RAM_BYTES, region_bytes=REGION_BYTES, pages_per_second=None)


def save_devices(machine: BuiltinMachine) -> list[bytes]:
    return [encode_vmstate(device.description, device.save()) for device in machine.devices]


def load_devices(machine: BuiltinMachine, bodies: Sequence[bytes]) -> None:
    for device, body in zip(machine.devices, bodies, strict=True):
        cursor = Cursor(body)
        device.load(decode_vmstate(device.description, cursor))
        assert cursor.remaining == 0, device.idstr
    assert save_devices(machine) == list(bodies)


@dataclass(frozen=True, slots=True)
class Leg:
    """What came back.

    Attributes:
        bodies: The state of the devices.
        memory: The RAM, valid until the next leg.
        lines: What was printed on the way.
    """

    bodies: list[bytes]
    memory: Bytes
    lines: list[str]


class Runner:
    """The other process, for a `with`."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        command = [sys.executable, "-m", "tests.guest.relay", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(command, cwd=_ROOT, pass_fds=[theirs.fileno()])
        self._memory: Bytes = np.empty((RAM_BYTES // TARGET_PAGE_SIZE, TARGET_PAGE_SIZE), np.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()
        try:
            self._process.wait(DEADLINE_S)
        finally:
            self._process.kill()
            self._process.wait()

    def run(self, bodies: list[bytes], memory: Bytes, passes: int, ticks: int) -> Leg:
        """Has the machine run there until it was seen to change pages and to tick so often."""
        self._connection.send((bodies, passes, ticks))
        self._connection.send_bytes(memory.reshape(-1).data)
        assert self._connection.poll(DEADLINE_S)
        bodies, lines = self._connection.recv()
        self._connection.recv_bytes_into(self._memory.reshape(-1).data)
        return Leg(bodies, self._memory, lines)


def _serve(connection: "Connection[object, tuple[list[bytes], int, int]]") -> None:
    machine = new_machine()
    memory = machine.ram[0].memory
    while True:
        try:
            bodies, passes, ticks = connection.recv()
        except EOFError:
            return
        connection.recv_bytes_into(memory.reshape(-1).data)
        load_devices(machine, bodies)
        machine.serial.lines.clear()
        machine.cont()
        _wait(machine, passes, ticks)
        machine.stop()
        machine.check()
        connection.send((save_devices(machine), [line.text for line in machine.serial.lines]))
        connection.send_bytes(memory.reshape(-1).data)


def _wait(machine: BuiltinMachine, passes: int, ticks: int) -> None:
    """Waits until so many passes were seen, of which some may be missed, and so many ticks."""
    marks = machine.ram[0].memory[REGION_START // TARGET_PAGE_SIZE :, 0]
    for _ in range(passes):
        wait_until(partial(_is_not, marks, int(marks[0])), "change of the first page")
    wait_until(lambda: len(machine.serial.lines) >= ticks, "tick")


def _is_not(marks: Bytes, before: int) -> bool:
    return int(marks[0]) != before


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
