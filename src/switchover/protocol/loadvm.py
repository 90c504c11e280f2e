"""Reading a migration stream: what may come next, and what came.

Feed bytes, take events:

    view = load.buffer.writable(); load.buffer.commit(channel.recv_into(view))
    while (event := load.next_event()) is not NEED_DATA: ...

The first error ends it: the same error is raised from then on. Page: docs/wire/stream.md.
"""

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import numpy as np

from ..errors import StreamError, TruncatedStream, UnsupportedStream, UsageError
from ..model.configuration import Configuration
from ..model.ramblock import TARGET_PAGE_BITS
from ..model.section import LiveParser, SectionHeader, SectionType
from ..wire.command import Command, CommandMessage, decode_command, ping_value
from ..wire.configuration import decode_configuration
from ..wire.cursor import Cursor
from ..wire.stream import (
    decode_footer,
    decode_header,
    decode_section_header,
    decode_section_id,
    decode_section_type,
    encode_footer,
    encode_section_continuation,
)
from .buffer import ReceiveBuffer
from .event import (
    NEED_DATA,
    Configured,
    Event,
    LiveSectionsEnded,
    NeedData,
    Pinged,
    ReturnPathOpened,
    SectionEnding,
    SectionItem,
    SectionStarted,
    StreamEnded,
    SwitchoverStarted,
)
from .grammar import MOVES, StreamState, expected_sections
from .tail import DeviceTail

T = TypeVar("T")
Steps = Generator[Event | NeedData, None, T]

_KNOWN_CAPABILITIES = frozenset({"x-ignore-shared", "mapped-ram"})
"""The capabilities that QEMU writes into a stream."""

_LIVE_STATES = frozenset({StreamState.SETUP, StreamState.ITERATE, StreamState.COMPLETE})
"""What is read section by section; what comes later has no lengths and is the tail's."""

_NOT_YET = {
    Command.POSTCOPY_ADVISE: "capability 'postcopy-ram' or 'dirty-bitmaps'",
    Command.POSTCOPY_LISTEN: "capability 'postcopy-ram'",
    Command.POSTCOPY_RUN: "capability 'postcopy-ram'",
    Command.POSTCOPY_RAM_DISCARD: "capability 'postcopy-ram'",
    Command.PACKAGED: "capability 'postcopy-ram'",
    Command.ENABLE_COLO: "capability 'x-colo'",
    Command.POSTCOPY_RESUME: "capability 'postcopy-ram'",
    Command.RECV_BITMAP: "capability 'postcopy-ram'",
}


class LoadVM:
    """The reading end of one stream.

    Args:
        parsers: One for each live section that is welcome.
        find_parser: Gives one for a live section of another name, or None where it is not welcome.

    Attributes:
        buffer: Where received bytes are to be put.
        state: How far the stream has come.
        is_at_end: Whether no more bytes will come.
        section_count: Live sections so far, those included that repeated and were skipped.
    """

    def __init__(
        self,
        parsers: Iterable[LiveParser],
        find_parser: Callable[[str], LiveParser | None] = lambda _: None,
    ) -> None:
        self.buffer = ReceiveBuffer()
        self.state = StreamState.HEADER
        self.section_count = 0
        self._parsers = {parser.idstr: parser for parser in parsers}
        self._find_parser = find_parser
        self._started: dict[int, SectionHeader] = {}
        self._live: set[int] = set()
        self._has_footers = True
        self._has_return_path = False
        self.is_at_end = False
        self._tail: DeviceTail | None = None
        self._steps = self._read_stream()
        self._error: Exception | None = None

    def receive_data(self, data: bytes | memoryview) -> None:
        """Copies bytes in, for those who have them already; no more than the buffer takes."""
        writable = self.buffer.writable()
        if len(data) > len(writable):
            raise UsageError(f"{len(data)} bytes at once, expected at most {len(writable)}")
        writable[: len(data)] = data
        self.buffer.commit(len(data))

    def receive_end(self) -> None:
        """Says that no more bytes will come."""
        self.is_at_end = True

    def next_event(self) -> Event | NeedData:
        """The next thing that happened, NEED_DATA when there is none yet.

        Raises:
            StreamError: The stream is wrong, or ended too early.
        """
        if self._error is not None:
            raise self._error
        try:
            return next(self._steps)
        except StopIteration:
            return self._after_end()
        except Exception as error:
            self._error = error
            raise

    @property
    def is_whole(self) -> bool:
        """Whether the stream has come to its end."""
        return self.state == StreamState.END

    def stall(self) -> StreamError:
        """What is wrong when the peer keeps the connection open and sends nothing more."""
        if self._tail is not None:
            return self._tail.failure()
        return TruncatedStream(
            "the stream stops",
            offset=self.buffer.received_bytes,
            expected=expected_sections(self.state),
            got="nothing",
        )

    def _after_end(self) -> NeedData:
        if len(self.buffer):
            self._error = StreamError(
                "bytes behind the end of the stream",
                offset=self.buffer.offset,
                expected="nothing",
                got=f"{len(self.buffer)} bytes",
            )
            raise self._error
        return NEED_DATA

    # Reading

    def _read_stream(self) -> Steps[None]:
        yield from self._decode(decode_header)
        section_type = yield from self._next_section()
        if section_type == SectionType.CONFIGURATION:
            self._move(section_type)
            configuration = yield from self._decode(decode_configuration)
            self._check_configuration(configuration)
            yield Configured(configuration)
            section_type = yield from self._next_section()
        else:
            yield Configured(None)
        while True:
            self._move(section_type)
            if section_type == SectionType.COMMAND:
                yield from self._read_command()
            else:
                yield from self._read_live_section(section_type)
            if self.state == StreamState.COMPLETE and not self._live:
                break
            section_type = yield from self._next_section()
        yield LiveSectionsEnded()
        yield from self._read_tail()

    def _decode(self, decode: Callable[[Cursor], T]) -> Steps[T]:
        """One value, as soon as all of its bytes are there."""
        while True:
            cursor = self.buffer.cursor()
            try:
                value = decode(cursor)
            except TruncatedStream:
                if self.is_at_end:
                    raise
            else:
                self.buffer.consume(cursor.position)
                return value
            yield NEED_DATA

    def _next_section(self) -> Steps[SectionType]:
        """The type of the next section."""
        return (yield from self._decode(decode_section_type))

    def _move(self, section_type: SectionType) -> None:
        state = MOVES[self.state].get(section_type)
        offset = self.buffer.offset - 1
        if section_type == SectionType.FULL:
            raise UnsupportedStream(
                "a device section before the end of RAM, as a device with early setup "
                "(virtio-mem) or a background snapshot sends it, which is not supported",
                offset=offset,
            )
        if state not in _LIVE_STATES:
            raise StreamError(
                "a section out of order",
                offset=offset,
                expected=expected_sections(self.state, _LIVE_STATES),
                got=section_type.name,
            )
        self.state = state

    def _check_configuration(self, configuration: Configuration) -> None:
        offset = self.buffer.offset
        for name in configuration.capabilities:
            if name not in _KNOWN_CAPABILITIES:
                raise StreamError(
                    "the configuration names an unknown capability",
                    offset=offset,
                    expected=" or ".join(sorted(_KNOWN_CAPABILITIES)),
                    got=f"'{name}'",
                )
            raise UnsupportedStream(f"capability '{name}' is not supported yet", offset=offset)
        if configuration.target_page_bits not in (None, TARGET_PAGE_BITS):
            raise UnsupportedStream(
                "the page size of the source's machine is not supported",
                offset=offset,
                expected=f"{TARGET_PAGE_BITS} bits",
                got=configuration.target_page_bits,
            )

    def _read_command(self) -> Steps[None]:
        offset = self.buffer.offset
        message = yield from self._decode(decode_command)
        yield self._command_event(message, offset)

    def _command_event(self, message: CommandMessage, offset: int) -> Event:
        match message.command:
            case Command.OPEN_RETURN_PATH:
                self._has_return_path = True
                return ReturnPathOpened()
            case Command.PING:
                if not self._has_return_path:
                    raise StreamError(
                        "a PING before the return path is open",
                        offset=offset,
                        expected="OPEN_RETURN_PATH first",
                    )
                return Pinged(ping_value(message))
            case Command.SWITCHOVER_START:
                return SwitchoverStarted()
        raise UnsupportedStream(
            f"command {message.command.name} belongs to {_NOT_YET[message.command]}, "
            "which is not supported yet",
            offset=offset,
        )

    def _read_live_section(self, section_type: SectionType) -> Steps[None]:
        if section_type == SectionType.START:
            header = yield from self._read_section_header()
        else:
            header = yield from self._read_section_id()
        if section_type == SectionType.END:
            yield SectionEnding(header)
        parser = self._parsers[header.idstr]
        empty_body = yield from self._read_body(section_type, header, parser)
        if section_type == SectionType.START:
            yield from self._find_footers()
            yield SectionStarted(header, self._has_footers)
        if self._has_footers:
            yield from self._decode(lambda cursor: decode_footer(cursor, header))
        self.section_count += 1
        if section_type == SectionType.PART and empty_body is not None:
            self._skip_repeats(header.section_id, empty_body)
        elif section_type == SectionType.END:
            self._live.discard(header.section_id)

    def _read_section_header(self) -> Steps[SectionHeader]:
        offset = self.buffer.offset
        header = yield from self._decode(decode_section_header)
        parser = self._parsers.get(header.idstr) or self._find_parser(header.idstr)
        if parser is None:
            raise UnsupportedStream(
                f"live section '{header.idstr}' is not supported",
                offset=offset,
                expected=" or ".join(f"'{idstr}'" for idstr in self._parsers),
            )
        if header.version_id != parser.version_id:
            raise StreamError(
                f"live section '{header.idstr}'",
                offset=offset,
                expected=f"version {parser.version_id}",
                got=header.version_id,
            )
        if header.section_id in self._started or any(
            started.idstr == header.idstr for started in self._started.values()
        ):
            raise StreamError(
                f"live section '{header.idstr}' with id {header.section_id} starts twice",
                offset=offset,
            )
        self._parsers[header.idstr] = parser
        self._started[header.section_id] = header
        self._live.add(header.section_id)
        return header

    def _read_section_id(self) -> Steps[SectionHeader]:
        offset = self.buffer.offset
        section_id = yield from self._decode(decode_section_id)
        if section_id not in self._live:
            raise StreamError(
                "a part of a section that has not started, or has ended",
                offset=offset,
                expected=f"section id {' or '.join(map(str, sorted(self._live)))}",
                got=section_id,
            )
        return self._started[section_id]

    def _read_body(
        self, section_type: SectionType, header: SectionHeader, parser: LiveParser
    ) -> Steps[bytes | None]:
        """Reads a live section's body; returns its bytes if it gave no item."""
        empty_body: bytes | None = b""
        while True:
            waiting = self.buffer.waiting()
            try:
                parsed = parser.parse(section_type, waiting, self.buffer.offset)
            except TruncatedStream:
                if self.is_at_end:
                    raise
                yield NEED_DATA
                continue
            if parsed.item is not None:
                empty_body = None
            elif empty_body is not None:
                empty_body += waiting[: parsed.size]
            self.buffer.consume(parsed.size)
            if parsed.item is not None:
                yield SectionItem(header, parsed.item)
            if parsed.is_last:
                return empty_body

    def _find_footers(self) -> Steps[None]:
        """Whether footers stand behind sections: machine types before 2.4 have none."""
        following = yield from self._decode(_peek)
        self._has_footers = following == SectionType.FOOTER

    def _skip_repeats(self, section_id: int, empty_body: bytes) -> None:
        """Skips the copies of the empty section just read that stand behind it.

        A source that waits for the SWITCHOVER_ACK sends tens of thousands of them a second.
        """
        section = encode_section_continuation(SectionType.PART, section_id) + empty_body
        if self._has_footers:
            section += encode_footer(section_id)
        count = _count_repeats(self.buffer.waiting(), section)
        self.section_count += count
        self.buffer.consume(count * len(section))

    def _read_tail(self) -> Steps[None]:
        self._tail = DeviceTail(self.buffer.offset, has_footers=self._has_footers)
        while True:
            waiting = self.buffer.waiting()
            devices = self._tail.receive(waiting)
            self.buffer.consume(len(waiting))
            if devices is not None:
                break
            if self.is_at_end:
                raise self._tail.failure()
            yield NEED_DATA
        self.state = StreamState.END
        yield StreamEnded(devices)


def _peek(cursor: Cursor) -> int:
    return cursor.peek_u8("a section footer")


def _count_repeats(data: memoryview, pattern: bytes) -> int:
    """How many times `data` begins with `pattern`, one behind the other."""
    size = len(pattern)
    count = len(data) // size
    if count == 0 or data[:size] != pattern:
        return 0
    rows = np.frombuffer(data, np.uint8, count * size).reshape(count, size)
    alike = (rows == np.frombuffer(pattern, np.uint8)).all(axis=1)
    return count if alike.all() else int(alike.argmin())
