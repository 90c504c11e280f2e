"""The source of a guest that runs: when it stops it, how fast it sends, how it is called off."""

import errno
import threading
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.engine.live import (
    FAST,
    RETURN_PATH,
    SWITCHOVER_ACK,
    Arrival,
    Counter,
    Departure,
    Played,
    TinyGuest,
    Withholding,
    assert_one_machine,
    assert_same_memory,
    make_machine,
    move,
    pair,
    wait_for_ticks,
)
from tests.engine.peer import ACK, shut
from tests.waiting import wait_until

from switchover.channel.connection import Listener, connect
from switchover.channel.file import AtomicFile
from switchover.engine.precopy import IDLE_NS, PrecopySource
from switchover.engine.progress import Progress
from switchover.errors import (
    ChannelError,
    GuestError,
    KernelError,
    MigrationCancelled,
    PeerError,
    UsageError,
)
from switchover.guest.base import LiveDevice
from switchover.model.parameter import Parameters
from switchover.model.stats import TransferReport
from switchover.model.status import MigrationStatus
from switchover.protocol.grammar import StreamState
from switchover.tracker import choose

SLOW, ENDLESS = 2000, None


@pytest.mark.parametrize("pages_per_second", [0, SLOW, ENDLESS])
def test_running_machine_moves(listener: Listener, pages_per_second: int | None) -> None:
    source, destination = make_machine(pages_per_second), make_machine()
    source.cont()
    wait_for_ticks(source, 3)
    arrival = Arrival(destination, listener)
    with connect(listener.address) as channel:
        departure = Departure(source, channel)
        departure.finish()
    arrival.finish()
    assert_one_machine(source, destination)
    sent, received = departure.progress.report(), arrival.progress.report()
    assert sent.status == received.status == MigrationStatus.COMPLETED
    assert sent.transferred_bytes == received.transferred_bytes
    assert (sent.pages, sent.zero_pages) == (received.pages, received.zero_pages)
    assert sent.pages + sent.zero_pages >= sent.ram_bytes // 4096
    assert sent.downtime_ms is not None
    assert sent.dirty_sync_count >= 1
    assert destination.pacer.pages_per_second == pages_per_second


@pytest.mark.parametrize("pages_per_second", [SLOW, None], ids=["slow", "fast"])
def test_running_machine_moves_from_a_kernel_that_notes_no_writes(
    monkeypatch: pytest.MonkeyPatch, pages_per_second: int | None
) -> None:
    def refuse(memory: object) -> None:
        raise KernelError("PAGEMAP_SCAN", OSError(errno.ENOTTY, "Inappropriate ioctl for device"))

    monkeypatch.setattr(choose, "PagemapScanTracker", refuse)
    source, destination = make_machine(pages_per_second), make_machine()
    source.cont()
    wait_for_ticks(source, 3)
    departure = move(source, destination)
    assert_one_machine(source, destination)
    assert departure.progress.report().tracking == (
        "compare, as the kernel refuses PAGEMAP_SCAN: Inappropriate ioctl for device"
    )


def test_machine_that_moved_moves_on() -> None:
    machines = [make_machine(SLOW), make_machine(), make_machine(), make_machine()]
    machines[0].cont()
    for source, destination in pairwise(machines):
        wait_for_ticks(source, 2)
        move(source, destination)
        assert destination.is_running
    assert_one_machine(*machines)


def test_machine_moves_there_and_back() -> None:
    here, there = make_machine(SLOW), make_machine()
    here.cont()
    wait_for_ticks(here, 2)
    move(here, there)
    wait_for_ticks(there, 2)
    move(there, here)
    wait_for_ticks(here, 2)
    here.stop()
    here.check()
    numbers = sorted(
        int(line.text.split()[1]) for machine in (here, there) for line in machine.serial.lines
    )
    assert numbers == list(range(1, len(numbers) + 1))


def test_stopped_machine_arrives_stopped() -> None:
    source, destination = make_machine(SLOW), make_machine()
    source.cont()
    wait_for_ticks(source, 3)
    source.stop()
    # Not even the ACK, which nobody sends, is waited for.
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source, RETURN_PATH)
        Departure(source, to_destination, SWITCHOVER_ACK).finish()
        arrival.finish()
    assert not source.is_running and not destination.is_running
    destination.check()
    destination.cont()
    assert_one_machine(source, destination)


def test_figures_are_whole_when_the_last_status_is_shown() -> None:
    source, destination = TinyGuest(1), TinyGuest()
    source.cont()
    shown: list[TransferReport] = []
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source)
        departure = Departure(source, to_destination)
        departure.progress._observer = shown.append
        departure.finish()
        arrival.finish()
    assert shown[-1].status == MigrationStatus.COMPLETED
    assert shown[-1].downtime_ms is not None


# The gate


def test_source_waits_for_a_device_that_is_not_ready() -> None:
    slow = Withholding()
    source, destination = make_machine(SLOW, devices=[Withholding()]), make_machine(devices=[slow])
    source.cont()
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source, SWITCHOVER_ACK)
        departure = Departure(source, to_destination, SWITCHOVER_ACK)
        wait_until(lambda: slow.pieces == [b"setup", b"one", b"two"], "all initial data")
        wait_for_ticks(source, 30)
        assert source.is_running and not destination.is_running
        assert departure.progress.status == arrival.progress.status == MigrationStatus.ACTIVE
        assert arrival.progress.ack_sent_ns is None
        for progress in (departure.progress, arrival.progress):
            assert progress.report().switchover_ack.waiting_for == ("slow",)
        slow.release()
        departure.finish()
        arrival.finish()
    assert_one_machine(source, destination)
    report = departure.progress.report()
    waiting_ms = report.switchover_ack.waiting_ms
    assert waiting_ms is not None and waiting_ms > 100
    assert report.switchover_ack.waiting_for == ()
    assert report.switchover_ack.received_ms is not None
    assert arrival.progress.report().switchover_ack.sent_ms is not None


def test_nothing_of_the_end_is_sent_before_the_ack() -> None:
    source = make_machine(0, devices=[Withholding()])
    source.cont()
    with pair() as (to_destination, from_source):
        played = Played(from_source, ["slow"])
        departure = Departure(source, to_destination, SWITCHOVER_ACK)
        wait_for_ticks(source, 30)
        assert played.state == StreamState.ITERATE
        played.say(ACK)
        wait_until(lambda: played.state == StreamState.END, "the end of the stream")
        played.say(shut())
        departure.finish()
        played.join()


def test_ack_that_cannot_come_is_not_waited_for(tmp_path: Path) -> None:
    with AtomicFile(tmp_path / "guest") as file, pytest.raises(UsageError) as caught:
        Departure(TinyGuest(), file, SWITCHOVER_ACK)
    assert str(caught.value).startswith("capability 'switchover-ack' needs a return path, which ")


def test_early_ack_counts() -> None:
    source = make_machine(SLOW)
    source.cont()
    with pair() as (to_destination, from_source):
        from_source.send([ACK])
        played = Played(from_source)
        departure = Departure(source, to_destination, SWITCHOVER_ACK)
        wait_until(lambda: played.state == StreamState.END, "the end of the stream")
        played.say(shut())
        departure.finish()
        played.join()
    assert departure.progress.report().switchover_ack.received_ms is not None


def test_guest_that_is_stopped_while_the_ack_is_awaited_is_sent_at_once() -> None:
    """And it stays stopped: whoever stopped it did not ask for more."""
    source = make_machine(SLOW, devices=[Withholding()])
    destination = make_machine(devices=[Withholding()])
    source.cont()
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source, SWITCHOVER_ACK)
        departure = Departure(source, to_destination, SWITCHOVER_ACK)
        wait_for_ticks(source, 10)
        assert departure.progress.status == MigrationStatus.ACTIVE
        source.stop()
        departure.finish()
        arrival.finish()
    assert not source.is_running and not destination.is_running
    destination.cont()
    assert_one_machine(source, destination)


def test_no_device_that_wants_an_ack_means_an_ack_at_once() -> None:
    class Indifferent(Withholding):
        wants_switchover_ack = False

    source = make_machine(SLOW, devices=[Indifferent()])
    destination = make_machine(devices=[Indifferent()])
    source.cont()
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source, SWITCHOVER_ACK)
        Departure(source, to_destination, SWITCHOVER_ACK).finish()
        arrival.finish()
    assert_one_machine(source, destination)


def test_source_that_alone_has_the_capability_waits_until_it_is_called_off() -> None:
    source, destination = make_machine(SLOW), make_machine()
    source.cont()
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source, RETURN_PATH)
        departure = Departure(source, to_destination, SWITCHOVER_ACK)
        wait_for_ticks(source, 30)
        assert departure.progress.status == MigrationStatus.ACTIVE
        departure.engine.cancel()
        assert isinstance(departure.error(), MigrationCancelled)
        assert isinstance(arrival.error(), PeerError | ChannelError)
    assert not destination.is_running
    assert_one_machine(source)


def test_destination_that_leaves_while_the_ack_is_awaited() -> None:
    source = make_machine(SLOW)
    source.cont()
    with pair() as (to_destination, from_source):
        departure = Departure(source, to_destination, SWITCHOVER_ACK)
        played = Played(from_source)
        wait_until(lambda: departure.progress.waiting_ns is not None, "the wait")
        from_source.shutdown()
        error = departure.error()
        played.join()
    assert isinstance(error, PeerError) and not error.after_switchover
    assert_one_machine(source)


@pytest.mark.parametrize("pages_per_second", [0, SLOW, ENDLESS])
def test_waiting_costs_no_cpu_and_no_bandwidth(pages_per_second: int | None) -> None:
    """What a source does while it waits is counted in passes: a second has so many, and no more."""
    source = make_machine(pages_per_second)
    source.cont()
    with pair() as (to_destination, from_source):
        played = Played(from_source)
        departure = Departure(source, to_destination, SWITCHOVER_ACK)
        progress = departure.progress
        wait_until(lambda: progress.waiting_ns is not None, "the wait")
        wait_for_ticks(source, 10)  # until the first window has been measured
        clock = _cpu_clock("test/src")
        began, cpu, syncs = (
            time.monotonic_ns(),
            time.clock_gettime(clock),
            progress.dirty_sync_count,
        )
        sections, bandwidth = played._load.section_count, progress.bandwidth
        wait_for_ticks(source, 60)
        syncs = progress.dirty_sync_count - syncs
        sections = played._load.section_count - sections
        cpu = time.clock_gettime(clock) - cpu
        waited_ns = time.monotonic_ns() - began
        print(
            f"waited {waited_ns / 1e9:.3f} s for the ACK with {cpu:.3f} s of CPU, {syncs} passes, "
            f"{sections} sections, guest at {pages_per_second} pages/s"
        )
        passes = waited_ns // IDLE_NS + 5
        assert source.is_running
        assert 0 < syncs <= passes
        # A pass is a few sections: the pages with content and the zero pages of each window.
        assert sections <= 4 * passes
        if pages_per_second is not ENDLESS:  # One that dirties so much may be measured anew.
            assert progress.bandwidth >= bandwidth
        played.say(ACK)
        wait_until(lambda: played.state == StreamState.END, "the end of the stream")
        played.say(shut())
        departure.finish()
        played.join()


def _cpu_clock(name: str) -> int:
    """The clock of the CPU time of a thread."""
    idents = [thread.ident for thread in threading.enumerate() if thread.name == name]
    assert len(idents) == 1 and idents[0] is not None
    return time.pthread_getcpuclockid(idents[0])


def test_device_that_has_nothing_for_now_is_not_asked_all_the_time() -> None:
    """It says that something is left, and gives it only when the guest is stopped."""

    class Late(LiveDevice):
        idstr = "late"
        asked = 0
        pending = 1 << 40

        def pending_bytes(self) -> int:
            return self.pending

        def save_iterate(self) -> bytes:
            self.asked += 1
            return b""

    late = Late()
    source, destination = make_machine(devices=[late]), make_machine(devices=[Late()])
    source.cont()
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source)
        departure = Departure(source, to_destination)
        wait_until(lambda: departure.progress.zero_pages, "the first pass")
        wait_for_ticks(source, 5)
        began, asked = time.monotonic_ns(), late.asked
        wait_for_ticks(source, 30)
        asked = late.asked - asked
        assert 0 < asked <= (time.monotonic_ns() - began) // IDLE_NS + 5
        late.pending = 0
        departure.finish()
        arrival.finish()
    assert_one_machine(source, destination)


# Convergence


def test_guest_that_dirties_too_much_is_not_stopped_until_it_may_be() -> None:
    source, destination = make_machine(ENDLESS), make_machine()
    source.cont()
    limit = 64 << 20
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source)
        departure = Departure(
            source, to_destination, RETURN_PATH, Parameters(limit, downtime_limit_ms=1)
        )
        wait_until(lambda: departure.progress.dirty_sync_count >= 4, "four passes")
        assert source.is_running
        assert departure.progress.status == MigrationStatus.ACTIVE
        departure.engine.set_parameters(Parameters(limit, downtime_limit_ms=60_000))
        departure.finish()
        arrival.finish()
    assert_one_machine(source, destination)


def test_max_bandwidth_is_kept() -> None:
    source, destination = (
        make_machine(ENDLESS, ram_bytes=16 << 20),
        make_machine(ram_bytes=16 << 20),
    )
    source.cont()
    limit = 24 << 20
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source)
        departure = Departure(
            source, to_destination, RETURN_PATH, Parameters(limit, downtime_limit_ms=0)
        )
        progress = departure.progress
        wait_until(lambda: progress.report().total_ms > 300, "a beginning")
        before = progress.report()
        wait_until(lambda: progress.report().total_ms > before.total_ms + 1500, "some time")
        after = progress.report()
        # Lifted, it takes effect at once.
        departure.engine.set_parameters(Parameters(0, downtime_limit_ms=60_000))
        departure.finish()
        arrival.finish()
    seconds = (after.total_ms - before.total_ms) / 1000
    rate = (after.transferred_bytes - before.transferred_bytes) / seconds
    print(f"max-bandwidth {limit} bytes/s, sent {rate:.0f} bytes/s: {rate / limit:.3f}")
    # A busy machine may be late, and does not make up for it; it is never early.
    assert 0.8 * limit <= rate <= 1.1 * limit
    assert 0.8 * limit <= after.bandwidth <= 1.1 * limit
    assert_one_machine(source, destination)


def test_limit_that_is_lifted_ends_the_wait_for_it() -> None:
    source, destination = make_machine(SLOW), make_machine()
    source.cont()
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source)
        departure = Departure(source, to_destination, RETURN_PATH, Parameters(max_bandwidth=1))
        wait_until(lambda: departure.progress.zero_pages, "the first page")
        wait_for_ticks(source, 5)
        assert departure.progress.status == MigrationStatus.ACTIVE
        departure.engine.set_parameters(Parameters(max_bandwidth=1 << 30))
        departure.finish()
        arrival.finish()
    assert_one_machine(source, destination)


# Called off


class Blocking(LiveDevice):
    """Stays in one of its calls until the test lets it go on.

    Args:
        where: The call.
    """

    idstr = "blocking"

    def __init__(self, where: str) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self._where = where

    def _pass(self, where: str) -> bytes:
        if where == self._where:
            self.entered.set()
            assert self.go_on.wait(60)
        return b""

    def save_setup(self) -> bytes:
        return self._pass("setup")

    def save_iterate(self) -> bytes:
        return self._pass("active")

    def save_complete(self) -> bytes:
        return self._pass("device")


@pytest.mark.parametrize("status", ["setup", "active", "device"])
def test_cancel_in_each_state(status: str) -> None:
    blocking = Blocking(status)
    source, destination = (
        make_machine(SLOW, devices=[blocking]),
        make_machine(devices=[Blocking("")]),
    )
    source.cont()
    wait_for_ticks(source, 2)
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source)
        departure = Departure(source, to_destination)
        assert blocking.entered.wait(60)
        assert departure.progress.status == status
        assert source.is_running == (status != "device")
        departure.engine.cancel()
        blocking.go_on.set()
        error = departure.error()
        assert isinstance(error, MigrationCancelled)
        assert str(error) == "cancelled"
        assert isinstance(arrival.error(), PeerError | ChannelError)
    assert not destination.is_running
    # It goes on, and can be sent again, to the very destination that got a part of it.
    wait_for_ticks(source, 2)
    move(source, destination)
    assert_one_machine(source, destination)


def test_cancel_before_the_beginning() -> None:
    source = make_machine()
    source.cont()
    with pair() as (to_destination, _):
        engine = PrecopySource(source, to_destination, RETURN_PATH, FAST, Progress())
        engine.cancel()
        with pytest.raises(MigrationCancelled):
            engine.run()
    assert_one_machine(source)


def test_cancel_of_a_source_that_the_limit_holds_back() -> None:
    source = make_machine(SLOW)
    source.cont()
    with pair() as (to_destination, from_source):
        played = Played(from_source)
        departure = Departure(source, to_destination, RETURN_PATH, Parameters(max_bandwidth=1))
        wait_until(lambda: departure.progress.zero_pages, "the first page")
        departure.engine.cancel()
        assert isinstance(departure.error(), MigrationCancelled)
        played.join()
    assert_one_machine(source)


def test_cancel_of_a_source_whose_destination_does_not_read() -> None:
    source = make_machine(ENDLESS, ram_bytes=32 << 20)
    source.cont()
    wait_for_ticks(source, 10)
    with pair() as (to_destination, _):
        departure = Departure(source, to_destination)
        wait_until(lambda: departure.progress.transferred_bytes, "something was sent")
        departure.engine.cancel()
        assert isinstance(departure.error(), MigrationCancelled)
    assert_one_machine(source)


def test_cancel_behind_the_end_mark_comes_too_late() -> None:
    source = make_machine(SLOW)
    source.cont()
    with pair() as (to_destination, from_source):
        played = Played(from_source)
        departure = Departure(source, to_destination)
        wait_until(lambda: played.state == StreamState.END, "the end of the stream")
        departure.engine.cancel()
        played.say(shut())
        departure.finish()
        played.join()
    assert not source.is_running
    assert departure.progress.status == MigrationStatus.COMPLETED


# A guest that fails


class Broken(Counter):
    """Its state does not fit."""

    def save(self) -> Mapping[str, Any]:
        return {"value": -1}


def test_device_that_cannot_be_saved_leaves_the_guest_running() -> None:
    source, destination = TinyGuest(1, devices=[Broken()]), TinyGuest()
    source.cont()
    with pair() as (to_destination, from_source):
        arrival = Arrival(destination, from_source)
        departure = Departure(source, to_destination)
        error = departure.error()
        assert isinstance(error, GuestError)
        assert "'value' of 'counter'" in str(error)
        assert isinstance(arrival.error(), PeerError | ChannelError)
    assert source.is_running and not destination.was_started


def test_guest_that_was_stopped_meanwhile_is_not_started_by_a_failure() -> None:
    blocking = Blocking("active")
    source = TinyGuest(1, live_devices=[blocking])
    source.cont()
    with pair() as (to_destination, from_source):
        played = Played(from_source, ["blocking"])
        departure = Departure(source, to_destination)
        assert blocking.entered.wait(60)
        source.stop()
        departure.engine.cancel()
        blocking.go_on.set()
        assert isinstance(departure.error(), MigrationCancelled)
        played.join()
    assert not source.is_running


def test_pieces_of_every_size_arrive_in_order() -> None:
    sizes = [1, 4096, 1 << 20, 5 << 20, 16 << 20]

    class Sized(LiveDevice):
        idstr = "sized"

        def __init__(self) -> None:
            self.left = list(sizes)
            self.loaded: list[int] = []
            self.is_complete = False

        def pending_bytes(self) -> int:
            return sum(self.left)

        def save_iterate(self) -> bytes:
            return bytes([len(self.left)]) * self.left.pop(0) if self.left else b""

        def load(self, piece: bytes, ready: Callable[[], None]) -> None:
            assert piece == piece[:1] * len(piece)
            self.loaded.append(len(piece))

        def load_complete(self) -> None:
            self.is_complete = True

    arrived = Sized()
    source, destination = TinyGuest(1, live_devices=[Sized()]), TinyGuest(live_devices=[arrived])
    source.cont()
    move(source, destination)
    assert arrived.loaded == sizes
    assert arrived.is_complete
    assert_same_memory(source, destination)


def test_piece_that_no_destination_takes_is_refused_here() -> None:
    class Huge(LiveDevice):
        idstr = "huge"

        def pending_bytes(self) -> int:
            return 1

        def save_iterate(self) -> bytes:
            return bytes((16 << 20) + 1)

    source = TinyGuest(1, live_devices=[Huge()])
    source.cont()
    with pair() as (to_destination, from_source):
        played = Played(from_source, ["huge"])
        error = Departure(source, to_destination).error()
        played.join()
    assert isinstance(error, GuestError)
    assert str(error) == (
        "device 'huge' gives a piece of 16777217 bytes, expected at most 16777216"
    )
    assert source.is_running
