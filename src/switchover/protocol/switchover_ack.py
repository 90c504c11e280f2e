"""Counting SWITCHOVER_ACKs, in both modes, at both ends. Page: docs/switchover-ack.md.

Legacy: the destination counts its devices and sends one ACK when none is left. Per device: the
source counts what its devices asked for, and each ACK takes one off. At either end one thread adds
and one takes off.
"""

from collections.abc import Iterable

from ..errors import StreamError
from ..model.switchover import SwitchoverAckMode


class SwitchoverAckSource:
    """What the source waits for.

    Args:
        mode: Who counts.
        is_enabled: Whether the capability is on.

    Attributes:
        received: ACKs so far.
        is_waived: Whether the source has waited long enough, and does not any more.
    """

    def __init__(self, mode: SwitchoverAckMode, *, is_enabled: bool) -> None:
        self.mode = mode
        self.is_enabled = is_enabled
        self.is_waived = False
        self.received = 0
        self._requested: list[str] = []
        self._served = 0

    def request(self, device: str) -> None:
        """A device wants the source to wait; called before its data is written."""
        self._requested.append(device)

    def serve(self) -> None:
        """The destination was told that a device's initial data is all there."""
        self._served += 1

    def receive(self) -> None:
        """An ACK came.

        Raises:
            StreamError: In per-device mode, where nobody asked for it.
        """
        self.received += 1
        if self._is_counting and self.received > len(self._requested):
            raise StreamError(
                "Switchover ack pending num underflowed: an ACK came that no device asked for, as "
                "from a destination that counts in legacy mode (machine types up to 11.0, or "
                "-global migration.switchover-ack-legacy=on)",
                offset=0,
                expected=f"{len(self._requested)} in all",
                got=self.received,
            )

    @property
    def _is_counting(self) -> bool:
        return self.is_enabled and self.mode == SwitchoverAckMode.PER_DEVICE

    @property
    def is_satisfied(self) -> bool:
        """Whether nothing is waited for."""
        if not self.is_enabled or self.is_waived:
            return True
        if self.mode == SwitchoverAckMode.LEGACY:
            return self.received > 0
        return self.received >= len(self._requested)

    @property
    def may_ask_again(self) -> bool:
        """Whether a device with new initial data can have the source wait for it once more."""
        return self._is_counting and not self.is_waived

    @property
    def are_all_served(self) -> bool:
        """Whether the source has done its part: what is missing is the destination's."""
        return self._served >= len(self._requested)

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """The devices that have not been acknowledged, as far as can be known.

        An ACK does not say whose it is. In per-device mode they are taken to come in the order in
        which they were asked for; in legacy mode the one ACK is everybody's.
        """
        if self.is_satisfied:
            return ()
        if self.mode == SwitchoverAckMode.LEGACY:
            return tuple(dict.fromkeys(self._requested))
        return tuple(dict.fromkeys(self._requested[self.received :]))


class SwitchoverAckDestination:
    """What the destination has to say.

    Args:
        is_enabled: Whether the capability is on.
        devices: Those of its devices that can get ready while the machine runs.
    """

    def __init__(self, *, is_enabled: bool, devices: Iterable[str] = ()) -> None:
        self.is_enabled = is_enabled
        self.mode = SwitchoverAckMode.LEGACY
        self._devices = frozenset(devices)
        self._pending = dict.fromkeys(self._devices)
        self._is_open = False
        self._has_sent = False
        self._due = 0

    @property
    def pending(self) -> tuple[str, ...]:
        """The devices that have not been ready yet."""
        return tuple(sorted(self._pending))

    def open(self) -> None:
        """The return path is there."""
        self._is_open = True
        self._settle()

    def expect(self, device: str) -> str | None:
        """Why a device's initial data must not end here and now; None where it may.

        The words are QEMU's.
        """
        if not self.is_enabled or device not in self._devices:
            return f"{device}: Received INIT_DATA_SENT but switchover ack is not used"
        if self.mode == SwitchoverAckMode.LEGACY and device not in self._pending:
            return f"{device}: qemu_loadvm_approve_switchover failed, err=-22 (Invalid argument)"
        return None

    def ready(self, device: str) -> None:
        """A device is ready for the switchover."""
        self._pending.pop(device, None)
        if self.mode == SwitchoverAckMode.PER_DEVICE:
            self._due += self.is_enabled
        else:
            self._settle()

    def _settle(self) -> None:
        is_legacy = self.mode == SwitchoverAckMode.LEGACY
        is_due = self.is_enabled and is_legacy and self._is_open and not self._pending
        if is_due and not self._has_sent:
            self._has_sent = True
            self._due += 1

    def take_due(self) -> int:
        """How many ACKs are to be sent now; they are the caller's from then on."""
        if not self._is_open:
            return 0
        due, self._due = self._due, 0
        return due

    def drop(self) -> None:
        """The machine has been stopped: nobody waits for an ACK any more."""
        self._is_open = False
        self._due = 0
