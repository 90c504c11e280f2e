"""Migration parameters by their QAPI names, as far as they have a meaning here."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameters:
    """What can be set about a migration, with QEMU's defaults.

    Attributes:
        max_bandwidth: Bytes a second while the machine runs; 0 for no limit.
        downtime_limit_ms: How long the machine may be stopped, in ms.
    """

    max_bandwidth: int = 128 << 20
    downtime_limit_ms: int = 300
