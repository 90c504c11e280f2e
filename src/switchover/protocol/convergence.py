"""When a source may stop its machine: bandwidth, threshold and the limit of the rate.

The machine is stopped when what is left takes no longer than the downtime limit. How fast it goes
is measured over windows in which the line, or the limit that was set for it, held the source back
most of the time. Any other window, of a source that waits or that sends zero pages, only tells that
the line is at least as fast as that: it may raise the figure and never lowers it. Nor does one that
consists of a single long wait: the destination did not read for a while, which says nothing of the
line, unless it is so twice in a row. Time is an argument, in monotonic nanoseconds.
"""

from .pace import MIB, Pace

WINDOW_NS = 100_000_000
"""As QEMU's: long enough to even out the buffers on the way, short enough to follow a change."""
UNLIMITED_SLICE_BYTES = 1 << 30
"""More than is ever sent at once."""
REMEASURE_NS = 1_000_000_000
"""A measure that is older is made anew where it alone stands in the way of the switchover."""
_STALL_NS = WINDOW_NS // 2
"""A single write that took so long, and half of its window, was a stall, or the line is slow."""
_SECOND_NS = 1_000_000_000


class Convergence:
    """Watches one source.

    Args:
        max_bandwidth: Bytes a second that may be sent while the machine runs; 0 for no limit.
        downtime_limit_ms: How long the machine may be stopped.
        now: The time.

    Attributes:
        max_bandwidth: As given; may be changed at any time.
        downtime_limit_ms: As given; may be changed at any time.
        avail_switchover_bandwidth: Bytes a second to be reckoned with; 0 for what is measured. May
            be changed at any time.
        bandwidth: Bytes a second, as last measured; 0 while unknown.
        is_measured: Whether that is what the line can do. Else it is at least that fast.
        writing: How long the writing takes.
    """

    def __init__(self, max_bandwidth: int, downtime_limit_ms: int, now: int) -> None:
        self.max_bandwidth = max_bandwidth
        self.downtime_limit_ms = downtime_limit_ms
        self.avail_switchover_bandwidth = 0
        self.bandwidth = 0
        self.is_measured = False
        self._measured_at = now
        self.writing = Pace()
        self._stalls = 0
        self._paid = now
        self._owed_bytes = 0
        self._start_window(now)

    def _start_window(self, now: int) -> None:
        self._window_start = now
        self._window_bytes = 0
        self._window_held_ns = 0
        self._window_longest_ns = 0
        self._has_paused = False

    def delay_ns(self, now: int) -> int:
        """How long to wait until more may be sent."""
        return max(self._due() - now, 0) if self.max_bandwidth else 0

    def _due(self) -> int:
        """When what was sent last is paid for, at the limit as it is now."""
        limit = self.max_bandwidth
        return self._paid + (self._owed_bytes * _SECOND_NS // limit if limit else 0)

    @property
    def slice_bytes(self) -> int:
        """What may go at once, so that the limit is kept within each window."""
        limit = self.max_bandwidth
        return limit * WINDOW_NS // _SECOND_NS if limit else UNLIMITED_SLICE_BYTES

    def paused(self) -> None:
        """The source waited though the line was free: this window tells little of the line."""
        self._has_paused = True

    def sent(self, wire_bytes: int, held_ns: int, began: int) -> None:
        """Something was sent, after the delay that was asked for.

        Args:
            wire_bytes: Bytes on the wire.
            held_ns: How long the delay and the writing took.
            began: The time before it.
        """
        elapsed = began - self._window_start
        if elapsed >= WINDOW_NS:
            self._measure(elapsed, began)
            self._start_window(began)
        if wire_bytes:
            self.writing.add(wire_bytes, held_ns)
        self._window_bytes += wire_bytes
        self._window_held_ns += held_ns
        self._window_longest_ns = max(self._window_longest_ns, held_ns)
        # What was not used for a while may not be made up for.
        self._paid = max(self._due(), began)
        self._owed_bytes = wire_bytes

    def _measure(self, elapsed: int, now: int) -> None:
        measured = self._window_bytes * _SECOND_NS // elapsed
        was_held = 2 * self._window_held_ns >= elapsed and not self._has_paused
        is_long = self._window_longest_ns >= max(_STALL_NS, elapsed // 2)
        self._stalls = self._stalls + 1 if was_held and is_long else 0
        if was_held and self._stalls != 1:
            self.bandwidth = measured
            self.is_measured = True
            self._measured_at = now
        else:
            self.bandwidth = max(measured, self.bandwidth)

    @property
    def expected_bandwidth(self) -> int:
        """Bytes a second that are to be reckoned with while the machine is stopped."""
        return self.avail_switchover_bandwidth or self.bandwidth

    @property
    def likely_bandwidth(self) -> int:
        """Bytes a second that a downtime most likely has: nothing that it would be safe to rely on.

        What was measured; else what the writing itself took, of which buffers may have swallowed a
        part; else what somebody says there is.
        """
        if self.is_measured:
            return self.bandwidth
        if ns_per_mib := self.writing.ns_per_mib:
            return max(MIB * _SECOND_NS // ns_per_mib, self.bandwidth)
        return self.expected_bandwidth

    def wants_probe(self, now: int) -> bool:
        """Whether the bandwidth is not known, or not of late, and nobody says what it is."""
        is_known = self.is_measured and now - self._measured_at < REMEASURE_NS
        return not is_known and not self.avail_switchover_bandwidth

    @property
    def threshold_bytes(self) -> int:
        """What may be left when the machine is stopped."""
        return self.expected_bandwidth * self.downtime_limit_ms // 1000
