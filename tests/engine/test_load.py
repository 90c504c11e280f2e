"""From a stream to a guest."""

from pathlib import Path

import numpy as np
import pytest
from tests.engine.peer import (
    assert_same_guest,
    join,
    load_file,
    make_guest,
    make_stream,
    open_pipe,
)

from switchover.channel.file import DescriptorChannel, open_file
from switchover.engine.load import PHYSICAL_RAM_BYTES, GuestLoader, load_guest
from switchover.engine.progress import Progress
from switchover.errors import ChannelError, MigrationError, StreamError, TruncatedStream
from switchover.guest.parked import ParkedGuest
from switchover.model.section import SectionType
from switchover.wire.ram import EMPTY_BODY
from switchover.wire.stream import encode_section_continuation


def load_bytes(data: bytes) -> ParkedGuest:
    with DescriptorChannel(open_pipe(data), "pipe") as channel:
        return load_guest(channel)


@pytest.mark.parametrize("machine", ["pc-q35-10.0", None])
def test_whole_stream_is_the_guest(machine: str | None) -> None:
    guest = make_guest(machine)
    assert_same_guest(load_bytes(join(make_stream(guest, opens_return_path=False))), guest)


def test_what_a_source_asks_for_does_not_matter_in_a_file() -> None:
    """A captured stream may hold it."""
    stream = make_stream(make_guest(), pings=[1, 2], sends_switchover_start=True)
    loaded = load_bytes(join(stream))
    assert loaded.sent_switchover_start
    assert_same_guest(loaded, make_guest())


def test_page_that_travels_again_counts_as_it_came_last() -> None:
    first, last = make_guest(), make_guest()
    first.blocks["pc.ram"].memory[1] = 1
    last.blocks["pc.ram"].memory[:] = 0
    last.blocks["pc.ram"].memory[3] = 7
    stream = make_stream(first)
    stream["pages"] += make_stream(last)["pages"]
    assert_same_guest(load_bytes(join(stream)), last)


def test_sections_without_footers() -> None:
    guest = make_guest(None)
    stream = make_stream(guest, opens_return_path=False)
    footer = b"\x7e\0\0\0\x02"
    for name in ("block list", "pages", "end of RAM"):
        assert stream[name].endswith(footer)
    # As a machine type before 2.4 sends it: one PART of everything, and no footer anywhere.
    stream["block list"] = stream["block list"].removesuffix(footer)
    seam = EMPTY_BODY + footer + encode_section_continuation(SectionType.PART, 2)
    parts = stream["pages"].split(seam)
    stream["pages"] = b"".join(parts).removesuffix(footer)
    stream["end of RAM"] = stream["end of RAM"].removesuffix(footer)
    assert guest.devices is not None
    data = guest.devices.data
    stream["devices"] = data.replace(b"\x7e\0\0\0\x0a", b"").replace(b"\x7e\0\0\0\x0b", b"")
    loaded = load_bytes(join(stream))
    assert not loaded.has_footers
    assert loaded.devices is not None
    assert loaded.devices.data == stream["devices"]
    assert np.array_equal(loaded.blocks["pc.ram"].memory, guest.blocks["pc.ram"].memory)


def test_error_says_where() -> None:
    stream = make_stream(make_guest())
    data = join(stream)
    for name in ("configuration", "block list", "pages", "end of RAM"):
        offset = len(join(stream, until=name))
        with pytest.raises(StreamError) as caught:
            load_bytes(data[:offset] + b"\xee" + data[offset + 1 :])
        assert caught.value.offset == offset
        assert str(caught.value).endswith(f"at offset {offset:#x}")


def test_empty_file_is_truncated() -> None:
    with pytest.raises(TruncatedStream, match=r"the stream ends inside the header"):
        load_bytes(b"")


def test_something_behind_the_guest() -> None:
    stream = join(make_stream(make_guest()))
    with pytest.raises(StreamError, match="bytes behind the end of the stream") as caught:
        load_bytes(stream + b"x")
    assert caught.value.offset == len(stream)


def test_more_ram_than_allowed() -> None:
    guest = make_guest()
    data = join(make_stream(guest))
    for limit, is_allowed in ((guest.ram_bytes, True), (guest.ram_bytes - 1, False)):
        with DescriptorChannel(open_pipe(data), "pipe") as channel:
            if is_allowed:
                load_guest(channel, limit)
            else:
                with pytest.raises(StreamError, match="more RAM than is allowed here"):
                    load_guest(channel, limit)


def test_limit_is_the_memory_of_this_machine() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "Total" in line)
    assert PHYSICAL_RAM_BYTES == int(total.split()[1]) << 10


def test_directory_is_no_stream(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match="Is a directory"):
        load_file(tmp_path)


def test_guest_is_not_there_before_its_ram_is() -> None:
    loader = GuestLoader(1 << 30, Progress())
    with pytest.raises(MigrationError, match="the stream has not told of a guest yet"):
        _ = loader.guest


def test_figures_are_those_of_the_stream(tmp_path: Path) -> None:
    guest = make_guest(pages=1000)
    path = tmp_path / "stream"
    path.write_bytes(join(make_stream(guest)))
    progress = Progress()
    loader = GuestLoader(1 << 30, progress)
    with open_file(str(path), "file") as channel:
        while not loader.load.is_at_end:
            for _ in loader.receive(channel):
                pass
    assert progress.transferred_bytes == path.stat().st_size
    assert progress.pages == 1001
    assert progress.zero_pages == 0
    assert progress.machine == guest.machine
    assert progress.ram_bytes == 1001 * 4096
    assert progress.devices == guest.devices
