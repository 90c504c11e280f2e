"""Guests with VFIO devices between the two engines: what goes over, who waits, who goes on."""

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import pytest
from tests.engine.live import (
    RETURN_PATH,
    SWITCHOVER_ACK,
    Arrival,
    Departure,
    Played,
    TinyGuest,
    assert_who_runs,
    make_machine,
    pair,
    wait_for_ticks,
)
from tests.engine.peer import ACK, encode_ping, joined, pong, shut
from tests.waiting import wait_until

from switchover.channel.base import Buffer
from switchover.channel.connection import Connection
from switchover.engine import ack_wait, incoming, live_vfio, precopy
from switchover.engine.precopy import PrecopySource
from switchover.engine.progress import Progress
from switchover.errors import (
    ChannelError,
    DeviceError,
    GuestError,
    MigrationCancelled,
    MigrationError,
    PeerError,
    StreamError,
    UnsupportedStream,
)
from switchover.model.capability import Capability
from switchover.model.parameter import AckTimeoutPolicy, Parameters
from switchover.model.status import MigrationStatus
from switchover.model.switchover import SwitchoverAckMode
from switchover.model.vfio import PciConfig, VfioState
from switchover.protocol.grammar import StreamState
from switchover.vfio.device import Ready
from switchover.vfio.migration import VfioMigration
from switchover.vfio.options import Failure, SimOptions, Step
from switchover.vfio.records import PAYLOAD_BYTES
from switchover.vfio.sim import VfioSim
from switchover.wire.cursor import u32, u64
from switchover.wire.return_path import X_REPORT_PING
from switchover.wire.vfio import VfioParser, VfioTag
from switchover.worker import Worker

S = VfioState
LEGACY, PER_DEVICE = SwitchoverAckMode.LEGACY, SwitchoverAckMode.PER_DEVICE
MODES = [LEGACY, PER_DEVICE]
REPORTS = SWITCHOVER_ACK | {Capability.X_LOAD_REPORT}
PAUSING = SWITCHOVER_ACK | {Capability.PAUSE_BEFORE_SWITCHOVER}

SURE = Parameters(max_bandwidth=0, avail_switchover_bandwidth=1 << 40)
"""The line is known to be fast: nothing but the ACK is waited for."""
STATE_BYTES, INITIAL_BYTES = 3 * 4096 + 5, 4096 + 3
MS_NS = 1_000_000


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits looks often."""
    monkeypatch.setattr(precopy, "IDLE_NS", MS_NS)


# Devices


class Held(VfioSim):
    """One that is ready when the test says so."""

    def __init__(self, options: SimOptions, *, is_empty: bool = False) -> None:
        super().__init__(options, is_empty=is_empty)
        self.asked: list[Ready] = []

    def when_ready(self, ready: Ready) -> None:
        self.asked.append(ready)

    def release(self) -> None:
        """Is ready, as soon as it was asked."""
        wait_until(lambda: self.asked, "the mark")
        self.asked.pop(0)()


class Blocked(VfioSim):
    """One that takes nothing until the test says so."""

    def __init__(self, options: SimOptions, *, is_empty: bool = False) -> None:
        super().__init__(options, is_empty=is_empty)
        self.entered, self.go_on = threading.Event(), threading.Event()

    def write(self, data: memoryview) -> None:
        self.entered.set()
        assert self.go_on.wait(60)
        super().write(data)


class Endless(VfioSim):
    """One that cannot be stopped once it has been written."""

    def set_state(self, state: VfioState) -> None:
        if state == S.STOP and self.state == S.RESUMING:
            raise DeviceError(self.options.id, "go from RESUMING to STOP", errno.EIO)
        super().set_state(state)


def options(
    name: str = "nic",
    *,
    state_bytes: int = STATE_BYTES,
    initial: int = INITIAL_BYTES,
    reinit_ns: tuple[int, ...] = (),
    has_precopy: bool = True,
    has_p2p: bool = True,
    failing: Step | None = None,
    never_acks: bool = False,
) -> SimOptions:
    return SimOptions(
        name,
        state_bytes,
        initial,
        allocate_ns=0,
        reinit_ns=reinit_ns,
        has_precopy=has_precopy,
        has_p2p=has_p2p,
        failure=None if failing is None else Failure(failing, errno.EIO),
        never_acks=never_acks,
    )


def sources(*names: str) -> list[VfioSim]:
    return [VfioSim(options(name)) for name in names or ["nic"]]


def held(*names: str) -> list[Held]:
    return [Held(options(name), is_empty=True) for name in names or ["nic"]]


def empty(*names: str) -> list[VfioSim]:
    return [VfioSim(options(name), is_empty=True) for name in names or ["nic"]]


def guest(sims: Sequence[VfioSim], *, seed: int = 0) -> TinyGuest:
    devices = [VfioMigration(sim.options.id, sim) for sim in sims]
    return TinyGuest(seed, live_devices=devices, blocks={"low": 2})


class Invented:
    """A clock that goes on when the test says so."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


# A move


class Moving:
    """A guest that runs and is on its way.

    Args:
        source: The guest.
        destination: Where it is going.
        ends: The two ends of the connection.
        capabilities: The source's.
        there: The destination's.
        mode: The source's.
        mode_there: The destination's.
        parameters: The source's.
    """

    def __init__(
        self,
        source: TinyGuest,
        destination: TinyGuest,
        ends: tuple[Connection, Connection],
        capabilities: frozenset[Capability],
        there: frozenset[Capability],
        mode: SwitchoverAckMode,
        mode_there: SwitchoverAckMode,
        parameters: Parameters,
    ) -> None:
        self.source, self.destination = source, destination
        self.to_destination, self.from_source = ends
        self.arrival = Arrival(destination, self.from_source, there, ack_mode=mode_there)
        self.departure = Departure(
            source, self.to_destination, capabilities, parameters, ack_mode=mode
        )
        self.sent = self.departure.progress

    def wait(self) -> None:
        """Nothing but the ACK is missing."""
        wait_until(lambda: self.sent.waiting_ns is not None, "the wait")

    def assert_waits(self) -> None:
        """However often the source looks, it does not stop its guest."""
        looks = self.sent.dirty_sync_count
        wait_until(lambda: self.sent.dirty_sync_count >= looks + 3, "three looks")
        assert self.source.is_running and not self.destination.was_started
        assert self.sent.status == MigrationStatus.ACTIVE

    def finish(self) -> None:
        """All is well."""
        self.departure.finish()
        self.arrival.finish()
        assert self.sent.status == MigrationStatus.COMPLETED
        assert_same_devices(self.source, self.destination)

    def fails_here(self) -> MigrationError:
        """The source fails, and what it says; its guest goes on."""
        error = self.departure.error()
        assert isinstance(self.arrival.error(), PeerError | ChannelError)
        return self._failed(error, error)

    def fails_there(self, *, may_be_late: bool = False) -> MigrationError:
        """The destination fails, and what it says; the source's guest goes on.

        Args:
            may_be_late: Whether the source may have written everything: then it cannot know.
        """
        error = self.arrival.error()
        self.from_source.shutdown()
        sent = self.departure.error()
        if not may_be_late:
            assert isinstance(sent, PeerError) and not sent.after_switchover
        return self._failed(error, sent)

    def _failed(self, error: BaseException | None, sent: BaseException | None) -> MigrationError:
        assert isinstance(error, MigrationError) and isinstance(sent, MigrationError)
        assert "\n" not in str(error) and not str(error).endswith(".")
        assert_who_runs(self.source, self.destination, sent)
        assert not self.destination.was_started
        if not (isinstance(sent, PeerError) and sent.after_switchover):
            assert_runs_on(self.source)
        return error


def sims(of: TinyGuest) -> list[VfioSim]:
    found = []
    for device in of.live_devices:
        assert isinstance(device, VfioMigration) and isinstance(device.device, VfioSim)
        found.append(device.device)
    return found


def assert_same_devices(source: TinyGuest, destination: TinyGuest) -> None:
    for ours, theirs in zip(sims(source), sims(destination), strict=True):
        assert ours.digest() == theirs.digest()
        assert ours.config == theirs.config


def assert_runs_on(source: TinyGuest) -> None:
    """A guest that is at home, and nothing is read of it."""
    assert source.is_running
    assert {sim.state for sim in sims(source)} <= {S.RUNNING}


@contextmanager
def moving(
    source: Sequence[VfioSim] | TinyGuest,
    destination: Sequence[VfioSim] | TinyGuest,
    *,
    capabilities: frozenset[Capability] = SWITCHOVER_ACK,
    there: frozenset[Capability] | None = None,
    mode: SwitchoverAckMode = LEGACY,
    mode_there: SwitchoverAckMode | None = None,
    parameters: Parameters = SURE,
    is_running: bool = True,
) -> Iterator[Moving]:
    ours = source if isinstance(source, TinyGuest) else guest(source, seed=1)
    theirs = destination if isinstance(destination, TinyGuest) else guest(destination)
    if is_running:
        ours.cont()
    with pair() as ends:
        yield Moving(
            ours,
            theirs,
            ends,
            capabilities,
            capabilities if there is None else there,
            mode,
            mode_there or mode,
            parameters,
        )


@contextmanager
def played(
    source: Sequence[VfioSim],
    *,
    mode: SwitchoverAckMode = LEGACY,
    capabilities: frozenset[Capability] = SWITCHOVER_ACK,
    parameters: Parameters = SURE,
) -> Iterator[tuple[TinyGuest, Departure, Played, Connection]]:
    """A guest that is sent to a destination that the test plays."""
    ours = guest(source, seed=1)
    ours.cont()
    with pair() as (to_destination, from_source):
        parsers = [VfioParser(device.idstr) for device in ours.live_devices]
        peer = Played(from_source, parsers=parsers)
        yield (
            ours,
            Departure(ours, to_destination, capabilities, parameters, ack_mode=mode),
            (peer),
            from_source,
        )
        peer.join()


def waits(departure: Departure) -> None:
    wait_until(lambda: departure.progress.waiting_ns is not None, "the wait")


# What goes over


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("capabilities", [RETURN_PATH, SWITCHOVER_ACK], ids=["plain", "ack"])
@pytest.mark.parametrize("names", [("nic",), ("nic", "gpu")], ids=["one", "two"])
def test_devices_move(
    names: tuple[str, ...], capabilities: frozenset[Capability], mode: SwitchoverAckMode
) -> None:
    with moving(sources(*names), empty(*names), capabilities=capabilities, mode=mode) as move:
        move.finish()
    assert_who_runs(move.source, move.destination, None)
    assert {sim.state for sim in sims(move.source)} == {S.STOP}
    assert {sim.state for sim in sims(move.destination)} == {S.RUNNING}
    ack = move.sent.report().switchover_ack
    assert (ack.received_ms is not None) == (Capability.SWITCHOVER_ACK in capabilities)
    devices = [device.name for device in move.arrival.progress.report().devices]
    assert devices == [*(f"{name}/vfio" for name in names), "counter", "globalstate"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("has_precopy", [False, True], ids=["no-precopy", "precopy"])
@pytest.mark.parametrize("has_p2p", [False, True], ids=["no-p2p", "p2p"])
@pytest.mark.parametrize("is_running", [False, True], ids=["stopped", "running"])
def test_devices_of_every_kind_move(
    mode: SwitchoverAckMode, has_precopy: bool, has_p2p: bool, is_running: bool
) -> None:
    form = options(has_precopy=has_precopy, has_p2p=has_p2p)
    source = guest([VfioSim(form)], seed=1)
    source.stop()
    with moving(source, [VfioSim(form, is_empty=True)], mode=mode, is_running=is_running) as move:
        move.finish()
    assert not move.source.is_running
    assert move.destination.is_running == is_running
    assert sims(move.destination)[0].state == (S.RUNNING if is_running else S.STOP)


def test_devices_of_many_reads_move() -> None:
    size = 2 * PAYLOAD_BYTES + 4097
    forms = [
        options("initial", state_bytes=size, initial=size),
        options("later", state_bytes=size, initial=0),
        options("nothing", state_bytes=0, initial=0),
    ]
    with moving(
        [VfioSim(form) for form in forms], [VfioSim(form, is_empty=True) for form in forms]
    ) as move:
        move.finish()


def test_devices_move_on_and_back() -> None:
    here, there, far = guest(sources(), seed=1), guest(empty()), guest(empty())
    for source, destination in ((here, there), (there, far), (far, here)):
        source_sim = sims(source)[0]
        source_sim.memory[:7] += 1
        with moving(source, destination) as move:
            move.finish()
    assert here.is_running and not there.is_running and not far.is_running


def test_device_of_the_built_in_machine_moves() -> None:
    ours, theirs = VfioMigration("nic", sources()[0]), VfioMigration("nic", empty()[0])
    source, destination = (
        make_machine(2000, devices=[ours]),  # type: ignore[list-item]
        make_machine(devices=[theirs]),  # type: ignore[list-item]
    )
    source.cont()
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source, SWITCHOVER_ACK)
        Departure(source, to_destination, SWITCHOVER_ACK, SURE).finish()
        arrival.finish()
    wait_for_ticks(destination, 1)
    assert [ours.device.state, theirs.device.state] == [S.STOP, S.RUNNING]
    destination.stop()
    assert [theirs.device.state] == [S.STOP]
    destination.check()


# What is on the wire


class Tap(Connection):
    """Keeps what was written.

    Args:
        sock: The socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, "tap")
        self.stream = bytearray()

    def send(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self.stream += buffer
        super().send(buffers)


def stream_of(
    source: Sequence[VfioSim],
    destination: Sequence[VfioSim],
    capabilities: frozenset[Capability] = SWITCHOVER_ACK,
    mode: SwitchoverAckMode = LEGACY,
) -> bytes:
    """All that a source writes that has no RAM."""
    ours = TinyGuest(
        live_devices=[VfioMigration(sim.options.id, sim) for sim in source], devices=[], blocks={}
    )
    theirs = TinyGuest(
        live_devices=[VfioMigration(sim.options.id, sim) for sim in destination],
        devices=[],
        blocks={},
    )
    ours.cont()
    left, right = socket.socketpair()
    with Tap(left) as channel, Connection(right, "from src") as from_source:
        arrival = Arrival(theirs, from_source, capabilities, ack_mode=mode)
        Departure(ours, channel, capabilities, SURE, ack_mode=mode).finish()
        arrival.finish()
        assert_same_devices(ours, theirs)
        return bytes(channel.stream)


def tag(number: int) -> bytes:
    return bytes.fromhex(f"ffffffff ef1000{number:02x}")


END, CONFIG, SETUP, DATA, SENT = map(tag, range(1, 6))


def data(body: bytes) -> bytes:
    return DATA + len(body).to_bytes(8, "big") + body


def record(kind: int, offset: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack("<QQQ", kind, offset, length) + body


def vfio_sections(section_id: int, bodies: Sequence[bytes], last: bytes) -> bytes:
    """START, PARTs and END, as docs/wire/vfio.md has them."""
    number = section_id.to_bytes(4, "big")
    footer = b"\x7e" + number
    start = b"\x01" + number + b"\x08nic/vfio" + u32(0) + u32(1) + SETUP + END + footer
    parts = b"".join(b"\x02" + number + body + footer for body in bodies)
    ram_end = b"\x03" + u32(1) + bytes.fromhex("00000000 00000010") + b"\x7e" + u32(1)
    return start + parts + ram_end + b"\x03" + number + last + footer


@pytest.mark.parametrize("mode", MODES)
def test_every_byte_of_a_device(mode: SwitchoverAckMode) -> None:
    form = options(state_bytes=5, initial=3)
    source, destination = VfioSim(form), Held(form, is_empty=True)
    state = bytes(source.memory)
    release = Worker("test/release", destination.release)
    stream = stream_of([source], [destination], mode=mode)
    release.join()
    bodies = [
        data(record(1, 5, 3)) + END,
        data(record(2, 0, 3, state[:3])) + SENT,
    ]
    last = data(record(3, 3, 2, state[3:])) + END
    assert vfio_sections(2, bodies, last) in stream
    config = CONFIG + u32(2) + source.config.space + bytes(16) + END
    number = u32(2)
    full = b"\x04" + number + b"\x08nic/vfio" + u32(0) + u32(1) + config + b"\x7e" + number
    assert full in stream
    assert stream.count(SENT) == 1


def test_every_byte_of_a_device_without_the_capability() -> None:
    form = options(state_bytes=5, initial=3)
    source = VfioSim(form)
    state = bytes(source.memory)
    stream = stream_of([source], [VfioSim(form, is_empty=True)], RETURN_PATH)
    last = (
        data(record(1, 5, 3))
        + data(record(2, 0, 3, state[:3]))
        + data(record(3, 3, 2, state[3:]))
        + END
    )
    # Nobody is waited for, and so little is left that it need not go before the stop.
    assert vfio_sections(2, [], last) in stream
    assert SENT not in stream


def test_configuration_with_interrupts_travels() -> None:
    form = options()
    source, destination = VfioSim(form), VfioSim(form, is_empty=True)
    source.config = PciConfig(bytes(range(256)) * 16, (0, 1, 0, 1), b"m" * 33)
    destination.config = PciConfig(bytes(4096), msix=bytes(33))
    with moving([source], [destination]) as move:
        move.finish()
    assert destination.config == source.config


# New initial data


def reinit_pair() -> tuple[Invented, VfioSim, Held]:
    """A device whose initial data is new again when the test lets time go on."""
    clock = Invented()
    source = VfioSim(options(reinit_ns=(1000, 2000)), clock=clock)
    return clock, source, held()[0]


def test_new_initial_data_needs_an_ack_of_its_own() -> None:
    clock, source, destination = reinit_pair()
    with moving([source], [destination], mode=PER_DEVICE) as move:
        wait_until(lambda: len(destination.asked) == 1, "the first mark")
        clock.now_ns = 1000
        wait_until(lambda: len(destination.asked) == 2, "the second mark")
        destination.release()
        wait_until(lambda: move.sent.ack_received_ns, "the first ACK")
        move.assert_waits()
        assert move.sent.waiting_for == ("nic/vfio",)
        destination.release()
        move.finish()


def test_new_initial_data_after_the_ack_is_waited_for_too() -> None:
    """As long as something else keeps the source from stopping its machine."""
    clock, source, destination = reinit_pair()
    slow = held("slow")[0]
    with moving([source, *sources("slow")], [destination, slow], mode=PER_DEVICE) as move:
        destination.release()
        wait_until(lambda: move.sent.ack_received_ns, "the first ACK")
        clock.now_ns = 1000
        wait_until(lambda: destination.asked, "the second mark")
        slow.release()
        move.assert_waits()
        destination.release()
        move.finish()


def test_new_initial_data_in_legacy_mode_is_sent_and_not_waited_for() -> None:
    clock, source, destination = reinit_pair()
    with moving([source], [destination], mode=LEGACY) as move:
        wait_until(lambda: destination.asked, "the mark")
        before = move.sent.transferred_bytes
        clock.now_ns = 1000
        wait_until(
            lambda: move.sent.transferred_bytes > before + INITIAL_BYTES, "the new initial data"
        )
        move.assert_waits()
        assert len(destination.asked) == 1
        destination.release()
        move.finish()


class ReinitAtStop(VfioSim):
    """Its initial data is new again at the last moment at which it can be asked."""

    def __init__(self) -> None:
        self.clock = Invented()
        super().__init__(options(reinit_ns=(1000,)), clock=self.clock)

    def set_state(self, state: VfioState) -> None:
        if state == S.PRE_COPY_P2P:
            self.clock.now_ns = 1000
        super().set_state(state)


def test_new_initial_data_once_the_machine_is_stopped_is_too_late() -> None:
    with moving([ReinitAtStop()], empty(), mode=PER_DEVICE) as move:
        error = move.fails_here()
    assert isinstance(error, GuestError)
    assert str(error) == (
        "device 'nic/vfio' has new initial data, and the machine was stopped already: the "
        "destination would not be ready for it"
    )


def test_new_initial_data_once_the_machine_is_stopped_does_no_harm_in_legacy_mode() -> None:
    with moving([ReinitAtStop()], empty(), mode=LEGACY) as move:
        move.finish()


# Who asks for an ACK


def test_device_without_precopy_asks_for_none() -> None:
    forms = [options(has_precopy=False)]
    with moving(
        [VfioSim(form) for form in forms],
        [VfioSim(form, is_empty=True) for form in forms],
        mode=PER_DEVICE,
    ) as move:
        move.finish()
    assert move.sent.ack_received_ns is None
    assert move.sent.report().switchover_ack.waiting_ms is None
    assert move.arrival.progress.ack_sent_ns is None


def test_device_without_precopy_is_not_counted_in_legacy_mode() -> None:
    form = options("old", has_precopy=False)
    nic = held()[0]
    with moving([*sources(), VfioSim(form)], [nic, VfioSim(form, is_empty=True)]) as move:
        move.wait()
        move.assert_waits()
        nic.release()
        move.finish()
    assert move.sent.ack_received_ns is not None


def test_capability_on_neither_side_waits_for_nobody() -> None:
    form = options(never_acks=True)
    with moving([VfioSim(form)], [VfioSim(form, is_empty=True)], capabilities=RETURN_PATH) as move:
        move.finish()


@pytest.mark.parametrize("mode", MODES)
def test_capability_on_the_destination_alone_waits_for_nobody(mode: SwitchoverAckMode) -> None:
    with moving(
        sources(), held(), capabilities=RETURN_PATH, there=SWITCHOVER_ACK, mode=mode
    ) as move:
        move.finish()
    assert move.arrival.progress.ack_sent_ns is None


# What a destination refuses


@pytest.mark.parametrize("mode", MODES)
def test_mark_that_a_destination_without_the_capability_gets(mode: SwitchoverAckMode) -> None:
    with moving(sources(), empty(), there=RETURN_PATH, mode=mode) as move:
        error = move.fails_there()
    assert isinstance(error, StreamError)
    assert "nic/vfio: Received INIT_DATA_SENT but switchover ack is not used" in str(error)


def test_mark_of_a_device_that_has_no_precopy_here() -> None:
    form = options(has_precopy=False)
    destination = [VfioSim(form, is_empty=True), *held("gpu")]
    with moving(sources("nic", "gpu"), destination) as move:
        error = move.fails_there()
    assert "nic/vfio: Received INIT_DATA_SENT but switchover ack is not used" in str(error)


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        (u64(0x5EED), StreamError, "nic/vfio: Unknown tag 0x5eed"),
        (SETUP + DATA, StreamError, "nic/vfio: SETUP STATE: EOS not found 0xffffffffef100004"),
        (CONFIG, StreamError, "nic/vfio: the configuration stands in a START section"),
        (
            u64(VfioTag.DEV_CONFIG_LOAD_READY),
            UnsupportedStream,
            "nic/vfio: device state over multifd",
        ),
        (END + END, StreamError, "section"),
        (SETUP + END + b"more", StreamError, "section"),
    ],
    ids=["unknown", "setup", "config", "multifd", "twice", "tail"],
)
def test_body_that_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, body: bytes, kind: type[MigrationError], sentence: str
) -> None:
    monkeypatch.setattr(live_vfio, "SETUP_BODY", body)
    with moving(sources(), empty()) as move:
        error = move.fails_there()
    assert isinstance(error, kind)
    assert sentence in str(error)


def test_tail_behind_the_end_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_vfio, "END_OF_STATE", END + END)
    with moving(sources(), empty(), capabilities=RETURN_PATH) as move:
        error = move.fails_there(may_be_late=True)
    assert isinstance(error, StreamError)


def test_configuration_of_another_size() -> None:
    destination = empty()
    destination[0].config = PciConfig(bytes(4096))
    with moving(sources(), destination) as move:
        error = move.fails_there(may_be_late=True)
    assert isinstance(error, StreamError)
    assert "the configuration of 'nic/vfio': expected 4132 bytes" in str(error)
    assert "got 292" in str(error)


def test_device_of_another_size() -> None:
    form = options(state_bytes=STATE_BYTES + 1)
    with moving(sources(), [VfioSim(form, is_empty=True)]) as move:
        error = move.fails_there()
    assert isinstance(error, DeviceError)
    assert error.errno == errno.EINVAL


def test_device_that_the_other_side_does_not_have() -> None:
    with moving(sources("nic", "gpu"), empty()) as move:
        error = move.fails_there()
    assert "live section 'gpu/vfio' is not supported" in str(error)


def test_device_that_the_source_does_not_have() -> None:
    with moving(sources(), empty("nic", "gpu"), capabilities=RETURN_PATH) as move:
        error = move.fails_there(may_be_late=True)
    assert "the stream lacks 'gpu/vfio'" in str(error)


# While the ACK is awaited


@pytest.mark.parametrize("mode", MODES)
def test_source_waits_for_the_device(mode: SwitchoverAckMode) -> None:
    nic = held()[0]
    with moving(sources(), [nic], mode=mode) as move:
        move.wait()
        wait_until(lambda: nic.asked, "the mark")
        move.assert_waits()
        assert move.sent.waiting_for == move.arrival.progress.waiting_for == ("nic/vfio",)
        nic.release()
        move.finish()
    assert_who_runs(move.source, move.destination, None)
    ack = move.sent.report().switchover_ack
    assert ack.waiting_ms is not None and ack.waiting_ms > 0 and not ack.timed_out


@pytest.mark.parametrize("mode", MODES)
def test_destination_that_allocates_while_it_takes_the_data(mode: SwitchoverAckMode) -> None:
    """It does not even read; the source waits all the same, and the guest runs."""
    nic = Blocked(options(), is_empty=True)
    with moving(sources(), [nic], mode=mode) as move:
        assert nic.entered.wait(60)
        move.wait()
        move.assert_waits()
        nic.go_on.set()
        move.finish()


@pytest.mark.parametrize("mode", MODES)
def test_machine_that_is_stopped_while_the_ack_is_awaited(mode: SwitchoverAckMode) -> None:
    nic = held()[0]
    with moving(sources(), [nic], mode=mode) as move:
        move.wait()
        move.source.stop()
        move.finish()
        wait_until(lambda: nic.asked, "the mark")
    nic.release()  # Too late, and no harm.
    assert not move.source.is_running and not move.destination.was_started
    assert sims(move.source)[0].state == nic.state == S.STOP


def test_early_ack_counts_in_legacy_mode() -> None:
    with pair() as (to_destination, from_source):
        from_source.send([ACK])
        source = guest(sources(), seed=1)
        source.cont()
        peer = Played(from_source, parsers=[VfioParser("nic/vfio")])
        departure = Departure(source, to_destination, SWITCHOVER_ACK, SURE)
        wait_until(lambda: peer.state == StreamState.END, "the end of the stream")
        peer.say(shut())
        departure.finish()
        peer.join()


def test_early_ack_is_one_too_many_per_device() -> None:
    with pair() as (to_destination, from_source):
        from_source.send([ACK, ACK])
        source = guest(sources(), seed=1)
        source.cont()
        peer = Played(from_source, parsers=[VfioParser("nic/vfio")])
        departure = Departure(source, to_destination, SWITCHOVER_ACK, SURE, ack_mode=PER_DEVICE)
        error = departure.error()
        peer.join()
    assert "Switchover ack pending num underflowed" in str(error)
    assert_runs_on(source)


@pytest.mark.parametrize("mode", MODES)
def test_cancel_while_the_ack_is_awaited(mode: SwitchoverAckMode) -> None:
    with moving(sources("nic", "gpu"), held("nic", "gpu"), mode=mode) as move:
        move.wait()
        move.departure.engine.cancel()
        error = move.fails_here()
    assert isinstance(error, MigrationCancelled)
    assert move.sent.report().downtime_ms is None


@pytest.mark.parametrize("mode", MODES)
def test_connection_that_is_lost_while_the_ack_is_awaited(mode: SwitchoverAckMode) -> None:
    with moving(sources(), held(), mode=mode) as move:
        move.wait()
        move.from_source.shutdown()
        error = move.fails_here()
    assert isinstance(error, PeerError) and not error.after_switchover
    assert "the destination did not get the whole guest" in str(error)


def test_destination_that_says_that_it_failed_while_the_ack_is_awaited() -> None:
    with played(sources(), parameters=Parameters(0, avail_switchover_bandwidth=1 << 40)) as (
        source,
        departure,
        peer,
        _,
    ):
        waits(departure)
        peer.say(shut(1))
        error = departure.error()
    assert isinstance(error, PeerError) and not error.after_switchover
    assert "the destination says that it failed (SHUT 1)" in str(error)
    assert_runs_on(source)


def test_destination_that_says_that_it_is_done_while_the_ack_is_awaited() -> None:
    with played(sources()) as (source, departure, peer, _):
        waits(departure)
        peer.say(shut())
        error = departure.error()
    assert isinstance(error, PeerError) and not error.after_switchover
    assert "SHUT before it had everything" in str(error)
    assert_runs_on(source)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("late", [0, 1])
def test_two_devices_one_of_them_late(mode: SwitchoverAckMode, late: int) -> None:
    both = held("nic", "gpu")
    with moving(sources("nic", "gpu"), both, mode=mode) as move:
        wait_until(lambda: all(one.asked for one in both), "both marks")
        both[1 - late].release()
        move.wait()
        if mode == PER_DEVICE:
            wait_until(lambda: move.sent.ack_received_ns, "the first ACK")
            move.assert_waits()
            # An ACK says no name: they are taken to come in order.
            assert move.sent.waiting_for == ("gpu/vfio",)
        else:
            move.assert_waits()
            assert move.arrival.progress.ack_sent_ns is None
            assert move.sent.waiting_for == ("nic/vfio", "gpu/vfio")
        left = (f"{both[late].options.id}/vfio",)
        wait_until(lambda: move.arrival.progress.waiting_for == left, "the one that is late")
        both[late].release()
        move.finish()


def test_modes_that_differ_with_one_device_of_precopy_do_no_harm() -> None:
    for mode, mode_there in ((LEGACY, PER_DEVICE), (PER_DEVICE, LEGACY)):
        with moving(sources(), empty(), mode=mode, mode_there=mode_there) as move:
            move.finish()


def test_one_ack_for_two_devices_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ack_wait, "HINT_NS", 1)
    with moving(
        sources("nic", "gpu"), empty("nic", "gpu"), mode=PER_DEVICE, mode_there=LEGACY
    ) as move:
        wait_until(lambda: move.sent.ack_received_ns, "the ACK")
        wait_until(lambda: move.sent.hint, "the hint")
        move.assert_waits()
        assert "sends one ACK for all devices" in str(move.sent.hint)
        move.departure.engine.cancel()
        move.fails_here()


def test_ack_that_nobody_asked_for_per_device() -> None:
    form = options(has_precopy=False)
    blocked = [VfioSim(form), *sources("gpu")]
    with moving(
        blocked,
        [VfioSim(form, is_empty=True), *held("gpu")],
        mode=PER_DEVICE,
    ) as move:
        move.wait()
        move.from_source.send([ACK, ACK])
        error = move.fails_here()
    assert isinstance(error, PeerError) and not error.after_switchover
    assert "Switchover ack pending num underflowed" in str(error)
    assert "the destination did not get the whole guest" in str(error)


# Devices that refuse


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("names", [("nic",), ("fine", "nic")], ids=["alone", "second"])
@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (Step.PRE_COPY, "go from RUNNING to PRE_COPY"),
        (Step.PRE_COPY_P2P, "go from PRE_COPY to PRE_COPY_P2P"),
        (Step.STOP_COPY, "go from PRE_COPY_P2P to STOP_COPY"),
        (Step.READ, "be read in PRE_COPY"),
        (Step.PRECOPY_INFO, "tell what there is to read in PRE_COPY"),
    ],
)
def test_device_that_refuses_at_the_source(
    names: tuple[str, ...], step: Step, sentence: str, mode: SwitchoverAckMode
) -> None:
    ours = [VfioSim(options(name, failing=step if name == "nic" else None)) for name in names]
    with moving(ours, empty(*names), mode=mode) as move:
        error = move.fails_here()
    assert isinstance(error, DeviceError)
    assert str(error) == f"device 'nic' cannot {sentence}: Input/output error"


class ReadsNoMore(VfioSim):
    """It cannot be read once it is stopped."""

    def read_into(self, buffer: memoryview) -> int | None:
        if self.state == S.STOP_COPY:
            raise DeviceError(self.options.id, "be read in STOP_COPY", errno.EIO)
        return super().read_into(buffer)


def test_device_that_cannot_be_read_once_it_is_stopped() -> None:
    with moving([ReadsNoMore(options())], empty()) as move:
        error = move.fails_here()
    assert isinstance(error, DeviceError)
    assert move.sent.report().downtime_ms is not None


def test_device_that_refuses_to_stop_when_it_is_at_the_destination() -> None:
    """It stands still in either state, and nobody needs it any more."""
    ours = VfioSim(options(failing=Step.STOP))
    with moving([ours], empty()) as move:
        move.finish()
    assert ours.state == S.STOP_COPY
    assert_who_runs(move.source, move.destination, None)


def test_device_that_cannot_tell_its_size_is_taken_for_large() -> None:
    ours = VfioSim(options(failing=Step.DATA_SIZE))
    limit = Parameters(0, avail_switchover_bandwidth=1 << 30)
    with moving([ours], empty(), parameters=limit) as move:
        wait_until(lambda: move.sent.hint, "the hint")
        assert "102400 MiB of device state" in str(move.sent.hint)
        move.assert_waits()
        move.departure.engine.set_parameters(SURE)
        move.finish()


@pytest.mark.parametrize("step", [Step.RESUMING, Step.STOP])
def test_device_that_refuses_before_anything_came(step: Step) -> None:
    source = guest(sources(), seed=1)
    source.cont()
    destination = guest([*empty("fine"), VfioSim(options(failing=step), is_empty=True)])
    with pair() as (to_destination, from_source):
        with pytest.raises(DeviceError, match="Input/output error"):
            Arrival(destination, from_source, SWITCHOVER_ACK)
        from_source.shutdown()
        error = Departure(source, to_destination, SWITCHOVER_ACK, SURE).error()
    assert isinstance(error, PeerError) and not error.after_switchover
    assert_who_runs(source, destination, error)
    assert_runs_on(source)


@pytest.mark.parametrize("mode", MODES)
def test_device_that_refuses_its_data(mode: SwitchoverAckMode) -> None:
    theirs = VfioSim(options(failing=Step.WRITE), is_empty=True)
    with moving(sources(), [theirs], mode=mode) as move:
        error = move.fails_there()
    assert str(error) == "device 'nic' cannot be written in RESUMING: Input/output error"


@pytest.mark.parametrize("mode", MODES)
def test_device_that_refuses_when_it_has_everything(mode: SwitchoverAckMode) -> None:
    """The source wrote all of it, and has heard of no SHUT: it does not know who runs."""
    with moving(sources(), [Endless(options(), is_empty=True)], mode=mode) as move:
        error = move.arrival.error()
        move.from_source.shutdown()
        sent = move.departure.error()
    assert str(error) == "device 'nic' cannot go from RESUMING to STOP: Input/output error"
    assert isinstance(sent, PeerError)
    assert_who_runs(move.source, move.destination, sent)
    assert not move.destination.was_started


def test_device_that_cannot_run_at_the_destination_is_reset() -> None:
    theirs = VfioSim(options(failing=Step.RUNNING, has_p2p=False), is_empty=True)
    with moving(sources(), [theirs]) as move:
        move.finish()
    assert move.destination.is_running
    assert theirs.state == S.RUNNING


def test_device_that_cannot_run_on_after_a_cancel_is_reset() -> None:
    ours = VfioSim(options(failing=Step.RUNNING))
    with moving([ours], held()) as move:
        move.wait()
        move.departure.engine.cancel()
        assert isinstance(move.fails_here(), MigrationCancelled)


# Once more


@pytest.mark.parametrize("mode", MODES)
def test_migration_after_a_cancelled_one(mode: SwitchoverAckMode) -> None:
    ours = sources("nic", "gpu")
    with moving(ours, held("nic", "gpu"), mode=mode) as move:
        move.wait()
        move.departure.engine.cancel()
        assert isinstance(move.fails_here(), MigrationCancelled)
    source = move.source
    for sim in ours:
        sim.memory[::100] ^= 0xFF
    with moving(source, empty("nic", "gpu"), mode=mode) as again:
        again.finish()
    assert_who_runs(source, again.destination, None)


@pytest.mark.parametrize("mode", MODES)
def test_migration_into_a_destination_that_got_a_part(mode: SwitchoverAckMode) -> None:
    source, destination = guest(sources(), seed=1), guest(held())
    with moving(source, destination, mode=mode) as move:
        move.wait()
        move.departure.engine.cancel()
        assert isinstance(move.fails_here(), MigrationCancelled)
    nic = sims(destination)[0]
    assert isinstance(nic, Held)
    nic.asked.clear()
    assert nic.state == S.RESUMING
    with moving(source, destination, mode=mode) as again:
        nic.release()
        again.finish()
    assert_who_runs(source, destination, None)


def test_migration_after_one_that_failed_in_the_downtime() -> None:
    source = guest([*sources("fine"), ReadsNoMore(options())], seed=1)
    with moving(source, empty("fine", "nic")) as move:
        assert isinstance(move.fails_here(), DeviceError)
    cured = guest([sims(source)[0], VfioSim(options())], seed=1)
    with moving(cured, empty("fine", "nic")) as again:
        again.finish()


# The pause before the switchover


@pytest.mark.parametrize("mode", MODES)
def test_pause_before_the_switchover(mode: SwitchoverAckMode) -> None:
    with moving(sources(), empty(), capabilities=PAUSING, there=SWITCHOVER_ACK, mode=mode) as move:
        wait_until(lambda: move.sent.status == MigrationStatus.PRE_SWITCHOVER, "the pause")
        assert not move.source.is_running and not move.destination.is_running
        assert sims(move.source)[0].state == S.STOP_COPY
        move.departure.engine.continue_switchover()
        move.finish()
    assert_who_runs(move.source, move.destination, None)
    assert "pause" in [phase.name for phase in move.sent.report().phases]


def test_pause_is_behind_the_ack() -> None:
    nic = held()[0]
    with moving(sources(), [nic], capabilities=PAUSING, there=SWITCHOVER_ACK) as move:
        move.departure.engine.continue_switchover()  # Said before: there is no pause then.
        move.wait()
        move.assert_waits()
        nic.release()
        move.finish()


def test_cancel_in_the_pause() -> None:
    with moving(sources(), empty(), capabilities=PAUSING, there=SWITCHOVER_ACK) as move:
        wait_until(lambda: move.sent.status == MigrationStatus.PRE_SWITCHOVER, "the pause")
        move.departure.engine.cancel()
        assert isinstance(move.fails_here(), MigrationCancelled)
    with moving(move.source, empty()) as again:
        again.finish()


def test_connection_that_is_lost_in_the_pause() -> None:
    with moving(sources(), empty(), capabilities=PAUSING, there=SWITCHOVER_ACK) as move:
        wait_until(lambda: move.sent.status == MigrationStatus.PRE_SWITCHOVER, "the pause")
        move.from_source.shutdown()
        error = move.fails_here()
    assert isinstance(error, PeerError) and not error.after_switchover


class Nudge(threading.Event):
    """Holds the return path's thread behind its last word until that was looked at.

    Args:
        is_over: Whether somebody has drawn the conclusion.
    """

    def __init__(self, is_over: Callable[[], bool]) -> None:
        super().__init__()
        self.waits = 0
        self.was_missed = False
        self._is_over = is_over

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        return super().wait(timeout)

    def set(self) -> None:
        waits = self.waits
        super().set()
        if threading.current_thread().name == "mig/src/return":
            wait_until(lambda: self.waits > waits or self._is_over(), "the conclusion")
            self.was_missed = not self._is_over()


class Counting(Connection):
    """Counts how often it was shut down."""

    shutdowns = 0

    def shutdown(self) -> None:
        self.shutdowns += 1
        super().shutdown()


def test_loss_in_the_pause_is_seen_before_the_thread_that_saw_it_has_ended() -> None:
    source = guest(sources(), seed=1)
    source.cont()
    left, right = socket.socketpair()
    with Counting(left, "to dst") as channel, Connection(right, "from src") as from_source:
        peer = Played(from_source, parsers=[VfioParser("nic/vfio")])
        progress = Progress()
        capabilities = RETURN_PATH | {Capability.PAUSE_BEFORE_SWITCHOVER}
        engine = PrecopySource(source, channel, capabilities, SURE, progress)
        nudge = Nudge(lambda: channel.shutdowns > 1)
        engine._wake = nudge
        worker = Worker("test/src", engine.run)
        wait_until(lambda: progress.status == MigrationStatus.PRE_SWITCHOVER, "the pause")
        wait_until(lambda: nudge.waits, "the wait")
        from_source.shutdown()
        peer.join()
        wait_until(lambda: nudge.was_missed or worker.error is not None, "the conclusion")
        engine.cancel()
        worker.join()
    assert isinstance(worker.error, PeerError)
    assert_runs_on(source)


# How long it is waited for


@pytest.mark.parametrize("mode", MODES)
def test_patience_that_ends_gives_up(mode: SwitchoverAckMode) -> None:
    patience = Parameters(0, avail_switchover_bandwidth=1 << 40, switchover_ack_timeout_ms=5)
    with moving(sources("nic", "gpu"), held("nic", "gpu"), mode=mode, parameters=patience) as move:
        error = move.fails_here()
    assert isinstance(error, PeerError) and not error.after_switchover
    assert str(error).startswith(
        "no SWITCHOVER_ACK came in 5 ms (switchover-ack-timeout) for 'nic/vfio' and 'gpu/vfio': "
    )
    report = move.sent.report()
    assert report.downtime_ms is None and not report.switchover_ack.timed_out


@pytest.mark.parametrize("mode", MODES)
def test_patience_that_ends_goes_on_without(mode: SwitchoverAckMode) -> None:
    patience = Parameters(
        0,
        avail_switchover_bandwidth=1 << 40,
        switchover_ack_timeout_ms=5,
        switchover_ack_timeout_policy=AckTimeoutPolicy.PROCEED,
    )
    with moving(sources(), held(), mode=mode, parameters=patience) as move:
        move.finish()
    assert_who_runs(move.source, move.destination, None)
    assert move.sent.report().switchover_ack.timed_out
    assert move.arrival.progress.ack_sent_ns is None


def test_patience_can_be_changed_while_it_lasts() -> None:
    with moving(sources(), held()) as move:
        move.wait()
        move.assert_waits()
        move.departure.engine.set_parameters(
            Parameters(0, avail_switchover_bandwidth=1 << 40, switchover_ack_timeout_ms=1)
        )
        assert "switchover-ack-timeout" in str(move.fails_here())


# What is said of it


@pytest.mark.parametrize("mode", MODES)
def test_source_explains_a_long_wait(
    monkeypatch: pytest.MonkeyPatch, mode: SwitchoverAckMode
) -> None:
    monkeypatch.setattr(ack_wait, "HINT_NS", 1)
    nic = held()[0]
    with moving(sources(), [nic], mode=mode) as move:
        wait_until(lambda: move.sent.hint, "the hint")
        hint = move.sent.report().hint
        assert hint is not None and "a device there is still allocating" in hint
        assert "capability 'switchover-ack' is off there" in hint
        assert ("counts per device" in hint) == (mode == LEGACY)
        nic.release()
        move.finish()
    assert move.sent.report().hint is None


def test_capability_on_the_source_alone_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ack_wait, "HINT_NS", 1)
    monkeypatch.setattr(incoming, "QUIET_NS", 1)
    form = options(has_precopy=False)
    with moving([VfioSim(form)], [VfioSim(form, is_empty=True)], there=RETURN_PATH) as move:
        wait_until(lambda: move.sent.hint, "the hint")
        assert "capability 'switchover-ack' is off there" in str(move.sent.hint)
        wait_until(lambda: move.arrival.warnings, "the warning")
        move.assert_waits()
        move.departure.engine.cancel()
        move.fails_here()
    (warning,) = move.arrival.warnings
    assert warning.startswith("the source has had little left to send for 5 s")
    assert "only with --capability switchover-ack here too" in warning


def test_destination_says_which_device_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "QUIET_NS", 1)
    nic, gpu = held("nic", "gpu")
    with moving(sources("nic", "gpu"), [nic, gpu]) as move:
        wait_until(lambda: move.arrival.warnings, "the warning")
        wait_until(lambda: nic.asked and gpu.asked, "both marks")
        nic.release()
        gpu.release()
        move.finish()
    (warning,) = move.arrival.warnings
    assert warning.endswith("it waits for gpu/vfio and nic/vfio, not ready here")


def test_destination_that_counts_per_device_says_what_the_source_may_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(incoming, "QUIET_NS", 1)
    form = options(has_precopy=False)
    with moving(
        [VfioSim(form)], [VfioSim(form, is_empty=True)], mode=LEGACY, mode_there=PER_DEVICE
    ) as move:
        wait_until(lambda: move.arrival.warnings, "the warning")
        move.departure.engine.cancel()
        move.fails_here()
    (warning,) = move.arrival.warnings
    assert "use --switchover-ack-mode legacy" in warning


@pytest.mark.parametrize("mode", MODES)
def test_destination_that_said_its_ack_suspects_the_limit(
    monkeypatch: pytest.MonkeyPatch, mode: SwitchoverAckMode
) -> None:
    monkeypatch.setattr(incoming, "QUIET_NS", 1 << 60)
    never = Parameters(0, downtime_limit_ms=0, avail_switchover_bandwidth=1 << 40)
    clock, source, destination = reinit_pair()
    with moving([source], [destination], mode=mode, parameters=never) as move:
        destination.release()
        wait_until(lambda: move.sent.ack_received_ns, "the ACK")
        monkeypatch.setattr(incoming, "QUIET_NS", 1)
        clock.now_ns = 1000  # It has something to send, for once.
        wait_until(lambda: move.arrival.warnings, "the warning")
        move.departure.engine.set_parameters(SURE)
        if mode == PER_DEVICE:
            destination.release()
        move.finish()
    (warning,) = move.arrival.warnings
    assert "set avail-switchover-bandwidth there" in warning
    assert ("use --switchover-ack-mode per-device here" in warning) == (mode == LEGACY)


def test_destination_that_holds_its_ack_does_not_wonder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds it knows what the source waits for."""
    monkeypatch.setattr(incoming, "QUIET_NS", 1)
    source, destination = guest([], seed=1), guest([])
    source.cont()
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source, SWITCHOVER_ACK, hold_ack_ns=3600 * 10**9)
        departure = Departure(source, to_destination, SWITCHOVER_ACK, SURE)
        waits(departure)
        wait_until(lambda: departure.progress.dirty_sync_count >= 5, "five looks")
        assert arrival.warnings == []
        departure.engine.cancel()
        assert isinstance(departure.error(), MigrationCancelled)
        assert isinstance(arrival.error(), PeerError | ChannelError)


# Reports of our own


@pytest.mark.parametrize("mode", MODES)
def test_destination_reports_how_far_it_is(mode: SwitchoverAckMode) -> None:
    # The block with which the initial data ends is no measure: there is one before it.
    large = [options(name, state_bytes=3 << 20, initial=2 << 20) for name in ("nic", "gpu")]
    both = [Held(one, is_empty=True) for one in large]
    with moving(list(map(VfioSim, large)), both, capabilities=REPORTS, mode=mode) as move:
        wait_until(
            lambda: move.sent.expected_downtime and move.sent.expected_downtime.is_load_measured,
            "the load of both devices",
        )
        paces = move.departure.engine._told.load_ns_per_mib
        assert set(paces) == {2, 3} and all(pace > 0 for pace in paces.values())
        for nic in both:
            nic.release()
        move.finish()
    report = move.sent.report()
    assert_phases(move)
    told = [phase.name for phase in report.phases if phase.side == "destination"]
    assert told == ["ram", "nic/vfio", "gpu/vfio", "devices"]


def assert_phases(move: Moving) -> None:
    """The source's phases follow one another without gap, and are its downtime."""
    progress = move.sent
    own = progress.own_phases()
    names = [name for name, _, _ in own]
    assert names == ["stop", "sync", "ram", "nic/vfio", "gpu/vfio", "devices", "wait"]
    assert all(left[2] == right[1] for left, right in pairwise(own))
    report = progress.report()
    shown = [phase for phase in report.phases if phase.side == "source"]
    assert [phase.name for phase in shown] == names
    assert shown[0].start_ms == 0
    assert report.downtime_ms is not None
    # Each is rounded to a microsecond.
    total_us = sum(round(1000 * phase.duration_ms) for phase in shown)
    assert abs(total_us - round(1000 * report.downtime_ms)) <= len(shown)
    assert progress.stopping_ns is not None and progress._stopped_ns is not None
    assert sum(ended - began for _, began, ended in own) == (
        progress._stopped_ns - progress.stopping_ns
    )


@pytest.mark.parametrize(
    ("capabilities", "there"), [(REPORTS, SWITCHOVER_ACK), (SWITCHOVER_ACK, REPORTS)]
)
def test_reports_that_one_side_alone_knows_do_no_harm(
    capabilities: frozenset[Capability], there: frozenset[Capability]
) -> None:
    nic = held()[0]
    with moving(sources(), [nic], capabilities=capabilities, there=there) as move:
        move.wait()
        nic.release()
        move.finish()
    report = move.sent.report()
    assert {phase.side for phase in report.phases} == {"source"}
    assert report.expected_downtime is not None and not report.expected_downtime.is_load_measured


def recorded(capabilities: frozenset[Capability]) -> bytes:
    """What a source of a guest with a device sends."""
    form = options()
    return stream_of([VfioSim(form)], [VfioSim(form, is_empty=True)], capabilities)


def test_source_that_did_not_ask_gets_nothing_of_our_own() -> None:
    destination = TinyGuest(live_devices=[VfioMigration("nic", empty()[0])], devices=[], blocks={})
    with joined() as (channel, peer):
        arrival = Arrival(destination, channel, REPORTS)
        peer.send(recorded(SWITCHOVER_ACK))
        arrival.finish()
        channel.shutdown()
        answer = peer.recv_rest()
    # Its ACK may have come too late for a source that does not wait.
    assert answer in (pong(1) + ACK + shut(), pong(1) + shut())


def test_source_that_asked_is_told_and_told_of_the_phases_before_shut() -> None:
    destination = TinyGuest(live_devices=[VfioMigration("nic", empty()[0])], devices=[], blocks={})
    with joined() as (channel, peer):
        arrival = Arrival(destination, channel, REPORTS)
        peer.send(recorded(REPORTS))
        arrival.finish()
        channel.shutdown()
        answer = peer.recv_rest()
    assert answer.startswith(pong(1) + pong(X_REPORT_PING))
    assert answer.endswith(shut())
    assert answer.count(b"\xe0\x02") >= 3


def test_further_ping_does_not_end_the_reports() -> None:
    stream = recorded(REPORTS)
    ask = encode_ping(X_REPORT_PING)
    assert stream.count(ask) == 1
    stream = stream.replace(ask, ask + encode_ping(1))
    destination = TinyGuest(live_devices=[VfioMigration("nic", empty()[0])], devices=[], blocks={})
    with joined() as (channel, peer):
        arrival = Arrival(destination, channel, REPORTS)
        peer.send(stream)
        arrival.finish()
        channel.shutdown()
        answer = peer.recv_rest()
    assert answer.startswith(pong(1) + pong(X_REPORT_PING))
    assert answer.count(pong(1)) == 2
    assert answer.count(b"\xe0\x02") >= 3
