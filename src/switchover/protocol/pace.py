"""How fast a device gives or takes its data, and what that makes of a downtime.

QEMU expects a downtime of what is left / bandwidth, as if saving and loading were free. Here what
is left goes through three stages that work at the same time: the source's device gives, the line
carries, the destination's device takes.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

MIB = 1 << 20
_SAMPLES = 256
_SMALLEST = 4096
"""A block of fewer bytes measures the call, and not the device."""
_SECOND_NS = 1_000_000_000


class Pace:
    """How long a device takes for a MiB, measured on the blocks so far.

    It is the median, each block counted by its bytes: one block that takes long because the device
    allocates on it says nothing of the others.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)

    def add(self, size: int, duration_ns: int) -> None:
        """A block of `size` bytes took so long."""
        if size >= _SMALLEST:
            self._samples.append((duration_ns / size, size))

    def forget_last(self) -> None:
        """The last block is known to be no measure."""
        if self._samples:
            self._samples.pop()

    @property
    def ns_per_mib(self) -> int | None:
        """Nanoseconds for a MiB; None as long as nothing was measured."""
        return self._quantile(0.5)

    @property
    def unhindered_ns_per_mib(self) -> int | None:
        """The same for the faster quarter of the blocks, which did not have to wait for others."""
        return self._quantile(0.25)

    def _quantile(self, fraction: float) -> int | None:
        samples = sorted(self._samples)
        wanted = sum(size for _, size in samples) * fraction
        seen = 0
        for ns_per_byte, size in samples:
            seen += size
            if seen >= wanted:
                return round(ns_per_byte * MIB)
        return None


@dataclass(frozen=True, slots=True)
class Load:
    """Something that has to get through in the downtime.

    Attributes:
        bytes: How much, from now on.
        queued_bytes: How much was written before and has not been taken.
        save_ns_per_mib: How long the source's device takes to give a MiB; 0 for no time.
        load_ns_per_mib: How long the destination's takes to take one.
    """

    bytes: int
    queued_bytes: int = 0
    save_ns_per_mib: int = 0
    load_ns_per_mib: int = 0


def transfer_ns(size: int, bandwidth: int) -> int:
    """How long so many bytes take on a line of so many bytes a second, which is at least 1."""
    return size * _SECOND_NS // bandwidth


def expected_ns(loads: Iterable[Load], bandwidth: int) -> int:
    """How long some loads take, one behind the other.

    Args:
        loads: What is left, in the order in which it is sent.
        bandwidth: Bytes a second on the line, at least 1.
    """
    loads = list(loads)
    line = transfer_ns(sum(load.queued_bytes for load in loads), bandwidth)
    taken = max(line, sum(load.queued_bytes * load.load_ns_per_mib // MIB for load in loads))
    given = 0
    for load in loads:
        begun = given
        given += load.bytes * load.save_ns_per_mib // MIB
        sent = max(line, begun)
        line = max(sent + transfer_ns(load.bytes, bandwidth), given)
        taken = max(max(taken, sent) + load.bytes * load.load_ns_per_mib // MIB, line)
    return max(line, taken)
