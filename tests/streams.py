"""Whole synthetic streams, and what a reader makes of one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from tests.vmstates import DEVICE, TIMER, VALUES

from switchover.model.configuration import Configuration
from switchover.model.device import DeviceState
from switchover.model.ramblock import (
    TARGET_PAGE_SIZE,
    PageIndices,
    PageRun,
    RAMBlock,
    RAMBlocksListed,
    ZeroRun,
)
from switchover.model.section import LiveParser, SectionHeader
from switchover.protocol.event import (
    NEED_DATA,
    Event,
    SectionItem,
    StreamEnded,
)
from switchover.protocol.loadvm import LoadVM
from switchover.protocol.savevm import Buffers, SaveVM
from switchover.wire.command import Command, CommandMessage, ping
from switchover.wire.description import encode_description
from switchover.wire.prefixed import PrefixedParser, encode_prefixed
from switchover.wire.ram import EMPTY_BODY, RAMEncoder, RAMParser
from switchover.wire.vmstate import describe_device, encode_vmstate

MACHINE = Configuration("pc-q35-10.0")
RAM_HEADER = SectionHeader(1, "ram", 0, 4)
LIVE_HEADER = SectionHeader(70, "mine", 0, 1)
TIMER_HEADER = SectionHeader(0, "timer", 0, 2)
DEVICE_HEADER = SectionHeader(9, "0000:00:1f.2/device", 0, 3)
PC_RAM = RAMBlock("pc.ram", 64 * TARGET_PAGE_SIZE)
PC_BIOS = RAMBlock("pc.bios", 4 * TARGET_PAGE_SIZE)
BLOCKS = (PC_RAM, PC_BIOS, RAMBlock("/rom@etc/acpi/tables", TARGET_PAGE_SIZE))
TIMER_VALUES = {"cpu_ticks_offset": 1, "cpu_clock_offset": -1}

Page = tuple[str, int, bytes | None]
"""A page by its block and number, with its content; None for a zero page."""


def join(buffers: Buffers) -> bytes:
    """The bytes of buffers, before the next are asked for."""
    return b"".join(buffers)


def page_run(block: RAMBlock, indices: Sequence[int], seed: int = 0) -> PageRun:
    """Pages that differ in content from each other."""
    pages = np.arange(len(indices), dtype=np.uint8)[:, None] + np.arange(TARGET_PAGE_SIZE)
    return PageRun(block, np.array(indices, np.int64), (pages * 7 + seed + 1).astype(np.uint8))


def device_sections(*, has_footers: bool = True) -> tuple[bytes, bytes]:
    """Two device sections, back to back, and the description of them."""
    save = SaveVM(has_footers=has_footers)
    ram = RAMEncoder()
    save.header(MACHINE)
    save.start_section(RAM_HEADER, [ram.block_list(()), EMPTY_BODY])
    save.end_section(RAM_HEADER, [EMPTY_BODY])
    data = join(save.full_section(TIMER_HEADER, encode_vmstate(TIMER, TIMER_VALUES)))
    data += join(save.full_section(DEVICE_HEADER, encode_vmstate(DEVICE, VALUES)))
    described = [
        describe_device(TIMER_HEADER, TIMER, TIMER_VALUES),
        describe_device(DEVICE_HEADER, DEVICE, VALUES),
    ]
    return data, encode_description(MACHINE, described)


def live_sections(
    configuration: Configuration | None = MACHINE, *, has_footers: bool = True, mine: bool = True
) -> Iterator[bytes]:
    """The stream of a running machine up to the end of its last live section.

    In it are several blocks, runs of pages and of zero pages, scattered pages, a page that comes
    twice in one run, runs that go on in the next section, empty sections, and another live section
    beside RAM.
    """
    save, ram = SaveVM(has_footers=has_footers), RAMEncoder()
    yield join(save.header(configuration))
    yield join(save.command(CommandMessage(Command.OPEN_RETURN_PATH)))
    yield join(save.command(ping(1)))
    yield join(save.start_section(RAM_HEADER, [ram.block_list(BLOCKS), EMPTY_BODY]))
    if mine:
        yield join(save.start_section(LIVE_HEADER, [encode_prefixed(b"setup")]))
    runs: list[Sequence[PageRun | ZeroRun]] = [
        [page_run(PC_RAM, [0, 1, 2, 3]), ZeroRun(PC_RAM, slice(4, 40))],
        [ZeroRun(PC_RAM, np.array([60, 40, 50], np.int64))],
        [page_run(PC_RAM, [45, 41, 41], seed=50)],
        [],
        [page_run(PC_BIOS, [3], seed=9), ZeroRun(BLOCKS[2], slice(0, 1))],
        [],
        [page_run(PC_RAM, [2, 63], seed=99)],
    ]
    for number, section in enumerate(runs):
        body = b"".join(
            join([*(ram.pages(run) if isinstance(run, PageRun) else ram.zeros(run))])
            for run in section
        )
        yield join(save.part_section(RAM_HEADER, [body, EMPTY_BODY]))
        if mine:
            yield join(save.part_section(LIVE_HEADER, [encode_prefixed(b"\x7e" * number)]))
    yield join(save.command(CommandMessage(Command.SWITCHOVER_START)))
    last = join([*ram.zeros(ZeroRun(PC_RAM, slice(1, 2)))])
    yield join(save.end_section(RAM_HEADER, [last, EMPTY_BODY]))
    if mine:
        yield join(save.end_section(LIVE_HEADER, [encode_prefixed(b"done")]))


def end(description: bytes) -> bytes:
    """The end mark and the description."""
    return b"\x00\x06" + len(description).to_bytes(4, "big") + description


def whole_stream(
    configuration: Configuration | None = MACHINE, *, has_footers: bool = True, mine: bool = True
) -> bytes:
    """The live sections, two devices and their description."""
    data, description = device_sections(has_footers=has_footers)
    live = b"".join(live_sections(configuration, has_footers=has_footers, mine=mine))
    return live + data + end(description)


def small_stream() -> bytes:
    """The shortest stream with a page of each kind, devices and a description."""
    save, ram = SaveVM(), RAMEncoder()
    data, description = device_sections()
    block = RAMBlock("ram", 4 * TARGET_PAGE_SIZE)
    parts: list[Buffers] = [
        save.header(MACHINE),
        save.start_section(RAM_HEADER, [ram.block_list([block]), EMPTY_BODY]),
        save.command(CommandMessage(Command.OPEN_RETURN_PATH)),
        save.command(ping(1)),
        [join(save.part_section(RAM_HEADER, [*ram.pages(page_run(block, [1])), EMPTY_BODY]))],
        [
            join(
                save.part_section(RAM_HEADER, [*ram.zeros(ZeroRun(block, slice(2, 4))), EMPTY_BODY])
            )
        ],
        save.end_section(RAM_HEADER, [EMPTY_BODY]),
        save.device_sections(data),
        save.end(description),
    ]
    return b"".join(map(join, parts))


def parsers() -> list[LiveParser]:
    """One for each live section of these streams."""
    return [RAMParser(), PrefixedParser("mine")]


@dataclass
class Received:
    """What came out of a stream, without regard to how it was cut into reads.

    Attributes:
        events: Every event, but for items of RAM.
        pages: Every page, in order.
        devices: The device state, once the stream is whole.
    """

    events: list[Event] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    devices: DeviceState | None = None

    def take(self, event: Event) -> None:
        """Notes an event, while its views are valid."""
        match event:
            case SectionItem(item=PageRun() as run):
                contents = [row.tobytes() for row in run.pages]
                self.pages += [
                    (run.block.idstr, index, content)
                    for index, content in zip(numbers(run.indices), contents, strict=True)
                ]
            case SectionItem(item=ZeroRun() as run):
                self.pages += [(run.block.idstr, index, None) for index in numbers(run.indices)]
            case StreamEnded(devices=devices):
                self.devices = devices
                self.events.append(event)
            case _:
                self.events.append(event)

    def ram(self) -> dict[str, bytes]:
        """The RAM that the pages leave, by block."""
        listed = [
            event.item
            for event in self.events
            if isinstance(event, SectionItem) and isinstance(event.item, RAMBlocksListed)
        ]
        memory = {block.idstr: bytearray(block.used_length) for block in listed[0].blocks}
        for idstr, index, content in self.pages:
            place = slice(index * TARGET_PAGE_SIZE, (index + 1) * TARGET_PAGE_SIZE)
            memory[idstr][place] = content or bytes(TARGET_PAGE_SIZE)
        return {idstr: bytes(block) for idstr, block in memory.items()}


def numbers(indices: PageIndices) -> list[int]:
    """The page numbers of a run."""
    if isinstance(indices, slice):
        return list(range(indices.start, indices.stop))
    return [int(index) for index in indices]


def drain(load: LoadVM, received: Received) -> None:
    """Takes every event that is there."""
    while (event := load.next_event()) is not NEED_DATA:
        received.take(event)


def feed(load: LoadVM, chunks: Iterable[bytes]) -> Received:
    """Everything that comes out of the chunks, and then of the end.

    Raises:
        StreamError: They are no whole stream.
    """
    received = Received()
    for chunk in chunks:
        load.receive_data(chunk)
        drain(load, received)
    load.receive_end()
    drain(load, received)
    return received
