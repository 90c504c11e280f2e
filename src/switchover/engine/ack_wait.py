"""Waiting for the SWITCHOVER_ACK: for how long, for whom, and what may be wrong."""

from ..errors import PeerError
from ..model.parameter import AckTimeoutPolicy
from ..model.switchover import SwitchoverAckMode
from ..protocol.switchover_ack import SwitchoverAckSource
from .progress import Progress

HINT_NS = 5_000_000_000
"""Once so much time has gone into nothing but waiting, it is said what is probably wrong."""


class AckWait:
    """The source's patience.

    Args:
        acks: What is waited for.
        progress: Where the wait is counted and shown.

    Attributes:
        timeout_ms: How long it lasts; 0 for ever.
        policy: What comes then.
    """

    def __init__(self, acks: SwitchoverAckSource, progress: Progress) -> None:
        self._acks = acks
        self._progress = progress
        self.timeout_ms = 0
        self.policy = AckTimeoutPolicy.CANCEL

    def look(self) -> None:
        """Nothing but the ACK keeps the source from stopping its guest, if all was sent.

        Raises:
            PeerError: It has taken too long.
        """
        self._progress.waiting_for = self._acks.waiting_for
        if not self._acks.are_all_served:
            self._progress.not_waiting()
            return
        self._progress.waiting_for_ack()
        waited_ns = self._progress.ack_wait_ns or 0
        if waited_ns >= HINT_NS:
            self._progress.hint = self._explain()
        if not self.timeout_ms or waited_ns < self.timeout_ms * 1_000_000:
            return
        if self.policy == AckTimeoutPolicy.PROCEED:
            self._acks.is_waived = self._progress.ack_timed_out = True
            return
        raise PeerError(
            f"no SWITCHOVER_ACK came in {self.timeout_ms} ms (switchover-ack-timeout)"
            f"{self._for_whom()}: {self._explain()}"
        )

    def _for_whom(self) -> str:
        names = self._acks.waiting_for
        return f" for {' and '.join(map(repr, names))}" if names else ""

    def _explain(self) -> str:
        if self._acks.mode == SwitchoverAckMode.LEGACY:
            return (
                "all initial data was sent and the destination has not acknowledged it: a device "
                "there is still allocating, or capability 'switchover-ack' is off there, or it "
                "counts per device and has nothing to acknowledge (machine types from 11.1; "
                "-global migration.switchover-ack-legacy=off)"
            )
        return (
            "all initial data was sent and the destination has not acknowledged all of it: a "
            "device there is still allocating, or capability 'switchover-ack' is off there, or it "
            "sends one ACK for all devices (machine types up to 11.0; -global "
            "migration.switchover-ack-legacy=on)"
        )
