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
        received_ms: When the source received it; None where it did not, or is the other side.
    """

    mode: SwitchoverAckMode | None
    asked_ms: float | None = None
    sent_ms: float | None = None
    received_ms: float | None = None


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
        ack_wait_ms: How long the guest ran on only because the ACK was waited for.
        downtime_ms: How long the source's guest was stopped before the destination had it; None
            where it was not.
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
    ack_wait_ms: float | None = None
    downtime_ms: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self)
