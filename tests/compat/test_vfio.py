"""QEMU to QEMU with VFIO devices that are played: its own migration code, and no hardware."""

import errno
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import pytest
from tests.waiting import wait_until

from switchover.model.vfio import PrecopyInfo
from switchover.player.process import why_not
from switchover.player.vfio import Event, PlayedDevice
from switchover.testing import BootSectorGuest, Peer, QemuError
from switchover.testing.qemu import Process
from switchover.testing.vfio import VfioQemu
from switchover.vfio.options import parse_options
from switchover.vfio.sim import VfioSim

_reason = why_not()
pytestmark = pytest.mark.skipif(_reason is not None, reason=_reason or "")

RETURN_PATH = ("return-path",)
SWITCHOVER_ACK = ("return-path", "switchover-ack")
MULTIFD = ("return-path", "multifd")
SMALL = "state=2M,initial=1M,allocate=0s"
TINY = "state=64K,initial=32K,allocate=0s"
"""So little that it fits into a socket, whoever reads it."""
FAST = {
    # Else a QEMU that has little to send takes its line for slow, and does not stop the machine.
    "avail-switchover-bandwidth": 2_000_000_000,
    "max-bandwidth": 0,
}
LONGEST_DOWNTIME_MS = 2_000_000

STARTED = ["RUNNING_P2P", "RUNNING"]
LEFT = [*STARTED, "PRE_COPY", "PRE_COPY_P2P", "STOP_COPY", "STOP"]
WENT_BACK = [*STARTED, "PRE_COPY"]
ARRIVED = ["RESUMING", "RUNNING_P2P", "RUNNING"]
QUERY = "GET MIG_DATA_SIZE"
ACKED = "source_return_path_thread_switchover_acked"
"""QEMU says so at each ACK that it gets, if it is told to trace that."""
BY_MULTIFD = "vfio_load_state_device_buffer_incoming"
TRACE = ("-trace", ACKED, "-trace", BY_MULTIFD)
FIRMWARE = bytes(0xFFF0) + b"\xfa\xf4\xeb\xfd" + bytes(12)
"""`cli; hlt`, for ever, where a processor begins. With a real one the memory that is sent fills the
line, and a source whose destination is held waits for that and not for the ACK."""


class Sim(VfioSim):
    """A simulated device that knows which sizes it told, one after the other."""

    told: list[PrecopyInfo]

    def precopy_info(self) -> PrecopyInfo:
        info = super().precopy_info()
        if not self.told or self.told[-1] != info:
            self.told.append(info)
        return info


def simulated(options: str, name: str, *, is_empty: bool = False) -> Sim:
    sim = Sim(parse_options(options, name), is_empty=is_empty)
    sim.told = []
    return sim


class Nic(PlayedDevice):
    """A simulated device, whose calls a test can hold.

    Args:
        options: What it is like.
        name: Its name.
        is_empty: Whether it is a destination's.
    """

    def __init__(self, options: str = SMALL, name: str = "nic", *, is_empty: bool = False) -> None:
        self.sim = simulated(options, name, is_empty=is_empty)
        super().__init__(name, self.sim)
        self.hold: Callable[[str], None] = lambda call: None
        # A QEMU that waits reads as fast as it can: too much to be looked through again and again.
        self.asked = Counter[str]()

    def before(self, call: str, detail: str) -> None:
        self.asked[call] += 1
        self.asked[detail] += 1
        self.hold(call)

    def become(self, options: str = SMALL) -> None:
        """Is another device from now on, which nobody has touched yet."""
        self.sim = simulated(options, self.name)
        self.device = self.sim


class Move:
    """A source and a destination, between which a machine can go.

    Args:
        source: The source.
        destination: The destination.
    """

    def __init__(self, source: VfioQemu, destination: VfioQemu) -> None:
        self.source = source
        self.destination = destination

    def begin(self) -> None:
        """Starts the migration."""
        # Each of the little that a waiting source says takes much of a Unix socket's room: it
        # would soon wait for that, and no longer for the ACK. TCP has room for thousands.
        self.destination.migrate_incoming("tcp:127.0.0.1:0")
        (address,) = self.destination.query("query-migrate")["socket-address"]
        self.source.migrate(f"tcp:127.0.0.1:{address['port']}")

    def finish(self) -> dict[str, Any]:
        """Waits until the machine runs at the destination; what QEMU says of the migration."""
        info = self.source.wait_status("completed")
        self.destination.wait_status("completed")
        self.destination.wait_run_state("running")
        assert self.source.run_state() == "postmigrate"
        return info

    def run(self) -> dict[str, Any]:
        """Both."""
        self.begin()
        return self.finish()

    def wait_for_queries(self, more: int) -> None:
        """Waits until the source has asked so many more times what is left."""
        asked = nics(self.source)[0].asked
        before = asked[QUERY]
        wait_until(lambda: asked[QUERY] >= before + more, "question what is left")

    def same(self) -> bool:
        """Whether each device's state is what it was at the source."""
        return [one.sim.digest() for one in nics(self.source)] == [
            one.sim.digest() for one in nics(self.destination)
        ]


def nics(qemu: VfioQemu) -> list[Nic]:
    found = [device for device in qemu.devices if isinstance(device, Nic)]
    assert found
    return found


def events(qemu: VfioQemu, call: str, name: str = "nic") -> list[Event]:
    """All calls of a kind on a device."""
    return [event for event in list(qemu.events) if (event.device, event.call) == (name, call)]


def sizes_told(qemu: VfioQemu, name: str = "nic") -> list[Event]:
    return events(qemu, QUERY, name)


def stopped_at(qemu: VfioQemu, name: str = "nic") -> int:
    """When the machine had been stopped and its device was told the first time."""
    return next(
        event.now
        for event in events(qemu, "SET MIG_DEVICE_STATE", name)
        if event.detail in ("PRE_COPY_P2P", "STOP_COPY")
    )


def acks(qemu: VfioQemu) -> int:
    """The ACKs that it got."""
    return qemu.stderr().count(ACKED)


def goes_on(qemu: VfioQemu) -> None:
    """Waits until the guest has printed more: it runs."""
    before = len(qemu.serial())
    qemu.wait_serial(lambda text: len(text) > before)


def prepare(qemu: VfioQemu, capabilities: Sequence[str]) -> None:
    qemu.set_capabilities(*capabilities)
    qemu.set_parameters(FAST)


def arguments_for(firmware: IO[bytes], guest: BootSectorGuest | None) -> list[str]:
    """QEMU's arguments for tracing, and for having nothing to do without a guest."""
    if guest is not None:
        return list(TRACE)
    firmware.seek(0)
    firmware.write(FIRMWARE)
    firmware.flush()
    return [*TRACE, "-bios", firmware.name]


@contextmanager
def moving(
    peer: Peer,
    machine: str | None = None,
    *,
    devices: Sequence[str] = (SMALL,),
    arriving: Sequence[str] | None = None,
    capabilities: Sequence[str] = RETURN_PATH,
    guest: BootSectorGuest | None = None,
    extra: Sequence[str] = (),
    kind: type[VfioQemu] = VfioQemu,
) -> Iterator[Move]:
    """A source and a destination with devices `nic`, `nic1` and so on."""
    machine = machine or peer.machine("pc-q35")
    names = ["nic", *(f"nic{place}" for place in range(1, len(devices)))]
    here = [Nic(options, name) for options, name in zip(devices, names, strict=True)]
    there = [
        Nic(options, name, is_empty=True)
        for options, name in zip(arriving or devices, names, strict=True)
    ]
    memory = "64M" if guest else "16M"
    with (
        NamedTemporaryFile(prefix="switchover-firmware-") as firmware,
        kind(
            *(peer, here, machine),
            memory=memory,
            guest=guest,
            extra=[*arguments_for(firmware, guest), *extra],
        ) as source,
        kind(
            *(peer, there, machine),
            memory=memory,
            guest=guest,
            incoming="defer",
            extra=[*arguments_for(firmware, guest), *extra],
        ) as destination,
    ):
        for qemu in (source, destination):
            prepare(qemu, capabilities)
        yield Move(source, destination)
    assert source.played.error is None
    assert destination.played.error is None


Mode = tuple[Peer, str, bool]
"""A QEMU, its machine type, and whether it counts the ACKs per device."""


@pytest.fixture(
    params=[
        ("peer_10_0", "pc-q35-10.0", False),
        ("peer_11_1", "pc-q35-11.1", True),
        ("peer_11_1", "pc-q35-10.0", False),
    ],
    ids=["10.0", "11.1", "11.1 as 10.0"],
)
def mode(request: pytest.FixtureRequest) -> Mode:
    """Each QEMU that has the capability, in each of its modes."""
    name, machine, is_per_device = request.param
    return request.getfixturevalue(name), machine, is_per_device


# The ACK


@pytest.mark.parametrize("capabilities", [RETURN_PATH, SWITCHOVER_ACK], ids=["no ACK", "ACK"])
def test_guest_and_device_go_on_at_the_destination(
    mode: Mode, capabilities: tuple[str, ...]
) -> None:
    peer, machine, _ = mode
    with moving(peer, machine, capabilities=capabilities, guest=BootSectorGuest()) as move:
        move.source.wait_serial("ABC")
        info = move.run()
        goes_on(move.destination)
        assert move.source.states("nic") == LEFT
        assert move.destination.states("nic") == ARRIVED
        assert move.same()
        assert info["vfio"]["transferred"] >= 2 << 20
        assert acks(move.source) == (capabilities == SWITCHOVER_ACK)


def test_machine_is_stopped_after_the_device_was_ready(mode: Mode) -> None:
    peer, machine, _ = mode
    with moving(peer, machine, devices=[TINY], capabilities=SWITCHOVER_ACK) as move:
        (arriving,) = nics(move.destination)
        held: list[str] = []

        def hold(call: str) -> None:
            if call == "write" and not held:
                held.append(call)
                # It has little left and asks on and on, for nothing but the ACK is missing.
                move.wait_for_queries(5)
                assert move.source.states("nic") == WENT_BACK

        arriving.hold = hold
        move.run()
        assert held
        assert arriving.sim.allocated_ns is not None
        assert arriving.sim.allocated_ns < stopped_at(move.source)
        assert (acks(move.source), move.same()) == (1, True)


def test_machine_is_stopped_before_the_device_is_ready_without_the_ack(mode: Mode) -> None:
    peer, machine, _ = mode
    with moving(peer, machine, devices=[TINY]) as move:
        (arriving,) = nics(move.destination)

        def hold(call: str) -> None:
            if call == "write":
                wait_until(
                    lambda: nics(move.source)[0].asked["PRE_COPY_P2P"], "stop of the machine"
                )

        arriving.hold = hold
        move.run()
        assert arriving.sim.allocated_ns is not None
        assert arriving.sim.allocated_ns > stopped_at(move.source)
        assert (acks(move.source), move.same()) == (0, True)


def test_two_devices_are_both_ready(mode: Mode) -> None:
    peer, machine, is_per_device = mode
    with moving(peer, machine, devices=[TINY, TINY], capabilities=SWITCHOVER_ACK) as move:
        first, second = nics(move.destination)
        held: list[str] = []

        def hold(other: Nic, call: str) -> None:
            """Keeps the second one, whichever that is, from being ready."""
            if call == "write" and other.sim.allocated_ns is not None and not held:
                held.append(call)
                move.wait_for_queries(5)
                assert move.source.states("nic") == WENT_BACK

        first.hold, second.hold = partial(hold, second), partial(hold, first)
        move.run()
        assert held
        for name, device in (("nic", first), ("nic1", second)):
            assert move.source.states(name) == LEFT
            assert move.destination.states(name) == ARRIVED
            assert device.sim.allocated_ns is not None
            assert device.sim.allocated_ns < stopped_at(move.source)
        assert acks(move.source) == (2 if is_per_device else 1)
        assert move.same()
        assert first.sim.digest() != second.sim.digest()


def test_device_without_precopy_asks_for_no_ack(mode: Mode) -> None:
    peer, machine, is_per_device = mode
    devices = [f"{SMALL},precopy=off", SMALL]
    with moving(peer, machine, devices=devices, capabilities=SWITCHOVER_ACK) as move:
        move.run()
        assert move.source.states("nic") == [
            *(*STARTED, "RUNNING_P2P", "STOP", "STOP_COPY", "STOP"),
        ]
        assert move.source.states("nic1") == LEFT
        assert not events(move.source, "VFIO_MIG_GET_PRECOPY_INFO")
        assert (acks(move.source), move.same()) == (1, True)
    with moving(peer, machine, devices=devices[:1], capabilities=SWITCHOVER_ACK) as move:
        move.run()
        assert (acks(move.source), move.same()) == (0 if is_per_device else 1, True)


def test_device_without_p2p_states(mode: Mode) -> None:
    peer, machine, _ = mode
    devices = [f"{SMALL},p2p=off"]
    with moving(peer, machine, devices=devices, capabilities=SWITCHOVER_ACK) as move:
        move.run()
        assert move.source.states("nic") == ["PRE_COPY", "STOP_COPY", "STOP"]
        assert move.destination.states("nic") == ["RESUMING", "RUNNING"]
        assert (acks(move.source), move.same()) == (1, True)


def test_new_initial_data_is_acknowledged_once_more_per_device(mode: Mode) -> None:
    peer, machine, is_per_device = mode
    devices = [f"{TINY},reinit=300ms"]
    with moving(
        peer, machine, devices=devices, arriving=[TINY], capabilities=SWITCHOVER_ACK
    ) as move:
        (arriving,) = nics(move.destination)
        held: list[str] = []

        def came_anew() -> bool:
            sizes = [info.initial_bytes for info in nics(move.source)[0].sim.told]
            return 0 in sizes and any(sizes[sizes.index(0) :])

        def hold(call: str) -> None:
            if call == "write" and not held:
                held.append(call)
                wait_until(came_anew, "new initial data")

        arriving.hold = hold
        info = move.run()
        assert info["vfio"]["transferred"] > 96 << 10
        has_flags = bool(events(move.source, "SET MIG_PRECOPY_INFOv2"))
        assert has_flags == (peer.version >= (11, 1))
        assert acks(move.source) == (2 if is_per_device else 1)
        assert move.same()
        if is_per_device:
            assert arriving.sim.allocated_ns is not None
            assert arriving.sim.allocated_ns < stopped_at(move.source)


CALLED_OFF = {"cancelled", "failed"}
"""What QEMU calls a migration that was cancelled while its thread was writing: now and then it
finds the connection, which the cancel shut down, broken first."""


def status_of(qemu: VfioQemu) -> str:
    return str(qemu.query("query-migrate")["status"])


def test_initial_data_without_an_end_is_waited_for(mode: Mode) -> None:
    peer, machine, _ = mode
    endless = f"{SMALL},dirty-rate=100G,lie=initial+1T"
    with moving(
        *(peer, machine),
        devices=[endless],
        capabilities=SWITCHOVER_ACK,
        guest=BootSectorGuest(),
    ) as move:
        move.begin()
        wait_until(lambda: nics(move.source)[0].asked["read"] >= 20, "twentieth read")
        goes_on(move.source)
        assert move.source.query("query-migrate")["status"] == "active"
        assert move.source.states("nic") == WENT_BACK
        assert not acks(move.source)
        move.source.execute("migrate_cancel")
        wait_until(lambda: status_of(move.source) in CALLED_OFF, "the end of the migration")
        goes_on(move.source)
        assert move.source.states("nic") == [*WENT_BACK, "RUNNING"]


# What a device says and does


@pytest.mark.parametrize(
    ("option", "first", "last"),
    [("data-size=left", 64 << 10, 32 << 10), ("data-size=whole", 64 << 10, 64 << 10)],
)
def test_size_once_stopped(peer_10_0: Peer, option: str, first: int, last: int) -> None:
    with moving(peer_10_0, devices=[f"{TINY},{option}"], capabilities=SWITCHOVER_ACK) as move:
        hold_first_write(move)
        move.run()
        told = [int(event.detail.split()[0]) for event in sizes_told(move.source)]
        assert first <= told[0] < first + 4096
        assert last <= told[-1] < last + 4096
        assert move.same()


def hold_first_write(move: Move, queries: int = 3) -> None:
    """Keeps the ACK back until the source has asked some times what is left."""
    held: list[str] = []

    def hold(call: str) -> None:
        if call == "write" and not held:
            held.append(call)
            move.wait_for_queries(queries)

    nics(move.destination)[0].hold = hold


@pytest.mark.parametrize("peer_name", ["peer_10_0", "peer_11_1"])
@pytest.mark.parametrize(
    ("option", "result"),
    [
        ("data-size=error", -errno.ENOTTY),
        ("fail=data-size:EIO", -errno.EIO),
        ("lie=stop-copy+1G", 0),
        ("lie=stop-copy*100000", 0),
    ],
)
def test_too_much_for_the_downtime_keeps_the_machine_running(
    peer_name: str, option: str, result: int, request: pytest.FixtureRequest
) -> None:
    peer = request.getfixturevalue(peer_name)
    with moving(
        peer,
        devices=[f"{TINY},{option}"],
        arriving=[TINY],
        capabilities=SWITCHOVER_ACK,
    ) as move:
        hold_first_write(move)
        move.begin()
        wait_until(lambda: acks(move.source), "ACK")
        move.wait_for_queries(3)
        assert {event.result for event in sizes_told(move.source)} == {result}
        assert move.source.query("query-migrate")["status"] == "active"
        assert move.source.states("nic") == WENT_BACK
        assert move.source.run_state() == "running"
        # Of an error QEMU makes 100 GiB: so much it takes for possible then.
        move.source.set_parameters({"downtime-limit": LONGEST_DOWNTIME_MS})
        move.finish()
        assert move.same()


@pytest.mark.parametrize("peer_name", ["peer_10_0", "peer_11_1"])
@pytest.mark.parametrize(
    "option",
    [
        "lie=initial+1M",
        "lie=initial*0",
        "lie=initial-300K",
        "lie=dirty+5M",
        "lie=initial*0:dirty*0:stop-copy*0.5",
        "load-rate=4M",
        "save-rate=4M",
        "state=2M,initial=0,allocate=0s",
        "state=2M,initial=2M,allocate=0s",
        "state=1,initial=1,allocate=10ms",
    ],
)
def test_device_arrives_whole(peer_name: str, option: str, request: pytest.FixtureRequest) -> None:
    peer = request.getfixturevalue(peer_name)
    options = option if option.startswith("state") else f"{SMALL},{option}"
    with moving(peer, devices=[options], capabilities=SWITCHOVER_ACK) as move:
        move.run()
        assert (acks(move.source), move.same()) == (1, True)
        read = sum(event.result for event in events(move.source, "read") if event.result > 0)
        written = sum(event.result for event in events(move.destination, "write"))
        assert read == written >= nics(move.source)[0].sim.options.state_bytes
        # The end of the reading is a read of nothing.
        assert events(move.source, "read")[-1].result == 0
        assert all(event.result >= 0 for event in events(move.destination, "write"))


@pytest.mark.parametrize("peer_name", ["peer_10_0", "peer_11_1"])
def test_device_that_says_to_have_nothing_does_not_leave(
    peer_name: str, request: pytest.FixtureRequest
) -> None:
    peer = request.getfixturevalue(peer_name)
    devices, arriving = [f"{SMALL},lie=stop-copy*0"], [SMALL]
    with moving(peer, devices=devices, arriving=arriving, guest=BootSectorGuest()) as move:
        move.begin()
        assert "Failed to allocate migration data buffer" in failure(move.source)
        assert move.source.states("nic") == STARTED
        goes_on(move.source)


def test_size_that_is_told_reaches_qemu(peer_11_1: Peer) -> None:
    with moving(
        *(peer_11_1, "pc-q35-11.1"),
        devices=[f"{TINY},lie=stop-copy+7G"],
        arriving=[TINY],
        capabilities=SWITCHOVER_ACK,
    ) as move:
        hold_first_write(move)
        move.begin()
        wait_until(lambda: acks(move.source), "ACK")
        move.wait_for_queries(3)
        told = {int(event.detail.split()[0]) for event in sizes_told(move.source)}
        assert min(told) >= 7 << 30
        # What is said of RAM is RAM's alone, whatever else there is.
        info = move.source.query("query-migrate")
        assert info["ram"]["remaining"] < 1 << 30
        assert info["vfio"]["transferred"] < 2 << 20


def test_device_that_rewrites_is_sent_again(peer_10_0: Peer) -> None:
    with moving(peer_10_0, devices=[f"{TINY},dirty-rate=64K"], capabilities=SWITCHOVER_ACK) as move:

        def has_changed() -> bool:
            return any(info.dirty_bytes for info in nics(move.source)[0].sim.told)

        def hold(call: str) -> None:
            if call == "write":
                wait_until(has_changed, "page that was rewritten")

        nics(move.destination)[0].hold = hold
        info = move.run()
        assert info["vfio"]["transferred"] > 66 << 10
        assert move.same()


# What fails

FAILED_AT_SOURCE = [
    ("pre-copy", [*STARTED, "RUNNING"]),
    ("pre-copy-p2p", [*WENT_BACK, "STOP", "RUNNING_P2P", "RUNNING"]),
    ("stop-copy", [*WENT_BACK, "PRE_COPY_P2P", "RUNNING_P2P", "RUNNING"]),
    ("read", [*WENT_BACK, "RUNNING"]),
]


def moves_again(move: Move, peer: Peer) -> None:
    """With a device that nothing is wrong with the machine goes to another destination."""
    (leaving,) = nics(move.source)
    leaving.become()
    arriving = Nic(is_empty=True)
    machine = move.destination.machine
    with VfioQemu(
        peer,
        [arriving],
        machine,
        guest=BootSectorGuest(),
        incoming="defer",
        extra=TRACE,
    ) as destination:
        prepare(destination, SWITCHOVER_ACK)
        move.destination = destination
        move.run()
        goes_on(destination)
        assert arriving.sim.digest() == leaving.sim.digest()
        assert destination.states("nic") == ARRIVED


@pytest.mark.parametrize(("step", "states"), FAILED_AT_SOURCE)
def test_step_fails_at_the_source(peer_10_0: Peer, step: str, states: list[str]) -> None:
    with moving(
        peer_10_0,
        devices=[f"{SMALL},fail={step}:EIO"],
        arriving=[SMALL],
        capabilities=SWITCHOVER_ACK,
        guest=BootSectorGuest(),
    ) as move:
        move.source.wait_serial("ABC")
        move.begin()
        error = failure(move.source)
        assert (
            step == "read" or f"setting device state to {step.upper().replace('-', '_')}" in error
        )
        assert move.source.states("nic") == states
        wait_until(lambda: move.source.run_state() == "running", "guest that runs")
        goes_on(move.source)
        moves_again(move, peer_10_0)


def failure(source: VfioQemu) -> str:
    """Waits until the migration has failed; what the source says then."""
    with pytest.raises(QemuError, match="the migration is failed") as caught:
        source.wait_status("completed")
    return str(caught.value) + source.stderr()


@pytest.mark.parametrize(
    ("step", "states"),
    [("resuming", ["RUNNING"]), ("running-p2p", ["RUNNING"]), ("write", ["RESUMING"])],
)
def test_step_fails_at_the_destination(peer_10_0: Peer, step: str, states: list[str]) -> None:
    with moving(
        peer_10_0,
        arriving=[f"{SMALL},fail={step}:EIO"],
        capabilities=SWITCHOVER_ACK,
        guest=BootSectorGuest(),
    ) as move:
        move.source.wait_serial("ABC")
        move.begin()
        failure(move.source)
        assert move.destination.wait_error()
        assert move.destination.states("nic") == states
        wait_until(lambda: move.source.run_state() == "running", "guest that runs")
        goes_on(move.source)
        moves_again(move, peer_10_0)


@pytest.mark.parametrize(
    ("leaving", "arriving", "said"),
    [
        ("fail=stop:EIO", "p2p=on", "source"),
        ("p2p=on", "fail=running:EIO", "destination"),
    ],
    ids=["stop", "running"],
)
def test_step_fails_too_late_to_matter(
    peer_10_0: Peer, leaving: str, arriving: str, said: str
) -> None:
    """The machine is there, and QEMU resets the device of which it had asked too much."""
    with moving(
        peer_10_0,
        devices=[f"{SMALL},{leaving}"],
        arriving=[f"{SMALL},{arriving}"],
        capabilities=SWITCHOVER_ACK,
    ) as move:
        move.run()
        qemu: VfioQemu = getattr(move, said)
        assert "Recover state is ERROR. Resetting device" in qemu.stderr()
        assert events(qemu, "VFIO_DEVICE_RESET")[-1].result == 0
        assert move.same()


def test_sizes_that_cannot_be_asked_for_are_none_for_10_0(peer_10_0: Peer) -> None:
    with moving(
        peer_10_0,
        devices=[f"{SMALL},fail=precopy-info:EIO"],
        arriving=[SMALL],
        capabilities=SWITCHOVER_ACK,
    ) as move:
        move.run()
        assert (acks(move.source), move.same()) == (1, True)
        assert events(move.source, "VFIO_MIG_GET_PRECOPY_INFO")[0].result == -errno.EIO


def test_sizes_that_cannot_be_asked_for_fail_the_stop_of_11_1(peer_11_1: Peer) -> None:
    with moving(
        *(peer_11_1, "pc-q35-11.1"),
        devices=[f"{SMALL},fail=precopy-info:EIO"],
        arriving=[SMALL],
        capabilities=SWITCHOVER_ACK,
        guest=BootSectorGuest(),
    ) as move:
        move.begin()
        assert "Final precopy reinit check failed" in failure(move.source)
        wait_until(lambda: move.source.run_state() == "running", "guest that runs")
        goes_on(move.source)


def test_only_one_side_has_precopy(peer_10_0: Peer) -> None:
    with moving(peer_10_0, arriving=[f"{SMALL},precopy=off"], capabilities=SWITCHOVER_ACK) as move:
        move.begin()
        failure(move.source)
        assert move.destination.wait_error()
        refusal = "Received INIT_DATA_SENT but switchover ack is not used"
        assert refusal in move.destination.stderr()


# Multifd


@pytest.mark.parametrize("peer_name", ["peer_10_0", "peer_11_1"])
@pytest.mark.parametrize("transfer", ["auto", "off"])
def test_device_state_goes_over_multifd_or_not(
    peer_name: str, transfer: str, request: pytest.FixtureRequest
) -> None:
    peer = request.getfixturevalue(peer_name)
    with moving(
        peer,
        devices=["state=8M,initial=1M,allocate=0s"],
        capabilities=(*MULTIFD, "switchover-ack"),
        extra=["-global", f"vfio-pci.x-migration-multifd-transfer={transfer}"],
    ) as move:
        for qemu in (move.source, move.destination):
            qemu.set_parameters({"multifd-channels": 2})
        move.run()
        assert (BY_MULTIFD in move.destination.stderr()) == (transfer == "auto")
        assert (acks(move.source), move.same()) == (1, True)
        assert move.destination.states("nic") == ARRIVED


# KVM


class KvmQemu(VfioQemu):
    """As the other, with the processor of this machine."""

    def _spawn(self, arguments: Sequence[str], output: IO[bytes], qmp_fd: int) -> Process:
        place = arguments.index("-accel") + 1
        return super()._spawn([*arguments[:place], "kvm", *arguments[place + 1 :]], output, qmp_fd)


def require_kvm() -> None:
    try:
        with Path("/dev/kvm").open("r+b", buffering=0):
            pass
    except OSError as error:
        pytest.skip(f"/dev/kvm cannot be opened: {error.strerror}")


@pytest.mark.parametrize("peer_name", ["peer_10_0", "peer_11_1"])
def test_under_kvm(peer_name: str, request: pytest.FixtureRequest) -> None:
    require_kvm()
    peer = request.getfixturevalue(peer_name)
    with moving(peer, devices=[TINY], capabilities=SWITCHOVER_ACK, kind=KvmQemu) as move:
        assert move.source.query("query-kvm") == {"enabled": True, "present": True}
        hold_first_write(move)
        move.run()
        assert "Failed to add fd" not in move.source.stderr()
        assert (acks(move.source), move.same()) == (1, True)
        assert move.source.states("nic") == LEFT
        assert move.destination.states("nic") == ARRIVED
