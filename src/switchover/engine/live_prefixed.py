"""The live section of a `LiveDevice`, at either end: its pieces say their length."""

import time
from collections.abc import Callable, Iterator

from ..errors import GuestError, StreamError
from ..guest.base import LiveDevice
from ..model.section import SectionHeader
from ..protocol.pace import Pace
from ..protocol.savevm import Buffers
from ..protocol.switchover_ack import SwitchoverAckSource
from ..wire.prefixed import MAX_PREFIXED_BODY, PrefixedParser, encode_prefixed


class PrefixedSource:
    """A device whose pieces say their length."""

    def __init__(self, device: LiveDevice, section_id: int, acks: SwitchoverAckSource) -> None:
        self.header = SectionHeader(section_id, device.idstr, 0, device.version_id)
        self.save_pace = Pace()
        self._device = device
        self._acks = acks
        self._is_served = not device.wants_switchover_ack

    def setup(self) -> Buffers:
        """See LiveSource."""
        if self._device.wants_switchover_ack:
            self._acks.request(self.header.idstr)
        return [self._encode(self._device.save_setup())]

    def pending_bytes(self) -> int:
        """See LiveSource."""
        return self._device.pending_bytes()

    def pending_exact(self) -> tuple[int, int]:
        """See LiveSource."""
        return self._device.pending_bytes(), 0

    def iterate(self) -> Buffers:
        """See LiveSource."""
        if piece := self._device.save_iterate():
            return [self._encode(piece)]
        # What it has to say first is said when it has nothing more for now.
        if not self._is_served:
            self._is_served = True
            self._acks.serve()
        return []

    def complete(self) -> Iterator[Buffers]:
        """See LiveSource."""
        while piece := self._device.save_complete():
            yield [self._encode(piece)]

    def end(self) -> Iterator[Buffers]:
        """See LiveSource."""
        yield [encode_prefixed(b"")]

    def state(self) -> bytes | None:
        """See LiveSource."""
        return None

    def finish(self, *, is_moved: bool) -> None:
        """See LiveSource."""

    def _encode(self, piece: bytes) -> bytes:
        if len(piece) > MAX_PREFIXED_BODY:
            raise GuestError(
                f"device '{self.header.idstr}' gives a piece of {len(piece)} bytes, expected at "
                f"most {MAX_PREFIXED_BODY}"
            )
        return encode_prefixed(piece)


class PrefixedDestination:
    """A device whose pieces say their length."""

    needs_state = False

    def __init__(self, device: LiveDevice, ready: Callable[[str], None]) -> None:
        self.idstr = device.idstr
        self.parser = PrefixedParser(device.idstr, device.version_id)
        self.wants_ack = device.wants_switchover_ack
        self.load_pace = Pace()
        self._device = device
        self._ready = ready
        self._is_ready = False

    def begin(self) -> None:
        """See LiveDestination."""
        self._device.load_setup()

    def load(self, item: object, offset: int) -> None:
        """See LiveDestination."""
        assert isinstance(item, bytes)
        if item:
            began = time.monotonic_ns()
            self._device.load(item, self._mark_ready)
            self.load_pace.add(len(item), time.monotonic_ns() - began)

    def _mark_ready(self) -> None:
        """Once, and only where it is waited for: an ACK too many is an error at the source."""
        if self.wants_ack and not self._is_ready:
            self._is_ready = True
            self._ready(self.idstr)

    def load_state(self, body: bytes, offset: int) -> None:
        """See LiveDestination."""
        raise StreamError(f"'{self.idstr}' has no state besides its live section", offset=offset)

    def end(self) -> None:
        """See LiveDestination."""
        self._device.load_complete()
