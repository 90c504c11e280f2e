"""Guests that run, and the two engines that move them beside the thread of a test."""

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tests.waiting import wait_until

from switchover.channel.base import Channel
from switchover.channel.connection import Connection, Listener
from switchover.engine.arrival import ArrivingDestination
from switchover.engine.incoming import ReceiveOptions
from switchover.engine.precopy import PrecopySource
from switchover.engine.progress import Progress
from switchover.errors import PeerError
from switchover.guest.base import Device, Guest, LiveDevice
from switchover.guest.machine import BuiltinMachine
from switchover.guest.ram import GuestRAM
from switchover.model.capability import Capability
from switchover.model.parameter import Parameters
from switchover.model.ramblock import TARGET_PAGE_SIZE, RAMBlock
from switchover.model.section import LiveParser
from switchover.model.switchover import SwitchoverAckMode
from switchover.model.vmstate import VmstateDescription, VmstateField, VmstateType
from switchover.protocol.event import NEED_DATA
from switchover.protocol.grammar import StreamState
from switchover.protocol.loadvm import LoadVM
from switchover.vfio.migration import VfioMigration
from switchover.wire.prefixed import PrefixedParser
from switchover.wire.ram import RAMParser
from switchover.worker import Worker

NONE: frozenset[Capability] = frozenset()
RETURN_PATH = frozenset({Capability.RETURN_PATH})
SWITCHOVER_ACK = RETURN_PATH | {Capability.SWITCHOVER_ACK}

FAST = Parameters(max_bandwidth=0)
"""No limit but the line's."""


# Guests


def make_machine(
    pages_per_second: int | None = 0,
    *,
    ram_bytes: int = 8 << 20,
    devices: Sequence[LiveDevice] = (),
) -> BuiltinMachine:
    """A machine that stands still; if it runs when the test is over, it is stopped then."""
    machine = BuiltinMachine(ram_bytes, pages_per_second=pages_per_second, live_devices=devices)
    _machines.append(machine)
    return machine


_machines: list[BuiltinMachine] = []


def stop_machines() -> None:
    while _machines:
        _machines.pop().stop()


def tick_count(machine: BuiltinMachine) -> int:
    return len(machine.serial.lines)


def wait_for_ticks(machine: BuiltinMachine, count: int) -> None:
    """The machine runs on for so many ticks."""
    wanted = tick_count(machine) + count
    wait_until(lambda: tick_count(machine) >= wanted, f"{count} ticks")


def assert_one_machine(*machines: BuiltinMachine) -> None:
    """That these, one after the other, were one machine without gap or repeat; stops the last."""
    last = machines[-1]
    assert last.is_running
    assert not any(machine.is_running for machine in machines[:-1])
    wait_for_ticks(last, 3)
    last.stop()
    last.check()
    ticks = [line.text for machine in machines for line in machine.serial.lines]
    assert ticks == [f"tick {number}" for number in range(1, len(ticks) + 1)]


class Counter:
    """A device of one number."""

    idstr = "counter"
    description = VmstateDescription("counter", (VmstateField("value", VmstateType.UINT32),))

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def save(self) -> Mapping[str, Any]:
        return {"value": self.value}

    def load(self, values: Mapping[str, Any]) -> None:
        self.value = values["value"]


class Withholding(LiveDevice):
    """A live device that says that it is ready when the test says so.

    Args:
        name: Its name.
    """

    wants_switchover_ack = True

    def __init__(self, name: str = "slow") -> None:
        self.idstr = name
        self.ready: Callable[[], None] | None = None
        self.pieces: list[bytes] = []
        self._to_send: list[bytes] = []

    def save_setup(self) -> bytes:
        self._to_send = [b"one", b"two"]
        return b"setup"

    def pending_bytes(self) -> int:
        return sum(map(len, self._to_send))

    def save_iterate(self) -> bytes:
        return self._to_send.pop(0) if self._to_send else b""

    def save_complete(self) -> bytes:
        return self.save_iterate()

    def load_setup(self) -> None:
        self.pieces = []

    def load(self, piece: bytes, ready: Callable[[], None]) -> None:
        self.pieces.append(piece)
        self.ready = ready

    def release(self) -> None:
        """Lets the destination say yes."""
        assert self.ready is not None
        self.ready()


class TinyGuest:
    """A guest of a few pages, whose running is a word; cheap enough for a new one at every byte.

    Args:
        seed: What its memory is made of; 0 for nothing.
        devices: Its devices.
        live_devices: Its live devices; those of VFIO are stopped and let run with it.
        blocks: The pages of its RAM blocks.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        devices: Sequence[Device] | None = None,
        live_devices: Sequence[LiveDevice | VfioMigration] = (),
        blocks: Mapping[str, int] | None = None,
    ) -> None:
        self.machine = "tiny-1"
        pages = {"low": 3, "high": 2} if blocks is None else blocks
        self.ram: Sequence[GuestRAM] = tuple(
            GuestRAM(RAMBlock(name, count * TARGET_PAGE_SIZE)) for name, count in pages.items()
        )
        self.devices: Sequence[Device] = (Counter(seed),) if devices is None else devices
        self.live_devices = live_devices
        self._vfio_devices = [one for one in live_devices if isinstance(one, VfioMigration)]
        self.is_running = False
        self.was_started = False
        if seed:
            generator = np.random.default_rng(seed)
            for ram in self.ram:
                ram.memory[1:] = generator.integers(0, 256, ram.memory[1:].shape, np.uint8)

    def stop(self) -> None:
        self.is_running = False
        for device in self._vfio_devices:
            device.prepare_stop()
        for device in self._vfio_devices:
            device.stop()

    def cont(self) -> None:
        for device in self._vfio_devices:
            device.cont()
        self.is_running = self.was_started = True


def assert_same_memory(left: Guest, right: Guest) -> None:
    for ours, theirs in zip(left.ram, right.ram, strict=True):
        assert ours.block == theirs.block
        assert np.array_equal(ours.memory, theirs.memory)


def assert_who_runs(source: Guest, destination: Guest, error: BaseException | None) -> None:
    """Never both; one, unless nobody can know; and the error says which of these it is."""
    if error is None:
        assert not source.is_running and destination.is_running
    elif isinstance(error, PeerError) and error.after_switchover:
        assert not source.is_running
    else:
        assert source.is_running and not destination.is_running


# Engines


class Departure:
    """A source that runs in a thread of its own.

    Args:
        guest: What it sends.
        channel: Where it sends it.
        capabilities: Those that are set.
        parameters: Those that are set.
        ack_mode: Who counts the ACKs.
        resumes_when_unsure: See PrecopySource.
    """

    def __init__(
        self,
        guest: Guest,
        channel: Channel,
        capabilities: frozenset[Capability] = RETURN_PATH,
        parameters: Parameters = FAST,
        *,
        ack_mode: SwitchoverAckMode = SwitchoverAckMode.LEGACY,
        resumes_when_unsure: bool = False,
    ) -> None:
        self.progress = Progress()
        self.engine = PrecopySource(
            guest,
            channel,
            capabilities,
            parameters,
            self.progress,
            ack_mode=ack_mode,
            resumes_when_unsure=resumes_when_unsure,
        )
        self.cpu_seconds = 0.0
        self._worker = Worker("test/src", self._run)

    def _run(self) -> None:
        try:
            self.engine.run()
        finally:
            self.cpu_seconds = time.thread_time()

    def error(self) -> BaseException | None:
        """What it ended with."""
        self._worker.join()
        return self._worker.error

    def finish(self) -> None:
        """It ends well."""
        if error := self.error():
            raise error


class Arrival:
    """A destination that runs in a thread of its own.

    Args:
        guest: What it fills.
        incoming: Where that comes from.
        capabilities: Those that are set.
        hold_ack_ns: How long it holds the ACK back.
        ack_mode: Who counts the ACKs.
    """

    def __init__(
        self,
        guest: Guest,
        incoming: Channel | Listener,
        capabilities: frozenset[Capability] = RETURN_PATH,
        *,
        hold_ack_ns: int = 0,
        ack_mode: SwitchoverAckMode = SwitchoverAckMode.LEGACY,
    ) -> None:
        self.progress = Progress()
        self.warnings: list[str] = []
        options = ReceiveOptions(capabilities, ack_mode=ack_mode, hold_ack_ns=hold_ack_ns)
        self.engine = ArrivingDestination(
            guest, incoming, options, self.progress, self.warnings.append
        )
        self._worker = Worker("test/dst", self.engine.run)

    def error(self) -> BaseException | None:
        """What it ended with."""
        self._worker.join()
        return self._worker.error

    def finish(self) -> None:
        """It ends well."""
        if error := self.error():
            raise error


@contextmanager
def pair() -> Iterator[tuple[Connection, Connection]]:
    """The source's end of a connection and the destination's."""
    ours, theirs = socket.socketpair()
    with Connection(ours, "to dst") as source, Connection(theirs, "from src") as destination:
        yield source, destination


def move(
    source: Guest,
    destination: Guest,
    capabilities: frozenset[Capability] = RETURN_PATH,
    parameters: Parameters = FAST,
) -> Departure:
    """Moves a guest, and all is well."""
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source, capabilities)
        departure = Departure(source, to_destination, capabilities, parameters)
        departure.finish()
        arrival.finish()
    return departure


class Played:
    """A destination that reads everything, in a thread, and says what the test wants.

    Args:
        channel: Its end of the connection.
        live: Names of the live devices of the guest that comes.
        parsers: Those of its further live sections.
    """

    def __init__(
        self, channel: Connection, live: Sequence[str] = (), parsers: Sequence[LiveParser] = ()
    ) -> None:
        self._channel = channel
        self._load = LoadVM([RAMParser(1 << 40), *map(PrefixedParser, live), *parsers])
        self._worker = Worker("test/played", self._read)

    def _read(self) -> None:
        while size := self._channel.recv_into(self._load.buffer.writable()):
            self._load.buffer.commit(size)
            while self._load.next_event() is not NEED_DATA:
                pass

    @property
    def state(self) -> StreamState:
        """How far the stream has come."""
        return self._load.state

    def say(self, message: bytes) -> None:
        """Answers."""
        self._channel.send([message])

    def join(self) -> None:
        """The source is done."""
        self._worker.join()
        if self._worker.error is not None:
            raise self._worker.error
