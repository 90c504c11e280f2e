"""What is left to be sent, how long that would take, and what keeps it from being little enough."""

import time
from collections import deque
from collections.abc import Iterable

from ..model.stats import ExpectedDowntime
from ..protocol.convergence import Convergence
from ..protocol.pace import MIB, Load, Pace, expected_ns, transfer_ns
from ..wire.return_path import LoadReport
from .live_section import LiveSource
from .progress import Progress

_SECOND_NS = 1_000_000_000
RAM_SECTION_ID = 1
"""It is the first."""


MAX_WRITTEN = 1024
"""Pieces of the stream that are remembered until the destination has dealt with them: sockets hold
less."""
MIN_TAKEN_BYTES = 256 << 10
"""What a measure of the line is made of, at least: less comes and goes as threads are scheduled."""
MAX_GAP_NS = 50_000_000
"""Between two reports of a destination that went on. One that was busy for longer, as a device that
allocates makes it, says nothing of the line."""


class Told:
    """What the destination has told of how far it is, where it does.

    Written by two threads: `wrote` by the one that sends, `report` by the one that hears.

    Attributes:
        load_ns_per_mib: How long a device there takes for a MiB, by section id.
        delivery: How fast the line and the destination together are, where they had enough to do.
    """

    def __init__(self) -> None:
        self.load_ns_per_mib: dict[int, int] = {}
        self.delivery = Pace()
        self._consumed_bytes: int | None = None
        self._sections: set[int] = set()
        self._written: deque[tuple[int, int, int]] = deque(maxlen=MAX_WRITTEN)
        self._written_bytes = 0
        self._reported: tuple[int, int, int] | None = None

    def wrote(self, section_id: int, size: int, end: int) -> None:
        """So many bytes of a section were written, up to that place in the stream."""
        self._written_bytes = end
        self._sections.add(section_id)
        if self._consumed_bytes is not None:
            self._written.append((end, section_id, size))

    def report(self, report: LoadReport) -> None:
        """A report came."""
        self._consumed_bytes = report.consumed_bytes
        self._measure(report.consumed_bytes, time.monotonic_ns())
        if report.ns_per_mib and report.section_id in self._sections:
            self.load_ns_per_mib[report.section_id] = report.ns_per_mib

    def _measure(self, consumed: int, now: int) -> None:
        """What was taken since an earlier report, and was there when that came, is a measure."""
        if self._reported is not None:
            then, consumed_then, written_then = self._reported
            taken, gap_ns = consumed - consumed_then, now - then
            if taken < MIN_TAKEN_BYTES and gap_ns < MAX_GAP_NS:
                return
            has_enough = MIN_TAKEN_BYTES <= taken and consumed <= written_then
            if has_enough and 0 < gap_ns < MAX_GAP_NS:
                self.delivery.add(taken, gap_ns)
        self._reported = (now, consumed, self._written_bytes)

    def queued_bytes(self) -> dict[int, int]:
        """What was written and not taken yet, by section id."""
        consumed = self._consumed_bytes or 0
        while self._written and self._written[0][0] <= consumed:
            self._written.popleft()
        queued: dict[int, int] = {}
        for end, section_id, size in self._written:
            queued[section_id] = queued.get(section_id, 0) + min(size, end - consumed)
        return queued


class Outlook:
    """What the source knows of the rest of its migration.

    Args:
        convergence: What it measured of the line.
        told: What the destination told.
        progress: Where it is shown.

    Attributes:
        has_little_left: Whether what is left goes in the downtime limit.
        precopy_bytes: What of it can be sent while the guest runs, by the last close look.
        wants_probe: Whether only the line's bandwidth, which is not known well, stands in the way.
    """

    def __init__(self, convergence: Convergence, told: Told, progress: Progress) -> None:
        self._convergence = convergence
        self._told = told
        self._progress = progress
        self._stop_copy: dict[int, int] = {}
        self._sync_ns = 0
        self.has_little_left = False
        self.precopy_bytes = 0
        self.wants_probe = False

    def look(self, ram_bytes: int, live: Iterable[LiveSource]) -> None:
        """Judges by what is known without asking anybody."""
        loads = [(device, device.pending_bytes()) for device in live]
        self._judge(ram_bytes, sum(size for _, size in loads))
        self.wants_probe = False
        self._expect(ram_bytes, loads)

    def look_closely(self, ram_bytes: int, live: Iterable[LiveSource], sync_ns: int) -> None:
        """Judges by what RAM and the devices say when they are asked."""
        self._sync_ns = sync_ns
        loads, at_stop = [], 0
        for device in live:
            precopy_bytes, stop_copy_bytes = device.pending_exact()
            self._stop_copy[device.header.section_id] = stop_copy_bytes
            loads.append((device, precopy_bytes))
            at_stop += stop_copy_bytes
        precopy = sum(size for _, size in loads)
        self.precopy_bytes = ram_bytes + precopy
        self._judge(ram_bytes, precopy + at_stop)
        would_go = ram_bytes + precopy <= self._convergence.threshold_bytes
        self.wants_probe = (
            not self.has_little_left
            and would_go
            and self._convergence.wants_probe(time.monotonic_ns())
        )
        if would_go and not self.has_little_left and not self.wants_probe:
            self._progress.hint = self._explain(ram_bytes + precopy + at_stop, at_stop)
        elif self.has_little_left and self._progress.waiting_ns is None:
            self._progress.hint = None
        self._expect(ram_bytes, loads)

    def _judge(self, ram_bytes: int, device_bytes: int) -> None:
        pending = ram_bytes + device_bytes
        self.has_little_left = pending <= self._convergence.threshold_bytes
        self._progress.remaining_bytes = pending
        self._progress.bandwidth = self._convergence.expected_bandwidth

    def _expect(self, ram_bytes: int, live: list[tuple[LiveSource, int]]) -> None:
        likely = self._convergence.likely_bandwidth
        if ns_per_mib := self._told.delivery.ns_per_mib:
            likely = MIB * _SECOND_NS // ns_per_mib
        if not likely:
            return
        writing = self._convergence.writing.unhindered_ns_per_mib or 0
        queued = self._told.queued_bytes()
        paces = self._told.load_ns_per_mib
        loads = [Load(ram_bytes, queued_bytes=queued.get(RAM_SECTION_ID, 0))]
        for device, precopy_bytes in live:
            section_id = device.header.section_id
            loads.append(
                Load(
                    # What there is to be read once it is stopped is all that there is.
                    max(precopy_bytes, self._stop_copy.get(section_id, 0)),
                    queued_bytes=queued.get(section_id, 0),
                    save_ns_per_mib=(device.save_pace.ns_per_mib or 0) + writing,
                    load_ns_per_mib=paces.get(section_id, 0),
                )
            )
        left = sum(load.bytes for load in loads)
        self._progress.expected_downtime = ExpectedDowntime(
            expected_ms=round((expected_ns(loads, likely) + self._sync_ns) / 1e6, 3),
            transfer_ms=round(
                transfer_ns(left, self._convergence.expected_bandwidth or likely) / 1e6, 3
            ),
            is_load_measured=all(device.header.section_id in paces for device, _ in live),
        )

    def _explain(self, left: int, at_stop: int) -> str:
        bandwidth = max(self._convergence.expected_bandwidth, 1)
        return (
            f"what is left when the machine is stopped, {left >> 20} MiB with "
            f"{at_stop >> 20} MiB of device state, takes {transfer_ns(left, bandwidth) // 10**6} "
            f"ms at {bandwidth >> 20} MiB/s, and downtime-limit is "
            f"{self._convergence.downtime_limit_ms} ms: raise downtime-limit or max-bandwidth, or "
            "set avail-switchover-bandwidth to what the line can do"
        )
