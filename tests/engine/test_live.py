"""The live sections of both forms, at either end, without an engine around them."""

import errno
from collections.abc import Callable

import pytest
from tests.vfio.invented import InventedTime

from switchover.engine.live import open_live_destination, open_live_source
from switchover.engine.live_prefixed import PrefixedDestination, PrefixedSource
from switchover.engine.live_vfio import VfioDestination, VfioSource
from switchover.errors import DeviceError, GuestError, StreamError
from switchover.guest.base import LiveDevice
from switchover.model.switchover import SwitchoverAckMode
from switchover.model.vfio import PciConfig, VfioState
from switchover.protocol.switchover_ack import SwitchoverAckDestination, SwitchoverAckSource
from switchover.vfio.migration import VfioMigration
from switchover.vfio.options import Failure, Lie, SimOptions, Step, Told
from switchover.vfio.records import HEADER
from switchover.vfio.sim import VfioSim
from switchover.wire.prefixed import encode_prefixed
from switchover.wire.vfio import (
    END_OF_STATE,
    INIT_DATA_SENT,
    SETUP_BODY,
    VfioData,
    VfioInitialDataSent,
    encode_config,
    encode_data_header,
)

LEGACY, PER_DEVICE = SwitchoverAckMode.LEGACY, SwitchoverAckMode.PER_DEVICE
MODES = [LEGACY, PER_DEVICE]


class Pieces(LiveDevice):
    """A device of two pieces and one at the end."""

    idstr = "pieces"
    version_id = 3

    def __init__(self, *, wants_ack: bool = True) -> None:
        self.wants_switchover_ack = wants_ack
        self.left = [b"one", b"two"]
        self.last = [b"last"]
        self.calls: list[object] = []

    def save_setup(self) -> bytes:
        return b"setup"

    def pending_bytes(self) -> int:
        return sum(map(len, self.left))

    def save_iterate(self) -> bytes:
        return self.left.pop(0) if self.left else b""

    def save_complete(self) -> bytes:
        return self.last.pop(0) if self.last else b""

    def load_setup(self) -> None:
        self.calls.append("setup")

    def load(self, piece: bytes, ready: Callable[[], None]) -> None:
        self.calls.append(piece)
        ready()

    def load_complete(self) -> None:
        self.calls.append("complete")


def acks(mode: SwitchoverAckMode = LEGACY, *, is_enabled: bool = True) -> SwitchoverAckSource:
    return SwitchoverAckSource(mode, is_enabled=is_enabled)


# Of a form of our own


def test_source_of_pieces() -> None:
    waited_for = acks(PER_DEVICE)
    device = Pieces()
    live = open_live_source(device, 7, waited_for)
    assert isinstance(live, PrefixedSource)
    assert (live.header.section_id, live.header.idstr, live.header.version_id) == (7, "pieces", 3)
    assert live.setup() == [encode_prefixed(b"setup")]
    assert waited_for.waiting_for == ("pieces",)
    assert (live.pending_bytes(), live.pending_exact()) == (6, (6, 0))
    assert live.iterate() == [encode_prefixed(b"one")]
    assert live.iterate() == [encode_prefixed(b"two")]
    assert not waited_for.are_all_served
    assert live.iterate() == [] == live.iterate()
    assert waited_for.are_all_served
    assert list(live.complete()) == [[encode_prefixed(b"last")]]
    assert list(live.end()) == [[encode_prefixed(b"")]]
    assert live.state() is None
    live.finish(is_moved=True)


def test_source_of_pieces_that_nobody_waits_for() -> None:
    waited_for = acks(PER_DEVICE)
    live = open_live_source(Pieces(wants_ack=False), 7, waited_for)
    live.setup()
    assert waited_for.is_satisfied and waited_for.are_all_served


def test_destination_of_pieces() -> None:
    ready: list[str] = []
    device = Pieces()
    live = open_live_destination(
        device, lambda: SwitchoverAckDestination(is_enabled=True), ready.append
    )
    assert isinstance(live, PrefixedDestination)
    assert (live.idstr, live.wants_ack, live.needs_state) == ("pieces", True, False)
    assert (live.parser.idstr, live.parser.version_id) == ("pieces", 3)
    live.begin()
    live.load(b"", 0)
    assert live.load_pace.ns_per_mib is None and not ready
    live.load(b"one", 0)
    live.end()
    assert device.calls == ["setup", b"one", "complete"]
    assert ready == ["pieces"]
    with pytest.raises(StreamError, match="'pieces' has no state besides its live section") as at:
        live.load_state(b"state", 99)
    assert at.value.offset == 99


# Of VFIO's


def sim(
    *,
    reinit_ns: tuple[int, ...] = (),
    has_precopy: bool = True,
    lies: tuple[Lie, ...] = (),
    failing: Step | None = None,
    time: InventedTime | None = None,
    is_empty: bool = False,
) -> VfioSim:
    options = SimOptions(
        "nic",
        10,
        4,
        allocate_ns=0,
        reinit_ns=reinit_ns,
        has_precopy=has_precopy,
        lies=lies,
        failure=None if failing is None else Failure(failing, errno.EIO),
    )
    return (time or InventedTime()).device(options, is_empty=is_empty)


def opened(device: VfioSim, waited_for: SwitchoverAckSource) -> tuple[VfioSource, VfioMigration]:
    migration = VfioMigration("nic", device)
    live = open_live_source(migration, 2, waited_for)
    assert isinstance(live, VfioSource)
    assert (live.header.idstr, live.header.version_id) == ("nic/vfio", 1)
    assert live.setup() == [SETUP_BODY]
    return live, migration


def body(live: VfioSource) -> bytes:
    return b"".join(map(bytes, live.iterate()))


START = encode_data_header(HEADER.size) + HEADER.pack(1, 10, 4)
INITIAL = encode_data_header(HEADER.size + 4) + HEADER.pack(2, 0, 4)


@pytest.mark.parametrize("mode", MODES)
def test_source_of_a_vfio_device(mode: SwitchoverAckMode) -> None:
    waited_for = acks(mode)
    device = sim()
    live, migration = opened(device, waited_for)
    initial = 2 * HEADER.size + 4
    assert waited_for.waiting_for == ("nic/vfio",)
    assert live.pending_bytes() == initial
    assert live.pending_exact() == (initial, initial + HEADER.size + 6)
    assert body(live) == START + END_OF_STATE
    assert not waited_for.are_all_served
    assert body(live) == INITIAL + bytes(device.memory[:4]) + INIT_DATA_SENT
    assert waited_for.are_all_served
    assert body(live) == b""
    assert list(live.complete()) == []
    migration.prepare_stop()
    migration.stop()
    last = [b"".join(map(bytes, buffers)) for buffers in live.end()]
    assert last[1:] == [END_OF_STATE]
    assert last[0].endswith(bytes(device.memory[4:]))
    assert live.state() == encode_config(device.config)
    live.finish(is_moved=True)
    assert device.state == VfioState.STOP


def test_vfio_device_without_the_capability_asks_for_nothing() -> None:
    waited_for = acks(is_enabled=False)
    live, _ = opened(sim(), waited_for)
    assert body(live) + body(live) + body(live) == (
        START + END_OF_STATE + INITIAL + bytes(sim().memory[:4]) + END_OF_STATE
    )
    assert waited_for.is_satisfied and waited_for.are_all_served


def test_vfio_device_that_cannot_be_read_while_it_runs_asks_for_nothing() -> None:
    waited_for = acks(PER_DEVICE)
    live, _ = opened(sim(has_precopy=False), waited_for)
    assert waited_for.is_satisfied
    assert body(live) == b""
    assert live.pending_exact() == (0, 3 * HEADER.size + 10)


def test_vfio_device_whose_machine_stands_still_asks_for_nothing() -> None:
    waited_for = acks(PER_DEVICE)
    device = sim()
    device.set_state(VfioState.STOP)
    opened(device, waited_for)
    assert waited_for.is_satisfied


def test_mark_comes_alone_where_the_size_was_too_large() -> None:
    live, _ = opened(sim(lies=(Lie(Told.INITIAL, more_bytes=100),)), acks())
    bodies = [body(live) for _ in range(4)]
    assert [one.endswith(END_OF_STATE) for one in bodies] == [True, True, False, False]
    assert bodies[2:] == [INIT_DATA_SENT, b""]


def test_mark_comes_early_where_the_size_was_too_small() -> None:
    """The device said that it has none; nobody here knows better."""
    live, _ = opened(sim(lies=(Lie(Told.INITIAL, more_bytes=-(1 << 20)),)), acks())
    assert body(live) == START + INIT_DATA_SENT


def test_new_initial_data_is_asked_for_once_for_each_mark() -> None:
    time = InventedTime()
    waited_for = acks(PER_DEVICE)
    live, _ = opened(sim(reinit_ns=(1000, 2000), time=time), waited_for)
    live.pending_exact()
    # Before the mark: it will stand behind the new data.
    time.now_ns += 1000
    live.pending_exact()
    assert len(waited_for._requested) == 1
    while body(live):
        pass
    assert waited_for.are_all_served
    time.now_ns += 1000
    live.pending_exact()
    assert len(waited_for._requested) == 2
    assert not waited_for.are_all_served
    assert sum(INIT_DATA_SENT in body(live) for _ in range(5)) == 1
    assert waited_for.are_all_served


def test_new_initial_data_is_not_asked_for_in_legacy_mode() -> None:
    time = InventedTime()
    waited_for = acks(LEGACY)
    live, _ = opened(sim(reinit_ns=(1000,), time=time), waited_for)
    while body(live):
        pass
    time.now_ns += 1000
    live.pending_exact()
    assert len(waited_for._requested) == 1
    assert sum(INIT_DATA_SENT in body(live) for _ in range(5)) == 0


@pytest.mark.parametrize("is_enabled", [False, True])
def test_new_initial_data_at_the_stop_is_too_late_for_whoever_waits(is_enabled: bool) -> None:
    time = InventedTime()
    live, migration = opened(
        sim(reinit_ns=(1000,), time=time), acks(PER_DEVICE, is_enabled=is_enabled)
    )
    time.now_ns += 1000
    migration.prepare_stop()
    migration.stop()
    if is_enabled:
        with pytest.raises(GuestError, match="the machine was stopped already"):
            list(live.end())
    else:
        assert list(live.end())


def test_machine_that_was_stopped_and_runs_again_asks_anew() -> None:
    waited_for = acks(PER_DEVICE)
    live, migration = opened(sim(), waited_for)
    while body(live):
        pass
    migration.prepare_stop()
    migration.stop()
    live.pending_exact()
    assert waited_for.are_all_served
    migration.cont()
    live.pending_exact()
    assert not waited_for.are_all_served
    assert body(live) == START + END_OF_STATE


@pytest.mark.parametrize("mode", MODES)
def test_machine_that_stood_still_at_first_asks_when_it_runs(mode: SwitchoverAckMode) -> None:
    """The destination of either mode waits for the mark."""
    waited_for = acks(mode)
    device = sim()
    device.set_state(VfioState.STOP)
    live, migration = opened(device, waited_for)
    live.pending_exact()
    assert waited_for._requested == []
    migration.cont()
    live.pending_exact()
    assert waited_for.waiting_for == ("nic/vfio",)
    assert sum(INIT_DATA_SENT in body(live) for _ in range(5)) == 1


def test_error_of_a_device_is_the_sources_own() -> None:
    live, _ = opened(sim(failing=Step.READ), acks())
    with pytest.raises(DeviceError):
        live.iterate()


def destination(
    device: VfioSim, *, mode: SwitchoverAckMode = LEGACY, is_enabled: bool = True
) -> tuple[VfioDestination, list[str]]:
    says = SwitchoverAckDestination(is_enabled=is_enabled, devices=["nic/vfio"])
    says.mode = mode
    ready: list[str] = []
    live = open_live_destination(VfioMigration("nic", device), lambda: says, ready.append)
    assert isinstance(live, VfioDestination)
    live.begin()
    return live, ready


@pytest.mark.parametrize("mode", MODES)
def test_destination_of_a_vfio_device(mode: SwitchoverAckMode) -> None:
    source, device = sim(), sim(is_empty=True)
    live, ready = destination(device, mode=mode)
    assert live.wants_ack and live.needs_state
    source.set_state(VfioState.STOP_COPY)
    buffer = bytearray(1000)
    while size := source.read_into(memoryview(buffer)):
        live.load(VfioData(memoryview(buffer)[:size]), 0)
    assert not ready
    live.load(VfioInitialDataSent(), 0)
    assert ready == ["nic/vfio"]
    live.load(None, 0)  # What says nothing does nothing.
    config = PciConfig(bytes(range(256)))
    live.load_state(encode_config(config), 0)
    assert device.config == config
    live.end()
    assert device.state == VfioState.STOP
    assert device.digest() == source.digest()


def test_mark_that_must_not_come() -> None:
    live, ready = destination(sim(is_empty=True), is_enabled=False)
    with pytest.raises(StreamError) as caught:
        live.load(VfioInitialDataSent(), 1234)
    assert str(caught.value) == (
        "nic/vfio: Received INIT_DATA_SENT but switchover ack is not used at offset 0x4d2"
    )
    assert not ready


def test_configuration_that_does_not_fit_changes_nothing() -> None:
    device = sim(is_empty=True)
    before = device.config
    live, _ = destination(device)
    with pytest.raises(StreamError):
        live.load_state(encode_config(PciConfig(bytes(4096))), 5)
    assert device.config == before
