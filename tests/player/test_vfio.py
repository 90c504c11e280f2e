"""A played device without QEMU: what answers and our own back end are held against one another."""

import json
import subprocess
import sys
from errno import EBADF, EBUSY, EFAULT, EINVAL, EMSGSIZE, ENOTTY, errorcode
from pathlib import Path
from typing import Any

import pytest
from tests.player.playing import TIMEOUT_S, needs_player

from switchover.errors import DeviceError, UsageError
from switchover.model.vfio import VfioFlag
from switchover.player.process import PlayedProcess
from switchover.player.vfio import Event, PlayedDevice, Player
from switchover.vfio.options import parse_options
from switchover.vfio.records import whole_size
from switchover.vfio.sim import VfioSim

pytestmark = needs_player

IOMMUFD, DEVICE, FIRST_DATA = 1000, 1001, 1064
STATE_BYTES, INITIAL_BYTES = 3 << 20, 1 << 20
OPTIONS = f"state={STATE_BYTES},initial={INITIAL_BYTES},allocate=0s"

PRELUDE = """
import ctypes, errno, fcntl, hashlib, json, os, struct, sys
from switchover.errors import DeviceError
from switchover.model.vfio import VfioState as S
from switchover.vfio.kernel import KernelVfioDevice

def readv(fd, buffers):
    # Of the calls that read, the vectored ones are not handed to a player.
    data = os.read(fd, len(buffers[0]))
    buffers[0][: len(data)] = data
    return len(data)

os.readv = readv

def show(value):
    print(json.dumps(value), flush=True)

def errno_of(call, *arguments):
    try:
        call(*arguments)
    except (DeviceError, OSError) as error:
        return error.errno
    return 0

def device():
    return KernelVfioDevice("vf0", 1001)

def call(fd, number, data):
    data = bytearray(data)
    return errno_of(fcntl.ioctl, fd, number, data), data

def feature(flags, payload=bytes(64), size=None, fd=1001):
    size = 8 + len(payload) if size is None else size
    return call(fd, 0x3B75, struct.pack("=II", size, flags) + payload)[0]

def read_some(vf):
    buffer = bytearray(1 << 20)
    count = vf.read_into(memoryview(buffer))
    return None if count is None else bytes(buffer[:count])

def copy(vf, out):
    total = 0
    while data := read_some(vf):
        out.write(data)
        total += len(data)
    return total, data
"""


class Play:
    """A program of ours, and the device that is played to it.

    Args:
        text: The program.
        device: The device.
        arguments: The program's own.
    """

    def __init__(self, text: str, device: PlayedDevice, *arguments: str) -> None:
        self.events: list[Event] = []
        self.player = Player({DEVICE: device}, IOMMUFD, FIRST_DATA, self.events.append)
        with PlayedProcess(
            [sys.executable, "-c", PRELUDE + text, *arguments],
            self.player.answer,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            self.lines = [json.loads(line) for line in process.stdout.read().splitlines()]
            self.status = process.wait(TIMEOUT_S)
            assert process.error is None

    def results(self, call: str) -> list[int]:
        return [event.result for event in self.events if event.call == call]


def shown(text: str, options: str = OPTIONS, *, device: PlayedDevice | None = None) -> Any:
    """What a program shows, one value a line."""
    play = Play(text, device or played(options))
    assert play.status == 0
    return play.lines


def played(options: str = OPTIONS, *, is_empty: bool = False) -> PlayedDevice:
    return PlayedDevice("vf0", VfioSim(parse_options(options, "vf0"), is_empty=is_empty))


def sim(device: PlayedDevice) -> VfioSim:
    assert isinstance(device.device, VfioSim)
    return device.device


# What our own back end makes of it

SOURCE = """
with device() as vf, open(sys.argv[1], "wb") as out:
    show([int(vf.flags), vf.state.name])
    vf.set_state(S.PRE_COPY)
    info = vf.precopy_info()
    show([info.initial_bytes, info.dirty_bytes, info.is_reinit, vf.stop_copy_bytes()])
    show(copy(vf, out)[1])
    info = vf.precopy_info()
    show([info.initial_bytes, info.dirty_bytes, vf.stop_copy_bytes()])
    vf.set_state(S.PRE_COPY_P2P)
    show(read_some(vf))
    vf.set_state(S.STOP_COPY)
    show(list(map(str, copy(vf, out))))
    vf.set_state(S.STOP)
    show([vf.state.name, errno_of(read_some, vf)])
"""
DESTINATION = """
with device() as vf, open(sys.argv[1], "rb") as stream:
    vf.set_state(S.RESUMING)
    show(errno_of(vf.precopy_info))
    show(errno_of(read_some, vf))
    while data := stream.read(300_007):
        vf.write(memoryview(data))
    vf.set_state(S.RUNNING)
    show(vf.state.name)
"""


def test_device_moves_from_one_process_to_another(tmp_path: Path) -> None:
    stream = str(tmp_path / "stream")
    here, there = played(), played(is_empty=True)
    source = Play(SOURCE, here, stream)
    assert source.status == 0
    whole = whole_size(STATE_BYTES, INITIAL_BYTES)
    rest = whole_size(STATE_BYTES, INITIAL_BYTES) - source.lines[1][0]
    flags = VfioFlag.STOP_COPY | VfioFlag.P2P | VfioFlag.PRE_COPY
    assert source.lines == [
        [flags, "RUNNING"],
        [whole - rest, 0, False, whole],
        None,
        [0, 0, rest],
        None,
        [str(rest), "b''"],
        ["STOP", EBADF],
    ]
    assert Path(stream).stat().st_size == whole
    destination = Play(DESTINATION, there, stream)
    assert destination.status == 0
    assert destination.lines == [EINVAL, EBADF, "RUNNING"]
    assert sim(here).digest() == sim(there).digest()
    assert sum(destination.results("write")) == whole
    for play, numbers in ((source, 1), (destination, 1)):
        assert play.results("close").count(0) == numbers + 1


def test_state_that_is_not_whole_does_not_leave_resuming() -> None:
    text = """
vf = device()
vf.set_state(S.RESUMING)
show(errno_of(vf.write, memoryview(bytes(24))))
show(errno_of(vf.set_state, S.RUNNING))
show(vf.state.name)
vf.reset()
show([vf.state.name, errno_of(vf.write, memoryview(b"a"))])
"""
    assert shown(text) == [EINVAL, EINVAL, "RESUMING", ["RUNNING", EBADF]]


@pytest.mark.parametrize("options", [OPTIONS, f"{OPTIONS},p2p=off", f"{OPTIONS},precopy=off"])
def test_every_move_is_allowed_and_refused_as_by_the_device(options: str) -> None:
    """From each state that a way leads to, each state is asked for."""
    text = """
ways = [[], ["STOP"], ["STOP_COPY"], ["RESUMING"], ["RUNNING_P2P"], ["PRE_COPY"],
        ["PRE_COPY", "PRE_COPY_P2P"], ["PRE_COPY", "STOP_COPY"]]
vf = device()
for way in ways:
    for goal in S:
        vf.reset()
        found = [errno_of(vf.set_state, S[name]) for name in way]
        found.append(errno_of(vf.set_state, goal))
        show([way, goal.name, found, vf.state.name, vf._data_fileno >= 0])
"""
    for way, goal, found, state, has_data in shown(text, options):
        twin = sim(played(options))
        expected = [errno_of_move(twin, name) for name in (*way, goal)]
        assert (found, state) == (expected, twin.state.name), (way, goal)
        data_states = ("PRE_COPY", "PRE_COPY_P2P", "STOP_COPY", "RESUMING")
        assert has_data == (state in data_states), (way, goal)


def errno_of_move(device: VfioSim, name: str) -> int:
    try:
        device.set_state(type(device.state)[name])
    except DeviceError as error:
        return error.errno
    return 0


def test_failures_keep_their_errno() -> None:
    steps = {
        "pre-copy": "vf.set_state(S.PRE_COPY)",
        "stop-copy": "vf.set_state(S.STOP_COPY)",
        "resuming": "vf.set_state(S.RESUMING)",
        "stop": "vf.set_state(S.STOP)",
        "read": "(vf.set_state(S.PRE_COPY), read_some(vf))",
        "write": "(vf.set_state(S.RESUMING), vf.write(memoryview(b'a')))",
        "precopy-info": "(vf.set_state(S.PRE_COPY), vf.precopy_info())",
        "data-size": "vf.stop_copy_bytes()",
    }
    for step, text in steps.items():
        program = f"vf = device()\nshow(errno_of(lambda: {text}))"
        assert shown(program, f"{OPTIONS},fail={step}:EBUSY") == [EBUSY], step


def test_subclass_can_refuse_any_call() -> None:
    class Broken(PlayedDevice):
        def before(self, call: str, detail: str) -> None:
            if call == "SET MIG_DEVICE_STATE" and detail == "STOP":
                raise DeviceError(self.name, "stop", EBUSY)

    device = Broken("vf0", VfioSim(parse_options(OPTIONS, "vf0")))
    text = "vf = device(); show(errno_of(vf.set_state, S.STOP)); vf.set_state(S.PRE_COPY)"
    assert shown(text, device=device) == [EBUSY]


def test_new_initial_data_is_told_to_whoever_wants_it() -> None:
    text = """
vf = device()
for wants in (True, False):
    vf.set_state(S.PRE_COPY)
    seen = False
    while copy(vf, open(os.devnull, "wb"))[0] or not seen:
        data = bytearray(struct.pack("=IIQQ", 24, 0, 0, 0))
        fcntl.ioctl(vf._data_fileno, 0x3B79, data)
        seen = seen or bool(struct.unpack("=IIQQ", data)[1])
    show(seen)
    vf.set_state(S.RUNNING)
    break
"""
    assert shown(text, f"{OPTIONS},reinit=1ms") == [True]
    without = """
vf = os.dup  # the feature is not asked for
data = bytearray(struct.pack("=IIIi", 16, 1 << 17 | 2, S.PRE_COPY, -1))
fcntl.ioctl(1001, 0x3B75, data)
fd = struct.unpack("=IIIi", data)[3]
flags = set()
for _ in range(200):
    info = bytearray(24)
    info[0] = 24
    fcntl.ioctl(fd, 0x3B79, info)
    flags.add(struct.unpack("=IIQQ", info)[1])
show(sorted(flags))
"""
    assert shown(without, f"{OPTIONS},reinit=0s") == [[0]]


def test_dma_log() -> None:
    text = """
vf = device()
show(errno_of(vf.report_dma, 4096, 0, 4096))
show(errno_of(vf.stop_dma_logging))
show(errno_of(vf.start_dma_logging, 4096, []))
show(errno_of(vf.start_dma_logging, 4096, [(1, 4096)]))
vf.start_dma_logging(4096, [(1 << 20, 1 << 20), (8 << 20, 128 << 12)])
show(errno_of(vf.start_dma_logging, 4096, [(0, 4096)]))
show(vf.report_dma(4096, 1 << 20, 1 << 20).hex())
sys.stdin.readline()
"""
    device = played()
    log = sim(device)
    original = log.report_dma

    def report(page_size: int, iova: int, length: int) -> bytes:
        log.note_dma((1 << 20) + 3 * 4096, 1)
        return original(page_size, iova, length)

    log.report_dma = report  # type: ignore[method-assign]
    lines = shown(
        text
        + """
show(errno_of(vf.report_dma, 4096, 0, 1 << 20))
show(errno_of(vf.report_dma, 4096, 1 << 20, 1 << 32))
bits = bytearray(b"\\x01" + bytes(31))
at = ctypes.addressof((ctypes.c_char * 32).from_buffer(bits))
show(feature(1 << 16 | 8, struct.pack("=QQQQ", 1 << 20, 1 << 20, 4096, at)))
show(bits[0])
show(feature(1 << 16 | 8, struct.pack("=QQQQ", 1 << 20, 1 << 20, 4096, 8)))
vf.stop_dma_logging()
show(errno_of(vf.report_dma, 4096, 1 << 20, 1 << 20))
""",
        device=device,
    )
    bitmap = (1 << 3).to_bytes(32, "little").hex()
    assert lines[:6] == [EINVAL, EINVAL, EINVAL, EINVAL, EINVAL, bitmap]
    # What was set before stays set, and what cannot be told is an error.
    assert lines[6:] == [EINVAL, EINVAL, 0, 0b1001, EFAULT, EINVAL]


def test_configuration_space() -> None:
    text = """
vf = device()
config = vf.config
show([len(config.space), config.space[:4].decode()])
space = bytearray(config.space)
space[4:6] = b"\\x06\\x01"
space[9] = 77
vf.config = type(config)(bytes(space))
show(list(vf.config.space[4:10]))
base = 7 << 40
show(errno_of(os.pread, 1001, 4, base + 254))
show(errno_of(os.pwrite, 1001, b"abcd", base + 254))
show(errno_of(os.pread, 1001, 257, base))
show(errno_of(os.pread, 1001, 4, 0))
show(errno_of(os.read, 1001, 4))
show(os.pwrite(1001, b"\\xff" * 256, base))
show(os.pread(1001, 4, base).decode())
"""
    assert shown(text) == [
        [256, "VSIM"],
        [6, 1, 0, 0, 1, 0],
        *(EFAULT, EFAULT, EFAULT, EINVAL, EINVAL),
        *(256, "VSIM"),
    ]


# Calls that are wrong


def test_malformed_calls_of_a_device() -> None:
    text = """
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
show([feature(PROBE | GET | 1), feature(PROBE | GET | SET | 2), feature(PROBE | SET | 12)])
show([feature(PROBE | SET | 1), feature(GET | 99), feature(PROBE | 99)])
show([feature(GET | SET | 2), feature(1), feature(GET | 1 << 20 | 1)])
show([feature(GET | 1, size=7), feature(GET | 1, size=15), feature(GET | 8, size=20)])
show([feature(SET | 2, struct.pack("=Ii", state, -1)) for state in (0, 8, 1 << 31)])
show([feature(SET | 6, struct.pack("=QIIQ", 4096, 1 << 30, 0, 8)),
      feature(SET | 6, struct.pack("=QIIQ", 4096, 1, 0, 8)),
      feature(SET | 6, struct.pack("=QIIQ", 4096, 0, 0, 0))])
show([call(1001, 0x3B6C, struct.pack("=IIIIQQ", 32, 0, index, 0, 0, 0))[0] for index in (8, 9)])
show([call(1001, 0x3B6D, struct.pack("=IIII", 16, 0, index, 0))[0] for index in (4, 5)])
show([call(1001, number, struct.pack("=I", 4) + bytes(40))[0]
      for number in (0x3B6B, 0x3B6C, 0x3B6D, 0x3B75, 0x3B76, 0x3B77)])
show(call(1001, 0x3BFF, bytes(64))[0])
libc = ctypes.CDLL(None, use_errno=True)
def at(number, address, fd=1001):
    libc.ioctl(fd, ctypes.c_ulong(number), ctypes.c_void_p(address))
    return ctypes.get_errno()
show([at(number, 8) for number in (0x3B6B, 0x3B6C, 0x3B6D, 0x3B75, 0x3B76)])
"""
    lines = shown(text)
    assert lines == [
        [0, 0, 0],
        [EINVAL, ENOTTY, ENOTTY],
        [EINVAL, EINVAL, EINVAL],
        [EINVAL, EINVAL, EINVAL],
        [EINVAL, EINVAL, EINVAL],
        [EINVAL, EFAULT, EINVAL],
        [0, EINVAL],
        [0, EINVAL],
        [EINVAL] * 6,
        ENOTTY,
        [EFAULT] * 5,
    ], [[errorcode.get(each, each) for each in line] for line in lines if isinstance(line, list)]


def test_malformed_calls_of_a_data_session() -> None:
    text = """
vf = device()
vf.set_state(S.PRE_COPY)
fd = vf._data_fileno
info = struct.pack("=IIQQ", 24, 0, 0, 0)
show([call(fd, 0x3B79, info)[0], call(fd, 0x3B79, struct.pack("=I", 23) + bytes(20))[0]])
show([call(fd, 0x3B7A, info)[0], errno_of(os.pread, fd, 1, 0), errno_of(os.write, fd, b"a")])
libc = ctypes.CDLL(None, use_errno=True)
show([libc.read(fd, ctypes.c_void_p(8), 4), ctypes.get_errno()])
show(len(os.read(fd, 1 << 24)) <= 1 << 20)
show(os.read(fd, 0).decode())
vf.set_state(S.STOP_COPY)
show(call(fd, 0x3B79, info)[0])
vf.set_state(S.RESUMING)
fd = vf._data_fileno
show([libc.write(fd, ctypes.c_void_p(8), 4), ctypes.get_errno()])
show(errno_of(os.read, fd, 1))
"""
    assert shown(text) == [
        [0, EINVAL],
        [ENOTTY, EBADF, EBADF],
        [-1, EFAULT],
        True,
        "",
        EINVAL,
        [-1, EFAULT],
        EBADF,
    ]


def test_iommufd() -> None:
    text = """
def io(number, *fields, form):
    failed, data = call(1000, number, struct.pack("=" + form, *fields))
    return [failed, *struct.unpack("=" + form, data)]
show(io(0x3B81, 12, 0, 0, form="III"))
show(io(0x3B89, 24, 0, 1, 1, 0, 0, form="IIIIII"))
show(io(0x3B84, 32, 1, 0, 0, 0, 9, form="IIIIQQ")[::3])
ranges = ctypes.create_string_buffer(16)
show(io(0x3B84, 32, 1, 1, 0, ctypes.addressof(ranges), 0, form="IIIIQQ")[0])
show(list(struct.unpack("=QQ", ranges.raw)))
show(io(0x3B85, 40, 3, 1, 0, 0x1000, 0x2000, 0x5000, form="IIIIQQQ")[0])
show(io(0x3B86, 24, 1, 0x7000, 0x1000, form="IIQQ")[0])
show([call(1000, number, struct.pack("=I", 4) + bytes(60))[0]
      for number in (0x3B80, 0x3B81, 0x3B84, 0x3B85, 0x3B86, 0x3B89, 0x3B8A)])
show([call(1000, 0x3BFE, bytes(64))[0], errno_of(os.read, 1000, 1)])
show([call(1000, 0x3B8A, struct.pack("=I", 32) + b"x" * 36)[1][-1]])
libc = ctypes.CDLL(None, use_errno=True)
show([libc.ioctl(1000, ctypes.c_ulong(0x3B81), ctypes.c_void_p(8)), ctypes.get_errno()])
"""
    play = Play(text, played())
    assert play.status == 0
    assert play.lines == [
        [0, 12, 0, 1],
        [0, 24, 0, 1, 1, 2, 0],
        [EMSGSIZE, 1, 4096],
        0,
        [0, 2**64 - 1],
        *(0, 0),
        [EINVAL] * 7,
        [ENOTTY, EINVAL],
        [ord("x")],
        [-1, EFAULT],
    ]
    assert play.player.mappings == {0x5000: (0x1000, 0x2000)}
    assert play.events[-1].result == -EFAULT


def test_data_descriptors_are_used_again() -> None:
    text = """
vf = device()
seen = []
for _ in range(3):
    vf.set_state(S.PRE_COPY)
    seen.append(vf._data_fileno)
    vf.set_state(S.RUNNING)
show(seen)
"""
    assert shown(text) == [[FIRST_DATA] * 3]


def test_descriptor_of_one_more_device() -> None:
    player = Player({DEVICE: played()}, IOMMUFD, DEVICE + 3, lambda event: None)
    assert [player.add_device(played()), player.add_device(played())] == [DEVICE + 1, DEVICE + 2]
    with pytest.raises(UsageError, match="there is no descriptor for device 'vf0'"):
        player.add_device(played())


def test_closed_device_is_no_longer_played() -> None:
    text = "os.close(1001); show(errno_of(os.pread, 1001, 4, 7 << 40))"
    play = Play(text, played())
    assert (play.status, play.lines) == (0, [EBADF])
    assert [(event.device, event.call) for event in play.events] == [("vf0", "close")]
