"""When a source may stop its machine: bandwidth, threshold and the limit of the rate.

The machine is stopped when what is left takes no longer than the downtime limit. How fast it goes
is measured over windows in which the line, or the limit that was set for it, held the source back
most of the time. Any other window, of a source that waits or that sends zero pages, only tells that
the line is at least as fast as that: it may raise the figure and never lowers it. Time is an
argument, in monotonic nanoseconds.
"""

WINDOW_NS = 100_000_000
"""As QEMU's: long enough to even out the buffers on the way, short enough to follow a change."""
UNLIMITED_SLICE_BYTES = 1 << 30
"""More than is ever sent at once."""
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
        bandwidth: Bytes a second, as last measured; 0 while unknown.
    """

    def __init__(self, max_bandwidth: int, downtime_limit_ms: int, now: int) -> None:
        self.max_bandwidth = max_bandwidth
        self.downtime_limit_ms = downtime_limit_ms
        self.bandwidth = 0
        self._paid = now
        self._owed_bytes = 0
        self._start_window(now)

    def _start_window(self, now: int) -> None:
        self._window_start = now
        self._window_bytes = 0
        self._window_held_ns = 0
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
            measured = self._window_bytes * _SECOND_NS // elapsed
            was_held = 2 * self._window_held_ns >= elapsed and not self._has_paused
            self.bandwidth = measured if was_held else max(measured, self.bandwidth)
            self._start_window(began)
        self._window_bytes += wire_bytes
        self._window_held_ns += held_ns
        # What was not used for a while may not be made up for.
        self._paid = max(self._due(), began)
        self._owed_bytes = wire_bytes

    @property
    def threshold_bytes(self) -> int:
        """What may be left when the machine is stopped."""
        return self.bandwidth * self.downtime_limit_ms // 1000
