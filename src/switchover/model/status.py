"""The states of a migration, by their QAPI names."""

from enum import StrEnum


class MigrationStatus(StrEnum):
    """How far a migration has come.

    NONE: there was none.
    SETUP: waiting for the other side, or for what comes before the RAM.
    ACTIVE: RAM travels; the machine may run.
    PRE_SWITCHOVER: the machine is stopped, and waits for `migrate-continue`
    (`pause-before-switchover`).
    DEVICE: the machine is stopped; what is left travels.
    COMPLETED: the destination has everything, and said so.
    FAILED: something went wrong; the error says what.
    CANCELLING: somebody asked for it to end, and it has not yet.
    CANCELLED: somebody asked for it to end, and it has.
    """

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    PRE_SWITCHOVER = "pre-switchover"
    DEVICE = "device"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
