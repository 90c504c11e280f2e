"""From a guest to its stream."""

from collections.abc import Iterable

import numpy as np
import pytest
from tests.engine.peer import (
    RAM_HEADER,
    assert_same_guest,
    make_devices,
    make_guest,
    open_pipe,
)

from switchover.channel.file import DescriptorChannel
from switchover.engine.load import GuestLoader, load_guest
from switchover.engine.progress import Progress
from switchover.engine.save import save_guest
from switchover.errors import GuestError, StreamError
from switchover.guest.parked import HeldDevice, ParkedGuest
from switchover.model.configuration import Configuration
from switchover.model.ramblock import TARGET_PAGE_SIZE, PageRun, RAMBlock, ZeroRun
from switchover.model.section import SectionHeader
from switchover.protocol.event import NEED_DATA, SectionItem
from switchover.protocol.grammar import StreamState
from switchover.protocol.savevm import SaveVM
from switchover.wire.ram import MAX_RUN
from switchover.wire.vfio import INIT_DATA_SENT


def saved(guest: ParkedGuest, progress: Progress | None = None) -> bytes:
    """The whole stream; each buffer is taken before the next are asked for, as promised."""
    data = bytearray()
    for buffers in save_guest(
        guest,
        SaveVM(has_footers=guest.has_footers),
        progress or Progress(),
        opens_return_path=False,
        sends_switchover_start=False,
    ):
        for buffer in buffers:
            data += buffer
    return bytes(data)


def guest_with(pages: Iterable[int], page_count: int) -> ParkedGuest:
    """A guest of whose only block these pages are not zero."""
    configuration = Configuration("pc-q35-10.0")
    block = RAMBlock("pc.ram", page_count * TARGET_PAGE_SIZE)
    guest = ParkedGuest(configuration, [block], RAM_HEADER)
    held = guest.blocks["pc.ram"]
    for page in pages:
        held.memory[page] = page % 255 + 1
        held.populated[page] = True
    guest.devices = make_devices(configuration, 8)
    return guest


@pytest.mark.parametrize(
    ("pages", "page_count"),
    [
        ([], 1),
        ([0], 1),
        ([], 3 * MAX_RUN),
        (range(2 * MAX_RUN), 2 * MAX_RUN),
        (range(2 * MAX_RUN + 1), 2 * MAX_RUN + 1),
        ([0, MAX_RUN - 1, MAX_RUN, 2 * MAX_RUN], 2 * MAX_RUN + 1),
        (range(1, 2 * MAX_RUN, 2), 2 * MAX_RUN),
        (range(100, 200), 1000),
    ],
)
def test_each_page_comes_once(pages: Iterable[int], page_count: int) -> None:
    guest = guest_with(pages, page_count)
    progress = Progress()
    data = saved(guest, progress)
    assert progress.pages == len(list(pages))
    assert progress.pages + progress.zero_pages == page_count
    loader = GuestLoader(1 << 30, Progress())
    seen: list[int] = []
    for begin in range(0, len(data), 1 << 20):
        loader.load.receive_data(data[begin : begin + (1 << 20)])
        while (event := loader.load.next_event()) is not NEED_DATA:
            if isinstance(event, SectionItem) and isinstance(event.item, PageRun | ZeroRun):
                seen += np.arange(page_count)[event.item.indices].tolist()
    assert sorted(seen) == list(range(page_count))


def test_what_was_saved_is_the_guest() -> None:
    for guest in (make_guest(), make_guest(None), guest_with([1], 4)):
        with DescriptorChannel(open_pipe(saved(guest)), "pipe") as channel:
            assert_same_guest(load_guest(channel), guest)


def test_guest_without_footers_is_saved_without() -> None:
    guest = make_guest(None)
    assert guest.devices is not None
    guest.has_footers = False
    data = saved(guest)[: -len(guest.devices.description)]
    assert b"\x7e\0\0\0\x02" not in data


def test_state_tells_how_far_the_buffers_bring_the_stream() -> None:
    guest = make_guest()
    save = SaveVM()
    states = [
        save.state
        for _ in save_guest(
            guest, save, Progress(), opens_return_path=True, sends_switchover_start=True
        )
    ]
    assert states == sorted(states, key=list(StreamState).index)
    assert states.count(StreamState.END) == 1
    assert states[-1] == StreamState.END


def test_guest_that_is_not_whole_is_not_saved() -> None:
    guest = ParkedGuest(None, [RAMBlock("pc.ram", 4096)], RAM_HEADER)
    with pytest.raises(GuestError, match="its devices are missing"):
        saved(guest)


def test_guest_without_any_device_or_ram_is_saved() -> None:
    configuration = Configuration("none")
    guest = ParkedGuest(configuration, [], RAM_HEADER)
    devices = make_devices(configuration, 8)
    empty = devices.description[: devices.description.index(b'"devices"')] + b'"devices": []}'
    guest.devices = type(devices)(b"", empty, ())
    with DescriptorChannel(open_pipe(saved(guest)), "pipe") as channel:
        assert_same_guest(load_guest(channel), guest)


# VFIO devices


def guest_with_device(data: bytes, precopy_bytes: int) -> ParkedGuest:
    guest = make_guest()
    header = SectionHeader(70, "0000:00:01.0/vfio", 0, 1)
    guest.live[header.idstr] = HeldDevice(header, bytearray(data), precopy_bytes)
    return guest


@pytest.mark.parametrize(("size", "precopy_bytes"), [(0, 0), (5, 0), (5, 5), (40_000, 7)])
def test_device_that_is_held_comes_back(size: int, precopy_bytes: int) -> None:
    guest = guest_with_device(bytes(range(256)) * (size // 256) + bytes(size % 256), precopy_bytes)
    (device,) = guest.live.values()
    with DescriptorChannel(open_pipe(saved(guest)), "pipe") as channel:
        (again,) = load_guest(channel).live.values()
    assert again == device
    assert guest.live_bytes == size


@pytest.mark.parametrize(("precopy_bytes", "marks"), [(0, 0), (5, 1)])
def test_destination_is_told_when_the_initial_data_is_there(precopy_bytes: int, marks: int) -> None:
    guest = guest_with_device(b"initial and rest", precopy_bytes)
    for is_marked in (False, True):
        buffers = save_guest(
            guest,
            SaveVM(),
            Progress(),
            opens_return_path=False,
            sends_switchover_start=False,
            marks_initial_data=is_marked,
        )
        stream = b"".join(bytes(part) for written in buffers for part in written)
        assert stream.count(INIT_DATA_SENT) == marks * is_marked


def test_devices_with_more_state_than_allowed_are_refused() -> None:
    stream = saved(guest_with_device(bytes(100), 0))
    loader = GuestLoader(make_guest().ram_bytes + 99, Progress())
    loader.load.receive_data(stream)
    with pytest.raises(StreamError) as caught:
        while (event := loader.load.next_event()) is not NEED_DATA:
            loader._apply(event)
    assert "0000:00:01.0/vfio: the guest's devices have too much state" in str(caught.value)
