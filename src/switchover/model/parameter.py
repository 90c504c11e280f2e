"""Migration parameters by their QAPI names, as far as they have a meaning here."""

from dataclasses import dataclass
from enum import StrEnum


class AckTimeoutPolicy(StrEnum):
    """What a source does that has waited for the SWITCHOVER_ACK long enough.

    CANCEL: it gives up, and the machine goes on where it is.
    PROCEED: it stops the machine without the ACK.
    """

    CANCEL = "cancel"
    PROCEED = "proceed"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What can be set about a migration, with QEMU's defaults.

    Attributes:
        max_bandwidth: Bytes a second while the machine runs; 0 for no limit.
        downtime_limit_ms: How long the machine may be stopped, in ms.
        avail_switchover_bandwidth: Bytes a second that there are while the machine is stopped; 0
            for what is measured.
        switchover_ack_timeout_ms: How long nothing but the SWITCHOVER_ACK may keep the machine from
            being stopped; 0 for ever, as in QEMU, which has no such parameter.
        switchover_ack_timeout_policy: What comes then.
    """

    max_bandwidth: int = 128 << 20
    downtime_limit_ms: int = 300
    avail_switchover_bandwidth: int = 0
    switchover_ack_timeout_ms: int = 0
    switchover_ack_timeout_policy: AckTimeoutPolicy = AckTimeoutPolicy.CANCEL
