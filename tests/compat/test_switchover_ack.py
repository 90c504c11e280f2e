"""SWITCHOVER_ACK in both modes, in both directions, and where the two sides count differently."""

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cli.command import start
from tests.compat.command import Switchover, run
from tests.compat.parking import RETURN_PATH, SWITCHOVER_ACK, receive, send
from tests.engine.live import Departure
from tests.waiting import wait_until

from switchover.channel.connection import Listener, connect
from switchover.channel.file import AtomicFile
from switchover.engine import ack_wait, incoming
from switchover.engine.destination import ParkingDestination
from switchover.engine.incoming import ReceiveOptions
from switchover.engine.progress import Progress
from switchover.errors import MigrationCancelled, PeerError
from switchover.guest.machine import BuiltinMachine
from switchover.model.address import InetAddress, UnixAddress
from switchover.model.capability import parse_capabilities
from switchover.model.status import MigrationStatus
from switchover.model.switchover import SwitchoverAckMode
from switchover.testing import (
    BootSectorGuest,
    Peer,
    Qemu,
    check_memory,
    check_progress,
    check_serial,
)
from switchover.testing.guest import REGION_BYTES, REGION_START_GPA
from switchover.worker import Worker

LEGACY, PER_DEVICE = SwitchoverAckMode.LEGACY, SwitchoverAckMode.PER_DEVICE
HOLD_S = 2
RAM_BYTES = 16 << 20
MS_NS = 1_000_000
UNDERFLOW = "Switchover ack pending num underflowed"

Side = tuple[Peer, str, SwitchoverAckMode]
"""A QEMU, its machine type, and how that counts."""


@pytest.fixture(
    params=[
        ("peer_11_1", "pc-i440fx-11.1", PER_DEVICE),
        ("peer_11_1", "pc-i440fx-10.0", LEGACY),
        ("peer_10_0", "pc-i440fx-10.0", LEGACY),
    ],
    ids=["11.1", "11.1 as 10.0", "10.0"],
)
def side(request: pytest.FixtureRequest) -> Side:
    """Each QEMU that has the capability, in each of its modes."""
    name, machine, mode = request.param
    return request.getfixturevalue(name), machine, mode


def counting(mode: SwitchoverAckMode) -> tuple[str, ...]:
    """What makes a QEMU from 11.1 on count so, whatever its machine type says."""
    value = "on" if mode == LEGACY else "off"
    return ("-global", f"migration.switchover-ack-legacy={value}")


def with_capabilities(names: Sequence[str]) -> list[str]:
    return [word for name in names for word in ("--capability", name)]


def goes_on(qemu: Qemu, letters: int = 20) -> None:
    """Waits until the guest has printed more: it runs."""
    before = len(qemu.serial())
    qemu.wait_serial(lambda text: len(text) >= before + letters)


# As source


def test_source_waits_as_its_machine_type_says(side: Side, tmp_path: Path) -> None:
    peer, machine, mode = side
    file = tmp_path / "guest"
    options = (*with_capabilities(SWITCHOVER_ACK), "--hold-ack", str(HOLD_S))
    with Qemu(peer, machine, guest=BootSectorGuest()) as source:
        source.wait_serial("ABC")
        source.set_capabilities(*SWITCHOVER_ACK)
        with Switchover("receive", "tcp:127.0.0.1:0", "--output", file, *options) as command:
            source.migrate(command.wait_uri())
            if mode == LEGACY:
                source.wait_status("active")
                goes_on(source)
                assert source.run_state() == "running"
                assert not file.exists()
            outcome = command.wait()
        info = source.wait_status("completed")
    assert outcome.exit_code == 0, outcome.messages
    ack = outcome.report["switchover_ack"]
    assert ack["mode"] == mode
    assert (ack["sent_ms"] is not None) == (mode == LEGACY)
    if mode == LEGACY:
        assert ack["sent_ms"] - ack["asked_ms"] >= HOLD_S * 1000
        assert info["total-time"] - info["downtime"] >= HOLD_S * 1000 - 100
    else:
        assert "there is no ACK to be held" in outcome.messages


# As destination


def test_parked_guest_goes_in_and_hears_who_counts(side: Side, tmp_path: Path) -> None:
    peer, machine, mode = side
    guest, file = BootSectorGuest(), tmp_path / "guest"
    with (
        Qemu(peer, machine, guest=guest) as source,
        Qemu(peer, machine, guest=guest, incoming="defer") as destination,
    ):
        source.wait_serial("ABC")
        receive(source, file)
        destination.set_capabilities(*SWITCHOVER_ACK)
        outcome = send(file, destination)
        goes_on(destination)
        destination.execute("stop")
        passes = check_memory(destination.save_memory(REGION_START_GPA, REGION_BYTES))
        check_progress(passes, check_serial(source.serial() + destination.serial()))
    ack = outcome.report["switchover_ack"]
    assert ack["mode"] == mode
    assert (ack["received_ms"] is not None) == (mode == LEGACY)


def test_parked_guest_goes_in_with_an_ack_too_many(peer_10_0: Peer, tmp_path: Path) -> None:
    guest, file = BootSectorGuest(), tmp_path / "guest"
    with (
        Qemu(peer_10_0, guest=guest) as source,
        Qemu(peer_10_0, guest=guest, incoming="defer") as destination,
    ):
        source.wait_serial("ABC")
        receive(source, file)
        destination.set_capabilities(*SWITCHOVER_ACK)
        uri = f"unix:{destination.directory / 'migration'}"
        destination.migrate_incoming(uri)
        outcome = run("send", file, uri, "--switchover-ack-mode", "per-device")
        assert outcome.exit_code == 0, outcome.messages
        destination.wait_status("completed")
    assert "sent an ACK that no device asked for: it counts in legacy mode" in outcome.messages


class Leaving:
    """The built-in machine, nothing but its RAM, on its way into a QEMU.

    Args:
        destination: Where it goes.
        machine: The machine.
        departure: Its source.
    """

    def __init__(self, destination: Qemu, machine: BuiltinMachine, departure: Departure) -> None:
        self.destination = destination
        self.machine = machine
        self.departure = departure
        self.progress = departure.progress

    def finish(self) -> None:
        """It arrives whole."""
        self.departure.finish()
        self.destination.wait_status("completed")
        assert not self.machine.is_running
        memory = self.destination.save_memory(0, RAM_BYTES)
        assert memory == self.machine.ram[0].memory.tobytes()
        self.machine.check()

    @property
    def has_ack(self) -> bool:
        """Whether an ACK came."""
        return self.progress.report().switchover_ack.received_ms is not None


@contextmanager
def leaving(peer: Peer, mode: SwitchoverAckMode, *extra: str) -> Iterator[Leaving]:
    """Moves a machine that runs into a QEMU of machine type `none`, with the capability on both."""
    machine = BuiltinMachine(RAM_BYTES, pages_per_second=2_000, ram_only=True)
    with Qemu(peer, "none", "16M", incoming="defer", paused=True, extra=extra) as destination:
        destination.set_capabilities(*SWITCHOVER_ACK)
        path = str(destination.directory / "migration")
        destination.migrate_incoming(f"unix:{path}")
        machine.cont()
        try:
            with connect(UnixAddress(path)) as channel:
                capabilities = parse_capabilities(SWITCHOVER_ACK)
                departure = Departure(machine, channel, capabilities, ack_mode=mode)
                yield Leaving(destination, machine, departure)
        finally:
            machine.stop()


@pytest.mark.parametrize(
    ("peer_name", "mode", "extra"),
    [
        ("peer_11_1", PER_DEVICE, ()),
        ("peer_11_1", LEGACY, counting(LEGACY)),
        ("peer_10_0", LEGACY, ()),
    ],
    ids=["11.1", "11.1 told otherwise", "10.0"],
)
def test_running_machine_goes_in(
    peer_name: str, mode: SwitchoverAckMode, extra: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    with leaving(request.getfixturevalue(peer_name), mode, *extra) as move:
        move.finish()
        assert move.has_ack == (mode == LEGACY)


# The two sides disagree


class Arriving:
    """Our destination, in a thread of its own, with what it said."""

    def __init__(
        self, file: AtomicFile, listener: Listener, mode: SwitchoverAckMode | None
    ) -> None:
        self.uri = str(listener.address)
        self.warnings: list[str] = []
        self.progress = Progress()
        options = ReceiveOptions(capabilities=parse_capabilities(SWITCHOVER_ACK), ack_mode=mode)
        engine = ParkingDestination(
            listener, file, options, self.progress, lambda text: self.warnings.append(text)
        )
        self._worker = Worker("test/dst", engine.run)

    def error(self) -> BaseException | None:
        """What it ended with."""
        self._worker.join()
        return self._worker.error


@contextmanager
def arriving(
    file: Path, mode: SwitchoverAckMode | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Arriving]:
    """A destination that wonders soon."""
    monkeypatch.setattr(incoming, "QUIET_NS", 300 * MS_NS)
    with AtomicFile(file) as opened, Listener(InetAddress("127.0.0.1", 0)) as listener:
        yield Arriving(opened, listener, mode)


@pytest.mark.parametrize("mode", [None, PER_DEVICE], ids=["auto", "per-device"])
@pytest.mark.parametrize("guest", [BootSectorGuest(), None], ids=["busy", "idle"])
def test_source_that_waits_for_an_ack_that_nobody_sends(
    peer_11_1: Peer,
    guest: BootSectorGuest | None,
    mode: SwitchoverAckMode | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Qemu(peer_11_1, "pc-i440fx-11.1", guest=guest, extra=counting(LEGACY)) as source:
        if guest is not None:
            source.wait_serial("ABC")
        source.set_capabilities(*SWITCHOVER_ACK)
        with arriving(tmp_path / "guest", mode, monkeypatch) as arrival:
            source.migrate(arrival.uri)
            wait_until(lambda: arrival.warnings, "the warning")
            assert arrival.progress.status == MigrationStatus.ACTIVE
            info = source.query("query-migrate")
            assert (info["status"], info.get("error-desc")) == ("active", None)
            assert source.run_state() == "running"
            source.execute("migrate_cancel")
            assert isinstance(arrival.error(), PeerError)
        (warning,) = arrival.warnings
        assert "does not stop its guest: if it waits for one ACK for all devices" in warning
        assert "use --switchover-ack-mode legacy" in warning
        source.wait_status("cancelled")
        # As it says.
        receive(source, tmp_path / "guest", SWITCHOVER_ACK, "--switchover-ack-mode", "legacy")


def test_source_that_counts_otherwise_than_its_name_says(
    peer_11_1: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, extra = BootSectorGuest(), counting(PER_DEVICE)
    with Qemu(peer_11_1, "pc-i440fx-10.0", guest=guest, extra=extra) as source:
        source.wait_serial("ABC")
        source.set_capabilities(*SWITCHOVER_ACK)
        with arriving(tmp_path / "guest", None, monkeypatch) as arrival:
            source.migrate(arrival.uri)
            assert source.wait_error() == UNDERFLOW
            wait_until(lambda: arrival.warnings, "the warning")
            source.execute("migrate_cancel")
            error = arrival.error()
        (warning,) = arrival.warnings
        for text in (warning, str(error)):
            assert f"if its error is '{UNDERFLOW}'" in text
            assert "it counts per device" in text
            assert "--switchover-ack-mode per-device here" in text
        source.wait_status("cancelled")
        receive(source, tmp_path / "guest", SWITCHOVER_ACK, "--switchover-ack-mode", "per-device")


def test_ack_too_many_keeps_a_source_that_waits_active(peer_11_1: Peer, tmp_path: Path) -> None:
    options = (*with_capabilities(SWITCHOVER_ACK), "--switchover-ack-mode", "legacy")
    file = tmp_path / "guest"
    with (
        Qemu(peer_11_1, "pc-i440fx-11.1", guest=BootSectorGuest()) as source,
        Switchover("receive", "tcp:127.0.0.1:0", "--output", file, *options) as command,
    ):
        source.wait_serial("ABC")
        with start(
            *("migrate", "--qmp", str(source.qmp_path), *with_capabilities(SWITCHOVER_ACK)),
            *("--json", command.wait_uri()),
        ) as driver:
            said = driver.read_line()
            while UNDERFLOW not in said:
                said = driver.read_line()
            assert said.startswith("the source is ")
            goes_on(source)
            info = source.query("query-migrate")
            assert (info["status"], info["error-desc"]) == ("active", UNDERFLOW)
            driver.process.send_signal(signal.SIGINT)
            done = driver.wait()
        outcome = command.wait()
        source.wait_run_state("running")
        goes_on(source)
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["status"] == "cancelled"
    for text in (said, found["error"], done.error):
        assert f"{UNDERFLOW}; the source counts the ACKs per device" in text
        assert "-global migration.switchover-ack-legacy=on" in text
        assert "--switchover-ack-mode" in text
    assert outcome.exit_code == 1
    assert "the source left before the guest was whole" in outcome.report["error"]
    assert "use --switchover-ack-mode per-device here" in outcome.report["error"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("capabilities", "paused"), [(RETURN_PATH, False), (SWITCHOVER_ACK, True)], ids=["off", "-S"]
)
def test_ack_too_many_fails_a_source_that_does_not_wait(
    peer_11_1: Peer, capabilities: tuple[str, ...], paused: bool, tmp_path: Path
) -> None:
    options = (*with_capabilities(SWITCHOVER_ACK), "--switchover-ack-mode", "legacy")
    file = tmp_path / "guest"
    with (
        Qemu(peer_11_1, "pc-i440fx-11.1", guest=BootSectorGuest(), paused=paused) as source,
        Switchover("receive", "tcp:127.0.0.1:0", "--output", file, *options) as command,
    ):
        if not paused:
            source.wait_serial("ABC")
        with start(
            *("migrate", "--qmp", str(source.qmp_path), *with_capabilities(capabilities)),
            *("--json", command.wait_uri()),
        ) as driver:
            done = driver.wait()
        outcome = command.wait()
        info = source.query("query-migrate")
        assert (info["status"], info["error-desc"]) == ("failed", UNDERFLOW)
        if paused:
            assert source.run_state() == "prelaunch"
        else:
            goes_on(source)
    assert done.exit_code == 1
    assert done.error.startswith(f"{UNDERFLOW}; the source counts the ACKs per device")
    assert outcome.exit_code == 1
    assert "the source left before it was told that its guest is here" in outcome.report["error"]
    assert "use --switchover-ack-mode per-device here" in outcome.report["error"]
    assert list(tmp_path.iterdir()) == []


def test_our_source_waits_for_an_ack_that_nobody_sends(
    peer_11_1: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ack_wait, "HINT_NS", 100 * MS_NS)
    with leaving(peer_11_1, LEGACY) as move:
        wait_until(lambda: move.progress.hint, "the hint")
        assert "counts per device and has nothing to acknowledge" in str(move.progress.hint)
        assert move.machine.is_running
        move.departure.engine.cancel()
        assert isinstance(move.departure.error(), MigrationCancelled)
        assert move.machine.is_running
        assert not move.has_ack


@pytest.mark.parametrize(
    ("peer_name", "extra"),
    [("peer_10_0", ()), ("peer_11_1", counting(LEGACY))],
    ids=["10.0", "11.1 told otherwise"],
)
def test_our_source_gets_an_ack_that_no_device_asked_for(
    peer_name: str, extra: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    with leaving(request.getfixturevalue(peer_name), PER_DEVICE, *extra) as move:
        error = move.departure.error()
        assert move.machine.is_running
    assert isinstance(error, PeerError) and not error.after_switchover
    assert str(error).startswith(f"{UNDERFLOW}: an ACK came that no device asked for")
    assert "a destination that counts in legacy mode" in str(error)
