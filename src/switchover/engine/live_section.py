"""A live section besides RAM, at either end: what whoever sends or receives a guest knows of it."""

from collections.abc import Iterator
from typing import Protocol

from ..model.section import LiveParser, SectionHeader
from ..protocol.pace import Pace
from ..protocol.savevm import Buffers


class LiveSource(Protocol):
    """A live section as the source writes it.

    Attributes:
        header: What its START says.
        save_pace: How fast the device gave its data so far.
    """

    header: SectionHeader
    save_pace: Pace

    def setup(self) -> Buffers:
        """The body of its START; the guest may run."""
        ...

    def pending_bytes(self) -> int:
        """What can be sent while the guest runs, as far as it is known."""
        ...

    def pending_exact(self) -> tuple[int, int]:
        """The same, asked for now; and what is left for when the guest is stopped."""
        ...

    def iterate(self) -> Buffers:
        """The body of a PART; none where there is nothing for now."""
        ...

    def complete(self) -> Iterator[Buffers]:
        """Bodies of further PARTs; the guest is stopped."""
        ...

    def end(self) -> Iterator[Buffers]:
        """The pieces of the body of its END."""
        ...

    def state(self) -> bytes | None:
        """The body of its FULL section; none where it has none."""
        ...

    def finish(self, *, is_moved: bool) -> None:
        """The migration is over."""
        ...


class LiveDestination(Protocol):
    """A live section as the destination takes it.

    Attributes:
        idstr: Its name.
        wants_ack: Whether it can get ready while the guest runs, and says when.
        load_pace: How fast the device took its data so far.
    """

    idstr: str
    wants_ack: bool
    load_pace: Pace

    @property
    def parser(self) -> LiveParser:
        """Takes it apart."""
        ...

    def begin(self) -> None:
        """A migration begins."""
        ...

    def load(self, item: object, offset: int) -> None:
        """Takes an item of its parser's.

        Args:
            item: The item.
            offset: Where the stream is, for errors.
        """
        ...

    def load_state(self, body: bytes, offset: int) -> None:
        """Takes the body of its FULL section."""
        ...

    @property
    def needs_state(self) -> bool:
        """Whether it has a FULL section."""
        ...

    def end(self) -> None:
        """Everything is here."""
        ...
