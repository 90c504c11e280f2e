"""What a migration did, in figures: the same objects for the library and the command line."""

from dataclasses import asdict, dataclass
from typing import Any

from .status import MigrationStatus
from .switchover import SwitchoverAckMode


@dataclass(frozen=True, slots=True)
class SwitchoverAckReport:
    """The SWITCHOVER_ACK of a migration; times count from the connection.

    Attributes:
        mode: Who counts; None while the machine type is not known.
        asked_ms: When the destination could have sent the ACK; None where it had none to send.
        sent_ms: When the destination sent it; None where it did not.
        received_ms: When the source received the last one; None where there was none, or this is
            the other side.
        waiting_for: At the source the devices that have not been acknowledged, as far as it can
            know; at the destination those that are not ready.
        waiting_ms: How long nothing but the ACK has kept the source from stopping its guest, or
            kept it; None where nothing did.
        timed_out: Whether the source stopped waiting and went on without.
    """

    mode: SwitchoverAckMode | None
    asked_ms: float | None = None
    sent_ms: float | None = None
    received_ms: float | None = None
    waiting_for: tuple[str, ...] = ()
    waiting_ms: float | None = None
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a downtime.

    Attributes:
        side: `source` or `destination`.
        name: What was done: `stop`, `sync`, `ram`, the idstr of a live device, `devices`, `wait` at
            the source; `ram`, the idstr of a live device, `devices`, `resume` at the destination.
        start_ms: When it began, from when the source's guest was about to be stopped; of a
            destination that reports for itself alone, from its own first phase.
        duration_ms: How long it took.
    """

    side: str
    name: str
    start_ms: float
    duration_ms: float


@dataclass(frozen=True, slots=True)
class ExpectedDowntime:
    """How long the guest would be stopped if it were stopped now; last looked at before the stop.

    Attributes:
        expected_ms: With the time that devices need to give and to take what is left, as far as it
            was measured.
        transfer_ms: QEMU's formula: what is left / the bandwidth that the source measured, or was
            told by `avail-switchover-bandwidth`.
        is_load_measured: Whether the destination has told how fast each of its devices takes data.
    """

    expected_ms: float
    transfer_ms: float
    is_load_measured: bool


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One device section.

    Attributes:
        name: Its idstr.
        instance_id: Its instance.
        version_id: The version of its layout.
        size: Bytes of its body.
    """

    name: str
    instance_id: int
    version_id: int
    size: int


@dataclass(frozen=True, slots=True)
class TransferReport:
    """A migration so far, or at its end.

    Attributes:
        status: Its state.
        machine: The guest's machine type; None where the stream has not said, or does not.
        switchover_ack: What is known of the ACK.
        ram_bytes: The size of the guest's RAM.
        transferred_bytes: Bytes of the stream.
        pages: Pages that travelled with their content, each time counted.
        zero_pages: Pages that travelled as zero, each time counted.
        devices: The device sections.
        total_ms: Time since the connection.
        error: Why it failed.
        remaining_bytes: What the source has left to send, as far as it knows.
        bandwidth: Bytes a second, as the source last measured.
        dirty_sync_count: How often the source looked for what was written.
        tracking: How the source knows what is written, and why so.
        downtime_ms: How long the source's guest was stopped before the destination had it; None
            where it was not.
        expected_downtime: What the source expects, or expected before the stop.
        phases: The parts of the downtime: those of the source add up to `downtime_ms`, and those of
            the destination, where it tells of them, fall into the source's.
        hint: What keeps the migration from getting on, in a sentence, where it does not.
    """

    status: MigrationStatus
    machine: str | None
    switchover_ack: SwitchoverAckReport
    ram_bytes: int
    transferred_bytes: int
    pages: int
    zero_pages: int
    devices: tuple[DeviceReport, ...]
    total_ms: float
    error: str | None = None
    remaining_bytes: int = 0
    bandwidth: int = 0
    dirty_sync_count: int = 0
    tracking: str | None = None
    downtime_ms: float | None = None
    expected_downtime: ExpectedDowntime | None = None
    phases: tuple[Phase, ...] = ()
    hint: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self)
