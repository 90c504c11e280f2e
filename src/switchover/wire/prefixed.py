"""The body of a live section that says its own length: what users write who need no other form.

A body is four bytes of length and that many bytes. Page: docs/wire/stream.md.
"""

from ..errors import StreamError
from ..model.section import Parsed, SectionType
from .cursor import Cursor, u32

MAX_PREFIXED_BODY = 16 << 20
"""What one section may hold unless its owner says otherwise: it is gathered in memory."""


class PrefixedParser:
    """Takes length-prefixed bodies apart; gives each as `bytes`, the empty one too.

    Args:
        idstr: The section's name.
        version_id: Its version.
        max_bytes: A longer body is refused.
    """

    def __init__(self, idstr: str, version_id: int = 1, max_bytes: int = MAX_PREFIXED_BODY) -> None:
        self.idstr = idstr
        self.version_id = version_id
        self._max_bytes = max_bytes

    def parse(self, section_type: SectionType, body: memoryview, offset: int) -> Parsed:
        """Takes one step; see `switchover.model.section.LiveParser`."""
        cursor = Cursor(body, offset)
        size = cursor.u32(f"the length of section '{self.idstr}'")
        if size > self._max_bytes:
            raise StreamError(
                f"section '{self.idstr}' is too long",
                offset=offset,
                expected=f"at most {self._max_bytes} bytes",
                got=size,
            )
        item = bytes(cursor.take(size, f"section '{self.idstr}'"))
        return Parsed(cursor.position, item, is_last=True)


def encode_prefixed(data: bytes) -> bytes:
    """A body that PrefixedParser reads."""
    return u32(len(data)) + data
