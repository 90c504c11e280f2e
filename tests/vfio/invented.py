"""Invented time, and a source and a destination that live in it."""

from switchover.model.vfio import VfioState
from switchover.vfio.options import SimOptions
from switchover.vfio.sim import VfioSim

MIB = 1 << 20
PAGE = 4096


class InventedTime:
    """A clock that goes on where somebody sleeps, and where a test says so."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000
        self.slept_ns: list[int] = []

    def clock(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept_ns.append(round(seconds * 1e9))
        self.now_ns += self.slept_ns[-1]

    def device(self, options: SimOptions, *, is_empty: bool = False) -> VfioSim:
        return VfioSim(options, is_empty=is_empty, clock=self.clock, sleep=self.sleep)


class Pair:
    """A source that is being read and a destination that is being written."""

    def __init__(
        self,
        state_bytes: int = 3 * MIB + 5,
        initial: int | None = None,
        *,
        dirty_rate: int = 0,
        reinit_ns: tuple[int, ...] = (),
        goal: VfioState = VfioState.PRE_COPY,
    ) -> None:
        options = SimOptions(
            "vf0",
            state_bytes,
            initial,
            allocate_ns=0,
            dirty_rate=dirty_rate,
            reinit_ns=reinit_ns,
            has_precopy=goal == VfioState.PRE_COPY,
        )
        self.time = InventedTime()
        self.source = self.time.device(options)
        self.destination = self.time.device(options, is_empty=True)
        self.source.set_state(goal)
        self.destination.set_state(VfioState.RESUMING)

    def read(self, size: int = MIB) -> bytes | None:
        """One read; None where there is nothing for now."""
        buffer = bytearray(size)
        count = self.source.read_into(memoryview(buffer))
        return None if count is None else bytes(buffer[:count])

    def drain(self, size: int = MIB) -> list[bytes]:
        """All reads until there is nothing."""
        pieces = []
        while piece := self.read(size):
            pieces.append(piece)
        return pieces

    def move(self, size: int = MIB) -> int:
        """Moves all that there is, and returns how many bytes."""
        moved = 0
        for piece in self.drain(size):
            self.destination.write(memoryview(piece))
            moved += len(piece)
        return moved

    def end(self) -> None:
        """Stops, moves the rest and compares."""
        if self.source.state != VfioState.STOP_COPY:
            self.source.set_state(VfioState.STOP_COPY)
        left = self.source.stop_copy_bytes()
        assert self.move() == left
        assert self.source.stop_copy_bytes() == 0
        self.destination.set_state(VfioState.STOP)
        assert self.destination.digest() == self.source.digest()
