"""The other side of a migration, played by bytes, and the engine at work beside it.

A small guest, its stream in named pieces, and the two ends that talk over a socket: what a real
QEMU would send and read, in whatever order and as far as a test wants it.
"""

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from switchover.channel.base import Channel
from switchover.channel.connection import Connection, Listener
from switchover.channel.file import AtomicFile, open_file
from switchover.engine.destination import ParkingDestination
from switchover.engine.incoming import ReceiveOptions
from switchover.engine.load import load_guest
from switchover.engine.progress import Progress
from switchover.engine.source import ParkedSource
from switchover.guest.parked import ParkedGuest
from switchover.model.capability import Capability
from switchover.model.configuration import Configuration
from switchover.model.device import DeviceSection, DeviceState
from switchover.model.ramblock import TARGET_PAGE_SIZE, PageRun, RAMBlock
from switchover.model.section import SectionHeader, SectionType
from switchover.model.vmstate import VmstateDescription, VmstateField, VmstateType
from switchover.wire.command import Command, CommandMessage, encode_command, ping
from switchover.wire.configuration import encode_configuration
from switchover.wire.description import encode_description, encode_description_section
from switchover.wire.ram import EMPTY_BODY, RAM_IDSTR, RAM_VERSION, RAMEncoder
from switchover.wire.return_path import (
    ReturnPathMessage,
    ReturnPathMessageType,
    encode_return_path,
)
from switchover.wire.stream import (
    EOF,
    encode_footer,
    encode_header,
    encode_section_continuation,
    encode_section_start,
)
from switchover.wire.vmstate import describe_device, encode_vmstate
from switchover.worker import Worker

MACHINE = "pc-q35-9.2"
RAM_HEADER = SectionHeader(2, RAM_IDSTR, 0, RAM_VERSION)

OPEN_RETURN_PATH = encode_command(CommandMessage(Command.OPEN_RETURN_PATH))
SWITCHOVER_START = encode_command(CommandMessage(Command.SWITCHOVER_START))
EMPTY_PART = (
    encode_section_continuation(SectionType.PART, RAM_HEADER.section_id)
    + EMPTY_BODY
    + encode_footer(RAM_HEADER.section_id)
)
"""What a source that waits for the SWITCHOVER_ACK sends all the time."""

ACK = encode_return_path(ReturnPathMessage(ReturnPathMessageType.SWITCHOVER_ACK))

RETURN_PATH = frozenset({Capability.RETURN_PATH})
SWITCHOVER_ACK = RETURN_PATH | {Capability.SWITCHOVER_ACK}

_TIMEOUT_S = 60


def encode_ping(value: int) -> bytes:
    return encode_command(ping(value))


def pong(value: int) -> bytes:
    return _message(ReturnPathMessageType.PONG, value)


def shut(value: int = 0) -> bytes:
    return _message(ReturnPathMessageType.SHUT, value)


def _message(message_type: ReturnPathMessageType, value: int) -> bytes:
    return encode_return_path(ReturnPathMessage(message_type, value.to_bytes(4, "big")))


# A guest and its stream


def make_guest(
    machine: str | None = MACHINE, *, pages: int = 6, device_size: int = 40
) -> ParkedGuest:
    """A guest of two RAM blocks and two devices; of its pages each sixth is not zero.

    Args:
        machine: Its machine type; None for one that does not say.
        pages: Pages of its larger RAM block.
        device_size: Bytes of state of each device, more or less.
    """
    configuration = None if machine is None else Configuration(machine)
    blocks = RAMBlock("pc.ram", pages * TARGET_PAGE_SIZE), RAMBlock("vga.vram", TARGET_PAGE_SIZE)
    guest = ParkedGuest(configuration, blocks, RAM_HEADER)
    ram = guest.blocks["pc.ram"]
    indices = np.arange(1, pages, 6, dtype=np.int64)
    content = np.random.default_rng(pages).integers(
        0, 256, (len(indices), TARGET_PAGE_SIZE), np.uint8
    )
    ram.store_pages(PageRun(ram.block, indices, content))
    guest.devices = make_devices(configuration or Configuration("none"), device_size)
    return guest


def make_devices(configuration: Configuration, size: int) -> DeviceState:
    """Two devices of one kind."""
    layout = VmstateDescription(
        "timer",
        (
            VmstateField("ticks", VmstateType.UINT32),
            VmstateField("state", VmstateType.BUFFER, size=size),
        ),
    )
    data = b""
    sections, described = [], []
    for instance in range(2):
        header = SectionHeader(10 + instance, "timer", instance, layout.version_id)
        values = {"ticks": instance, "state": bytes(instance + index % 7 for index in range(size))}
        body = encode_vmstate(layout, values)
        data += encode_section_start(SectionType.FULL, header)
        sections.append(DeviceSection(header, len(data), len(body)))
        data += body + encode_footer(header.section_id)
        described.append(describe_device(header, layout, values))
    return DeviceState(data, encode_description(configuration, described), tuple(sections))


def make_stream(
    guest: ParkedGuest,
    *,
    opens_return_path: bool = True,
    pings: Iterable[int] = (),
    sends_switchover_start: bool = False,
) -> dict[str, bytes]:
    """The stream of a guest in its pieces, in order and by name."""
    assert guest.devices is not None
    ram = RAMEncoder()
    blocks = [held.block for held in guest.blocks.values()]
    section_id = guest.ram_header.section_id
    pages = bytearray()
    for held in guest.blocks.values():
        for first in range(0, held.block.page_count, 1000):
            run = PageRun(
                held.block,
                slice(first, min(first + 1000, held.block.page_count)),
                held.memory[first : first + 1000],
            )
            pages += encode_section_continuation(SectionType.PART, section_id)
            pages += b"".join(ram.pages(run)) + EMPTY_BODY + encode_footer(section_id)
    configuration = guest.configuration
    return {
        "header": encode_header(),
        "configuration": b"" if configuration is None else encode_configuration(configuration),
        "return path": OPEN_RETURN_PATH if opens_return_path else b"",
        "pings": b"".join(map(encode_ping, pings)),
        "block list": encode_section_start(SectionType.START, guest.ram_header)
        + RAMEncoder().block_list(blocks)
        + EMPTY_BODY
        + encode_footer(section_id),
        "pages": bytes(pages),
        "switchover start": SWITCHOVER_START if sends_switchover_start else b"",
        "end of RAM": encode_section_continuation(SectionType.END, section_id)
        + EMPTY_BODY
        + encode_footer(section_id),
        "devices": guest.devices.data,
        "end mark": EOF,
        "description": encode_description_section(guest.devices.description)
        + guest.devices.description,
    }


def join(pieces: dict[str, bytes], *, since: str | None = None, until: str | None = None) -> bytes:
    """The pieces from one on, and up to one that is no longer among them."""
    names = list(pieces)
    begin = 0 if since is None else names.index(since)
    end = len(names) if until is None else names.index(until)
    return b"".join(pieces[name] for name in names[begin:end])


def assert_same_guest(left: ParkedGuest, right: ParkedGuest) -> None:
    """Bit for bit."""
    assert left.configuration == right.configuration
    assert left.ram_header == right.ram_header
    assert left.has_footers == right.has_footers
    assert left.devices == right.devices
    assert list(left.blocks) == list(right.blocks)
    for name, held in left.blocks.items():
        assert held.block == right.blocks[name].block
        assert np.array_equal(held.memory, right.blocks[name].memory)


def load_file(path: Path) -> ParkedGuest:
    """The guest that is parked in a file."""
    with open_file(str(path), str(path)) as channel:
        return load_guest(channel)


# The ends of a connection


class PeerSocket:
    """The other end of a connection; nothing on it waits for ever.

    Args:
        sock: The socket, which is this object's from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(_TIMEOUT_S)
        self.socket = sock

    def __enter__(self) -> "PeerSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Sends all of it."""
        self.socket.sendall(data)

    def leave(self) -> None:
        """Sends nothing more, but goes on reading."""
        with suppress(OSError):  # The other side may have gone before.
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Goes away."""
        self.socket.close()

    def recv(self, size: int) -> bytes:
        """So many bytes, or fewer if the other side ends before."""
        received = bytearray()
        while len(received) < size:
            data = self.socket.recv(min(size - len(received), 1 << 20))
            if not data:
                break
            received += data
        return bytes(received)

    def recv_rest(self) -> bytes:
        """All that comes until the other side ends."""
        received = bytearray()
        try:
            while data := self.socket.recv(1 << 20):
                received += data
        except ConnectionResetError:
            pass  # It left without having read everything: an end like any other.
        return bytes(received)


@contextmanager
def joined() -> Iterator[tuple[Connection, PeerSocket]]:
    """Two ends of a connection; the first is the engine's."""
    ours, theirs = socket.socketpair()
    with Connection(ours, "pair") as channel, PeerSocket(theirs) as peer:
        yield channel, peer


def open_pipe(data: bytes) -> int:
    """A pipe that holds a few bytes and then ends; its descriptor."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def connect_to(listener: Listener) -> PeerSocket:
    """A peer that comes to a listener."""
    name = listener._socket.getsockname()
    sock = socket.socket(listener._socket.family)
    sock.settimeout(_TIMEOUT_S)
    sock.connect(name)
    return PeerSocket(sock)


# The engine


class Destination:
    """A destination, which runs in the thread of the test or in one of its own.

    Args:
        incoming: Where its guest comes from.
        path: Where it parks it.
        options: How it behaves.
    """

    def __init__(
        self, incoming: Channel | Listener, path: Path, options: ReceiveOptions | None = None
    ) -> None:
        self.path = path
        self.progress = Progress()
        self.warnings: list[str] = []
        self._incoming = incoming
        self._options = options or ReceiveOptions(RETURN_PATH)
        self._worker: Worker | None = None

    def run(self) -> None:
        """Does it all."""
        with AtomicFile(self.path) as file:
            self.engine = ParkingDestination(
                self._incoming, file, self._options, self.progress, self.warnings.append
            )
            self.engine.run()

    def start(self) -> "Destination":
        """Begins, in a thread."""
        self._worker = Worker("test/dst", self.run)
        return self

    def error(self) -> BaseException | None:
        """What it ended with."""
        assert self._worker is not None
        self._worker.join()
        return self._worker.error

    def guest(self) -> ParkedGuest:
        """The guest that it parked without an error."""
        if error := self.error():
            raise error
        return load_file(self.path)


class Source:
    """A source that runs in a thread.

    Args:
        guest: What it sends.
        channel: Where it sends it.
    """

    def __init__(self, guest: ParkedGuest, channel: Channel) -> None:
        self.progress = Progress()
        self._engine = ParkedSource(guest, channel, self.progress)
        self._worker = Worker("test/src", self._engine.run)

    def error(self) -> BaseException | None:
        """What it ended with."""
        self._worker.join()
        return self._worker.error


def parked_names(directory: Path) -> list[str]:
    """What stands in a directory."""
    return sorted(path.name for path in directory.iterdir())
