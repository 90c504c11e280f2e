"""The live section of a VFIO device, at either end, as QEMU's. Page: docs/wire/vfio.md."""

import time
from collections.abc import Callable, Iterator

from ..errors import GuestError, StreamError
from ..model.section import SectionHeader
from ..protocol.pace import Pace
from ..protocol.savevm import Buffers
from ..protocol.switchover_ack import SwitchoverAckDestination, SwitchoverAckSource
from ..vfio.migration import READ_BYTES, VfioMigration
from ..wire.vfio import (
    END_OF_STATE,
    INIT_DATA_SENT,
    SETUP_BODY,
    VFIO_VERSION,
    VfioData,
    VfioInitialDataSent,
    VfioParser,
    decode_config,
    encode_config,
    encode_data_header,
)


class VfioSource:
    """A VFIO device, as QEMU writes it."""

    def __init__(self, device: VfioMigration, section_id: int, acks: SwitchoverAckSource) -> None:
        self.header = SectionHeader(section_id, device.idstr, 0, VFIO_VERSION)
        self.save_pace = Pace()
        self._device = device
        self._acks = acks
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._has_asked = False
        self._owes_mark = False

    def setup(self) -> Buffers:
        """See LiveSource."""
        self._device.begin_save()
        if self._device.is_in_precopy and self._acks.is_enabled:
            self._ask_for_ack()
        return [SETUP_BODY]

    def _ask_for_ack(self) -> None:
        self._acks.request(self.header.idstr)
        self._has_asked = self._owes_mark = True

    def pending_bytes(self) -> int:
        """See LiveSource."""
        return self._device.initial_bytes + self._device.dirty_bytes

    def pending_exact(self) -> tuple[int, int]:
        """See LiveSource."""
        self._device.refresh()
        self._look_for_reinit()
        return self.pending_bytes(), self._device.stop_copy_bytes()

    def _look_for_reinit(self) -> None:
        """New initial data needs an ACK of its own, where the mode has that.

        In either mode the first of a machine that stood still at first does.
        """
        if self._device.is_reinit:
            self._device.is_reinit = False
            may_ask = self._acks.may_ask_again if self._has_asked else self._acks.is_enabled
            if may_ask and not self._owes_mark:
                self._ask_for_ack()

    def iterate(self) -> Buffers:
        """See LiveSource."""
        body = self._read(self._device.read_precopy)
        if self._owes_mark and self._device.is_in_precopy and self._device.initial_bytes == 0:
            self._owes_mark = False
            self._acks.serve()
            return [*body, INIT_DATA_SENT]
        return [*body, END_OF_STATE] if body else []

    def _read(self, read: Callable[[memoryview], int]) -> Buffers:
        began = time.monotonic_ns()
        size = read(self._buffer)
        if size == 0:
            return []
        self.save_pace.add(size, time.monotonic_ns() - began)
        return [encode_data_header(size), self._buffer[:size]]

    def complete(self) -> Iterator[Buffers]:
        """See LiveSource."""
        return iter(())

    def end(self) -> Iterator[Buffers]:
        """See LiveSource.

        Raises:
            GuestError: New initial data came up after all ACKs that were asked for had come.
        """
        if self._device.is_reinit and self._acks.may_ask_again:
            raise GuestError(
                f"device '{self.header.idstr}' has new initial data, and the machine was stopped "
                "already: the destination would not be ready for it"
            )
        while body := self._read(self._device.read_stop_copy):
            yield body
        yield [END_OF_STATE]

    def state(self) -> bytes | None:
        """See LiveSource."""
        return encode_config(self._device.device.config)

    def finish(self, *, is_moved: bool) -> None:
        """See LiveSource."""
        self._device.end_save(is_moved=is_moved)


class VfioDestination:
    """A VFIO device, as QEMU reads it."""

    needs_state = True

    def __init__(
        self,
        device: VfioMigration,
        acks: Callable[[], SwitchoverAckDestination],
        ready: Callable[[str], None],
    ) -> None:
        self.idstr = device.idstr
        self.parser = VfioParser(device.idstr)
        self.wants_ack = device.has_precopy
        self.load_pace = Pace()
        self._device = device
        self._acks = acks
        self._ready = ready

    def begin(self) -> None:
        """See LiveDestination."""
        self._device.begin_load()

    def load(self, item: object, offset: int) -> None:
        """See LiveDestination."""
        match item:
            case VfioData(data=data):
                began = time.monotonic_ns()
                self._device.write(data)
                self.load_pace.add(len(data), time.monotonic_ns() - began)
            case VfioInitialDataSent():
                if refusal := self._acks().expect(self.idstr):
                    raise StreamError(refusal, offset=offset)
                # It is the block with which the device allocates what it needs for the others.
                self.load_pace.forget_last()
                self._device.when_ready(lambda: self._ready(self.idstr))

    def load_state(self, body: bytes, offset: int) -> None:
        """See LiveDestination."""
        device = self._device.device
        device.config = decode_config(body, device.config, self.idstr, offset)

    def end(self) -> None:
        """See LiveDestination."""
        self._device.end_load()
