"""Writing a migration stream: what may be written next, by the same table that readers go by.

Each method gives the buffers to be written, in order; views among them are valid until the next
call. A call out of order is a UsageError. Page: docs/wire/stream.md.
"""

from collections.abc import Iterable, Iterator

from ..errors import UsageError
from ..model.configuration import Configuration
from ..model.section import SectionHeader, SectionType
from ..wire.command import CommandMessage, encode_command
from ..wire.configuration import encode_configuration
from ..wire.description import encode_description_section
from ..wire.stream import (
    EOF,
    encode_footer,
    encode_header,
    encode_section_continuation,
    encode_section_start,
)
from .grammar import MOVES, StreamState, expected_sections

Buffers = list[bytes | memoryview]


class SaveVM:
    """The writing end of one stream.

    Args:
        has_footers: Whether a footer stands behind each section; machine types before 2.4 want
            none.
    """

    def __init__(self, *, has_footers: bool = True) -> None:
        self.state = StreamState.HEADER
        self._has_footers = has_footers
        self._live: set[int] = set()

    def header(self, configuration: Configuration | None) -> Buffers:
        """What every stream begins with.

        Args:
            configuration: None for machine types before 2.4, which send none.
        """
        if configuration is None:
            return [encode_header()]
        self._move(SectionType.CONFIGURATION)
        return [encode_header(), encode_configuration(configuration)]

    def command(self, message: CommandMessage) -> Buffers:
        """A command."""
        self._move(SectionType.COMMAND)
        return [encode_command(message)]

    def start_section(self, header: SectionHeader, body: Buffers) -> Buffers:
        """The START section of a live device."""
        if header.section_id in self._live:
            raise UsageError(f"section '{header.idstr}' starts twice")
        self._move(SectionType.START)
        self._live.add(header.section_id)
        return [
            encode_section_start(SectionType.START, header),
            *body,
            *self._footer(header.section_id),
        ]

    def part_section(self, header: SectionHeader, body: Buffers) -> Buffers:
        """A PART section of a live device that has started."""
        return self._continuation(SectionType.PART, header, body)

    def end_section(self, header: SectionHeader, body: Buffers) -> Buffers:
        """The END section of a live device, once its machine is stopped."""
        buffers = self._continuation(SectionType.END, header, body)
        self._live.discard(header.section_id)
        return buffers

    def end_section_pieces(
        self, header: SectionHeader, pieces: Iterable[Buffers]
    ) -> Iterator[Buffers]:
        """An END section whose body is too large to be there at once.

        Args:
            header: The section.
            pieces: Its body; each is asked for when the one before was written.
        """
        first, *last = self.end_section(header, [])
        before: Buffers = [first]
        for piece in pieces:
            yield [*before, *piece]
            before = []
        if before or last:
            yield [*before, *last]

    def full_section(self, header: SectionHeader, body: bytes) -> Buffers:
        """The one section of a device that is not live."""
        self._move_behind_live(SectionType.FULL)
        return [
            encode_section_start(SectionType.FULL, header),
            body,
            *self._footer(header.section_id),
        ]

    def device_sections(self, data: bytes) -> Buffers:
        """All device sections of a guest that came as a stream, as they came."""
        self._move_behind_live(SectionType.FULL)
        return [data]

    def end(self, description: bytes) -> Buffers:
        """The end mark and the VM description, a JSON text."""
        self._move_behind_live(SectionType.EOF)
        self._move(SectionType.VMDESCRIPTION)
        return [EOF, encode_description_section(description), description]

    def _continuation(
        self, section_type: SectionType, header: SectionHeader, body: Buffers
    ) -> Buffers:
        if header.section_id not in self._live:
            raise UsageError(f"section '{header.idstr}' has not started, or has ended")
        self._move(section_type)
        return [
            encode_section_continuation(section_type, header.section_id),
            *body,
            *self._footer(header.section_id),
        ]

    def _footer(self, section_id: int) -> Buffers:
        return [encode_footer(section_id)] if self._has_footers else []

    def _move_behind_live(self, section_type: SectionType) -> None:
        if self._live:
            raise UsageError(
                f"a {section_type.name} section comes behind the END of every live section"
            )
        self._move(section_type)

    def _move(self, section_type: SectionType) -> None:
        state = MOVES[self.state].get(section_type)
        if state is None:
            raise UsageError(
                f"a {section_type.name} section cannot be written now, "
                f"expected {expected_sections(self.state)}"
            )
        self.state = state
