"""The built-in machine goes into a file, and from there into another one, where it runs on."""

from pathlib import Path

from tests.waiting import wait_until

from switchover.channel.connection import Listener, connect
from switchover.channel.file import AtomicFile, open_file
from switchover.engine.arrival import ArrivingDestination
from switchover.engine.destination import ParkingDestination
from switchover.engine.incoming import ReceiveOptions
from switchover.engine.load import load_guest
from switchover.engine.precopy import PrecopySource
from switchover.engine.progress import Progress
from switchover.engine.source import ParkedSource
from switchover.guest.machine import BuiltinMachine
from switchover.model.address import InetAddress
from switchover.model.capability import Capability
from switchover.model.parameter import Parameters
from switchover.worker import Worker

RAM_BYTES = 16 << 20
CAPABILITIES = frozenset({Capability.RETURN_PATH, Capability.SWITCHOVER_ACK})
OPTIONS = ReceiveOptions(CAPABILITIES)


def no_warning(text: str) -> None:
    raise AssertionError(text)


def test_machine_is_parked_while_it_runs_and_runs_on_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "guest"
    source = BuiltinMachine(RAM_BYTES, pages_per_second=20_000)
    source.cont()
    wait_until(lambda: len(source.serial.lines) >= 5, "five ticks here")
    with Listener(InetAddress("127.0.0.1", 0)) as listener, AtomicFile(path) as file:
        parking = ParkingDestination(listener, file, OPTIONS, Progress(), no_warning)
        worker = Worker("mig/dst/main", parking.run)
        with connect(listener.address) as channel:
            PrecopySource(source, channel, CAPABILITIES, Parameters(), Progress()).run()
        worker.join()
        assert worker.error is None
    assert not source.is_running
    source.check()

    with open_file(str(path), "guest") as channel:
        guest = load_guest(channel)
    memory = guest.blocks["ram"].memory
    assert (memory == source.ram[0].memory).all()

    destination = BuiltinMachine(RAM_BYTES)
    with Listener(InetAddress("127.0.0.1", 0)) as listener:
        arriving = ArrivingDestination(destination, listener, OPTIONS, Progress(), no_warning)
        worker = Worker("mig/dst/main", arriving.run)
        with connect(listener.address) as channel:
            ParkedSource(guest, channel, Progress()).run()
        worker.join()
        assert worker.error is None
    wait_until(lambda: len(destination.serial.lines) >= 5, "five ticks there")
    destination.stop()
    destination.check()
    ticks = [line.text for line in (*source.serial.lines, *destination.serial.lines)]
    assert ticks == [f"tick {count + 1}" for count in range(len(ticks))]
