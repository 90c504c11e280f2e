"""What drives a real QEMU: in our tests, in the demo, and in other people's tests.

`Peer` is a QEMU that is installed, `Qemu` is one that runs, and a guest is what runs in it and can
be checked afterwards.
"""

from switchover.testing.guest import (
    BootSectorGuest,
    Guest,
    GuestBroken,
    LinuxGuest,
    check_memory,
    check_progress,
    check_serial,
    check_ticks,
    find_linux_guest,
    missing_guest_reason,
)
from switchover.testing.peer import (
    PEERS,
    Peer,
    default_directory,
    find_peer,
    missing_reason,
)
from switchover.testing.qemu import Qemu, QemuError

__all__ = [
    "PEERS",
    "BootSectorGuest",
    "Guest",
    "GuestBroken",
    "LinuxGuest",
    "Peer",
    "Qemu",
    "QemuError",
    "check_memory",
    "check_progress",
    "check_serial",
    "check_ticks",
    "default_directory",
    "find_linux_guest",
    "find_peer",
    "missing_guest_reason",
    "missing_reason",
]
