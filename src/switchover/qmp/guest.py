"""One machine, two who may start and stop it: the person and the migration.

While a migration needs it stopped, the person can only say what should become of it then. The
person's word counts: a migration that ends does not start what the person has stopped.
"""

import threading
from collections.abc import Callable, Sequence

from ..guest.base import Device, Guest, LiveDevice
from ..guest.ram import GuestRAM
from ..vfio.migration import VfioMigration
from .session import CommandError


class SharedGuest:
    """A guest as a migration sees it, and beside that what a person may do with it.

    Args:
        guest: The guest, which is stopped.
        changed: Called after it was started or stopped, with whether it runs; by any thread.
        is_incoming: Whether it is to be received first.
        wants_running: Whether it may then run.
    """

    def __init__(
        self,
        guest: Guest,
        changed: Callable[[bool], None],
        *,
        is_incoming: bool,
        wants_running: bool,
    ) -> None:
        self._guest = guest
        self._changed = changed
        self._lock = threading.Lock()
        self._is_held = is_incoming
        self._wants_running = wants_running
        self.machine = guest.machine
        self.ram: Sequence[GuestRAM] = guest.ram
        self.devices: Sequence[Device] = guest.devices
        self.live_devices: Sequence[LiveDevice | VfioMigration] = guest.live_devices

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self._guest.is_running

    @property
    def is_held(self) -> bool:
        """Whether a migration keeps it stopped."""
        return self._is_held

    # The migration

    def stop(self) -> None:
        """Stops it, until the migration ends."""
        with self._lock:
            self._is_held = True
            self._stop()

    def cont(self) -> None:
        """Lets it run on, unless the person said otherwise."""
        with self._lock:
            self._is_held = False
            if self._wants_running:
                self._cont()

    def release(self) -> None:
        """The migration has ended; the person may start it, in whatever state it is."""
        with self._lock:
            self._is_held = False

    # The person

    def stop_by_hand(self) -> None:
        """Stops it, and keeps a migration from starting it."""
        with self._lock:
            self._wants_running = False
            self._stop()

    def cont_by_hand(self, *, is_incoming: bool) -> None:
        """Lets it run, or what is to be received once it is there.

        Raises:
            CommandError: A migration has stopped it.
        """
        with self._lock:
            if self._is_held and not is_incoming:
                raise CommandError("Migration is not finalized yet")
            self._wants_running = True
            if not self._is_held:
                self._cont()

    def _stop(self) -> None:
        if self._guest.is_running:
            try:
                self._guest.stop()
            finally:
                self._changed(False)

    def _cont(self) -> None:
        if not self._guest.is_running:
            self._guest.cont()
            self._changed(True)
