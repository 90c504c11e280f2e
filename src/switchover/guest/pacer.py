"""Grants the guest's program its work: how many pages to dirty now, and when to tick.

It counts running time only: a guest that is stopped owes nothing when it goes on. Time is an
argument, in monotonic nanoseconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import GuestError
from ..model.vmstate import VmstateDescription, VmstateField, VmstateType

TICK = 0x8000_0000
"""In what the program reads: print a tick."""
TICK_NS = 15_000_000
"""Running time between two ticks."""
MAX_GRANT = 256
"""Pages at once: the program stops between two grants only."""

_BURST_NS = 10_000_000
"""A CPU that came late may catch up so much, or one page, and no more."""
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Grant:
    """What the program may do now.

    Attributes:
        pages: How many pages to dirty.
        is_tick: Whether to print a tick.
        wait_ns: How long until there is something, where there is nothing.
    """

    pages: int
    is_tick: bool
    wait_ns: int = 0


class Pacer:
    """The device behind the program's pacer port.

    Args:
        pages_per_second: The dirty rate: 0 for none, None for as fast as it goes.
    """

    idstr = "pacer"
    description = VmstateDescription(
        "pacer",
        (
            VmstateField("until_tick_ns", VmstateType.UINT64),
            VmstateField("is_limited", VmstateType.BOOL),
            VmstateField("pages_per_second", VmstateType.UINT64),
        ),
    )

    def __init__(self, pages_per_second: int | None) -> None:
        self.pages_per_second = pages_per_second
        self._until_tick_ns = TICK_NS
        self._tick_ns = 0
        self._granted_ns = 0

    def save(self) -> Mapping[str, Any]:
        """The rate, and how long it is until the next tick."""
        return {
            "until_tick_ns": self._until_tick_ns,
            "is_limited": self.pages_per_second is not None,
            "pages_per_second": self.pages_per_second or 0,
        }

    def load(self, values: Mapping[str, Any]) -> None:
        """Takes the rate and the time over.

        Raises:
            GuestError: The next tick is farther away than a tick ever is.
        """
        if values["until_tick_ns"] > TICK_NS:
            raise GuestError(
                f"the pacer's next tick: expected at most {TICK_NS} ns, "
                f"got {values['until_tick_ns']}"
            )
        self._until_tick_ns = values["until_tick_ns"]
        self.pages_per_second = values["pages_per_second"] if values["is_limited"] else None

    def cont(self, now: int) -> None:
        """The guest runs from now on."""
        self._tick_ns = now + self._until_tick_ns
        self._granted_ns = now

    def stop(self, now: int) -> None:
        """The guest is stopped since now."""
        self._until_tick_ns = max(self._tick_ns - now, 0)

    def grant(self, now: int) -> Grant:
        """What may be done now."""
        is_tick = now >= self._tick_ns
        if is_tick:
            self._tick_ns = now + TICK_NS
        pages, next_page_ns = self._take_pages(now)
        return Grant(pages, is_tick, max(min(self._tick_ns, next_page_ns) - now, 0))

    def _take_pages(self, now: int) -> tuple[int, int]:
        """Pages that are due, and when the next one is."""
        rate = self.pages_per_second
        if rate is None:
            return MAX_GRANT, now
        if rate == 0:
            return 0, self._tick_ns
        # Rounded up, so that a page is due when its time has come, and not a moment earlier.
        page_ns = -(-_SECOND_NS // rate)
        self._granted_ns = max(self._granted_ns, now - max(_BURST_NS, page_ns))
        pages = min((now - self._granted_ns) * rate // _SECOND_NS, MAX_GRANT)
        self._granted_ns += -(-pages * _SECOND_NS // rate)
        return pages, self._granted_ns + page_ns
