"""A device of the kernel, whose ioctls a kernel answers that is played; descriptors are real.

No hardware is in this: what a real driver does differently is not seen here.
"""

import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest
from tests.channel.leaks import nothing_left

from switchover.errors import DeviceError, KernelError
from switchover.model.vfio import (
    DATA_STATES,
    PciConfig,
    PrecopyInfo,
    VfioFlag,
    VfioState,
    find_way,
    opens_data,
    states_of,
)
from switchover.vfio.device import PrecopyDevice
from switchover.vfio.kernel import KernelVfioDevice

__all__ = ["nothing_left"]

STOP_COPY, P2P, PRE_COPY = VfioFlag.STOP_COPY, VfioFlag.P2P, VfioFlag.PRE_COPY
ALL = STOP_COPY | P2P | PRE_COPY
GET, SET = 0x1_0000, 0x2_0000
CONFIG_OFFSET = 7 << 40
"""Where vfio-pci has it."""
SPACE = bytes.fromhex("b3151e10 0004 1000") + bytes(248)
"""A vendor, a device, a command register with INTx disabled, a status register."""

GET_REGION_INFO, RESET, FEATURE, BIND, GET_PRECOPY_INFO = 0x3B6C, 0x3B6F, 0x3B75, 0x3B76, 0x3B79


class PlayedKernel:
    """A device in its driver: takes the bytes of a call, and gives bytes.

    Args:
        flags: What the device can do.

    Attributes:
        fileno: The device's descriptor, a file whose bytes are its regions. Whoever has a device
            made of it closes it.
        state: Where it is.
        refused: The errnos of calls that are to fail, by name.
        move_errno: With which errno every move is to fail, if at all.
        stuck_at: Where that leaves the device.
        knows_precopy_flags: Whether it is new enough for MIG_PRECOPY_INFOv2.
        calls: The names of the calls there were.
        info: What GET_PRECOPY_INFO tells: flags, initial and dirty bytes.
        data: The other end of the data session.
        logged: What DMA_LOGGING_START was given: the page size, and the ranges.
        bound_to: What the device was bound to.
    """

    def __init__(self, flags: VfioFlag = ALL) -> None:
        self.fileno = os.memfd_create("device")
        self.flags = flags
        self.state = int(VfioState.RUNNING)
        self.refused: dict[str, int] = {}
        self.move_errno: int | None = None
        self.stuck_at = VfioState.ERROR
        self.knows_precopy_flags = True
        self.calls: list[str] = []
        self.info = 0, 0, 0
        self.config_size = len(SPACE)
        self.data: socket.socket | None = None
        self.data_fileno = -1
        self.logged: tuple[int, list[tuple[int, int]]] | None = None
        self.bound_to = -1
        os.pwrite(self.fileno, SPACE, CONFIG_OFFSET)

    def close(self) -> None:
        if self.data is not None:
            self.data.close()

    @property
    def peer(self) -> socket.socket:
        """The other end of the data session."""
        assert self.data is not None
        return self.data

    def __call__(
        self, fileno: int, name: str, number: int, argument: ctypes.Structure | None = None
    ) -> int:
        self.calls.append(name)
        if fileno not in (self.fileno, self.data_fileno) or fileno < 0:
            raise self._refusal(name, errno.EBADF)
        if name in self.refused:
            raise self._refusal(name, self.refused[name])
        taken = bytes(argument or b"")
        if taken:
            assert struct.unpack_from("=I", taken) == (len(taken),)
        answer = self._answer(name, number, taken)
        if argument is not None:
            ctypes.memmove(ctypes.addressof(argument), answer, len(answer))
        return 0

    @staticmethod
    def _refusal(name: str, number: int) -> KernelError:
        return KernelError(name, OSError(number, os.strerror(number)))

    def _answer(self, name: str, number: int, taken: bytes) -> bytes:
        """Plays a call; gives its argument as it is then."""
        if number == FEATURE:
            return taken[:8] + self._feature(name, struct.unpack_from("=I", taken, 4)[0], taken[8:])
        if number == RESET:
            self.state = VfioState.RUNNING
            return b""
        if number == BIND:
            self.bound_to = struct.unpack_from("=i", taken, 8)[0]
            return taken[:12] + struct.pack("=I", 1)
        if number == GET_REGION_INFO:
            assert taken[4:] == struct.pack("=IIIQQ", 0, 7, 0, 0, 0)
            return taken[:16] + struct.pack("=QQ", self.config_size, CONFIG_OFFSET)
        assert number == GET_PRECOPY_INFO
        if self.state not in (VfioState.PRE_COPY, VfioState.PRE_COPY_P2P):
            raise self._refusal(name, errno.EINVAL)
        flags, *sizes = self.info
        return taken[:4] + struct.pack("=IQQ", flags, *sizes)

    def _feature(self, name: str, flags: int, data: bytes) -> bytes:
        if flags == GET | 1:
            return struct.pack("=Q", self.flags)
        if flags == GET | 2:
            return struct.pack("=Ii", self.state, -1)
        if flags == SET | 2:
            return self._move(name, struct.unpack("=Ii", data)[0])
        if flags == SET | 6:
            page_size, count, reserved, address = struct.unpack("=QIIQ", data)
            assert reserved == 0
            ranges = ctypes.string_at(address, 16 * count)
            self.logged = page_size, list(struct.iter_unpack("=QQ", ranges))
            return data
        if flags == SET | 7:
            assert data == b""
            self.logged = None
            return data
        if flags == GET | 8:
            _, length, page_size, address = struct.unpack("=QQQQ", data)
            # The first page and the last, by words of this machine.
            last = length // page_size - 1
            for page in {0, last}:
                ctypes.c_uint64.from_address(address + page // 64 * 8).value |= 1 << page % 64
            return data
        if flags == GET | 9:
            return struct.pack("=Q", 5 << 30)
        if flags == SET | 12 and self.knows_precopy_flags:
            assert data == b""
            return data
        raise self._refusal(name, errno.ENOTTY)

    def _move(self, name: str, goal: int) -> bytes:
        if self.move_errno is not None:
            self.state = self.stuck_at
            raise self._refusal(name, self.move_errno)
        way = find_way(VfioState(self.state), VfioState(goal), self.flags)
        if way is None:
            raise self._refusal(name, errno.EINVAL)
        fileno = -1
        for following in way:
            if opens_data(VfioState(self.state), following):
                assert fileno < 0
                self.close()
                self.data, end = socket.socketpair()
                self.data_fileno = fileno = end.detach()
            self.state = following
        return struct.pack("=Ii", goal, fileno)


@pytest.fixture
def kernel() -> Iterator[PlayedKernel]:
    """One whose device has no owner yet."""
    kernel = PlayedKernel()
    yield kernel
    kernel.close()


@pytest.fixture
def device(kernel: PlayedKernel) -> Iterator[KernelVfioDevice]:
    with KernelVfioDevice("net0", kernel.fileno, ioctl=kernel) as device:
        yield device


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def is_open(fileno: int) -> bool:
    try:
        os.fstat(fileno)
    except OSError:
        return False
    return True


def refused(
    call: Callable[[], object], step: str, number: int, cause: type[Exception] | None = KernelError
) -> None:
    """It fails with that sentence, errno and cause."""
    with pytest.raises(DeviceError) as caught:
        call()
    error = caught.value
    assert str(error) == f"device 'net0' cannot {step}: {os.strerror(number)}"
    assert (error.device, error.step, error.errno) == ("net0", step, number)
    assert type(error.__cause__) is (cause or type(None))


class TestMaking:
    @pytest.mark.parametrize("flags", [STOP_COPY, STOP_COPY | P2P, STOP_COPY | PRE_COPY, ALL])
    def test_knows_what_it_can_do(self, kernel: PlayedKernel, flags: VfioFlag) -> None:
        kernel.flags = flags
        with KernelVfioDevice("net0", kernel.fileno, ioctl=kernel) as device:
            assert device.flags == flags
            as_any: PrecopyDevice = device
            assert as_any.state == VfioState.RUNNING
        asked = "VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2" in kernel.calls
        assert asked == (VfioFlag.PRE_COPY in flags)

    def test_one_that_cannot_be_migrated_stays_its_owners(self, kernel: PlayedKernel) -> None:
        kernel.refused["VFIO_DEVICE_FEATURE_MIGRATION"] = errno.ENOTTY
        make = lambda: KernelVfioDevice("net0", kernel.fileno, ioctl=kernel)  # noqa: E731
        refused(make, "be migrated", errno.ENOTTY)
        os.close(kernel.fileno)

    def test_what_is_no_device_is_refused_by_the_real_kernel(self, kernel: PlayedKernel) -> None:
        refused(lambda: KernelVfioDevice("net0", kernel.fileno), "be migrated", errno.ENOTTY)
        os.close(kernel.fileno)

    def test_is_closed_once_and_may_be_twice(self, kernel: PlayedKernel) -> None:
        before = count_descriptors()
        device = KernelVfioDevice("net0", kernel.fileno, ioctl=kernel)
        device.set_state(VfioState.PRE_COPY)
        device.close()
        device.close()
        # The device is closed, and the kernel's end of the session is open.
        assert count_descriptors() == before - 1 + 1
        refused(lambda: device.state, "say in which state it is", errno.EBADF)
        refused(lambda: device.set_state(VfioState.STOP), "go to STOP", errno.EBADF)
        refused(device.reset, "be reset", errno.EBADF)


class TestOpening:
    @pytest.fixture
    def path(self, kernel: PlayedKernel, tmp_path: Path) -> Iterator[str]:
        """A file whose descriptor will be the one that the played kernel knows."""
        path = tmp_path / "vfio0"
        path.touch()
        os.close(kernel.fileno)
        yield str(path)

    def test_is_bound_and_owned(self, kernel: PlayedKernel, path: str) -> None:
        before = count_descriptors()
        with KernelVfioDevice.open("net0", path, 99, ioctl=kernel) as device:
            assert device.state == VfioState.RUNNING
            assert not os.get_inheritable(kernel.fileno)
            assert os.readlink(f"/proc/self/fd/{kernel.fileno}") == path
        assert kernel.bound_to == 99
        assert kernel.calls[0] == "VFIO_DEVICE_BIND_IOMMUFD"
        assert count_descriptors() == before

    @pytest.mark.parametrize(
        ("call", "step"),
        [
            ("VFIO_DEVICE_BIND_IOMMUFD", "be bound to an iommufd"),
            ("VFIO_DEVICE_FEATURE_MIGRATION", "be migrated"),
        ],
    )
    def test_one_that_is_refused_is_closed(
        self, kernel: PlayedKernel, path: str, call: str, step: str
    ) -> None:
        before = count_descriptors()
        kernel.refused[call] = errno.EPERM
        refused(lambda: KernelVfioDevice.open("net0", path, 99, ioctl=kernel), step, errno.EPERM)
        assert count_descriptors() == before

    def test_one_that_is_not_there(self, kernel: PlayedKernel, path: str) -> None:
        absent = path + "1"
        refused(
            lambda: KernelVfioDevice.open("net0", absent, 99, ioctl=kernel),
            f"be opened as {absent}",
            errno.ENOENT,
            FileNotFoundError,
        )
        assert not kernel.calls


class TestStates:
    @pytest.mark.parametrize("flags", [STOP_COPY, STOP_COPY | P2P, STOP_COPY | PRE_COPY, ALL])
    @pytest.mark.parametrize("start", VfioState)
    @pytest.mark.parametrize("goal", VfioState)
    def test_each_is_reached_from_each_with_one_session_at_most(
        self, kernel: PlayedKernel, flags: VfioFlag, start: VfioState, goal: VfioState
    ) -> None:
        kernel.flags = flags
        before = count_descriptors()
        with KernelVfioDevice("net0", kernel.fileno, ioctl=kernel) as device:
            if start not in states_of(flags) - {VfioState.ERROR}:
                refused(lambda: device.set_state(start), f"go to {start.name}", errno.EINVAL)
                return
            device.set_state(start)
            first = kernel.data_fileno
            way = find_way(start, goal, flags)
            if way is None:
                refused(lambda: device.set_state(goal), f"go to {goal.name}", errno.EINVAL)
                goal = start
            else:
                device.set_state(goal)
            assert device.state == kernel.state == goal
            kernel.close()  # the other end
            assert count_descriptors() == before + (goal in DATA_STATES)
            if goal in DATA_STATES:
                assert is_open(kernel.data_fileno)
            elif first >= 0:
                assert not is_open(first)

    def test_new_session_ends_the_old_one(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        device.set_state(VfioState.STOP_COPY)
        with kernel.peer as old:
            kernel.data = None
            device.set_state(VfioState.RESUMING)
            assert old.recv(1) == b""
        device.write(memoryview(b"new"))
        assert kernel.peer.recv(16) == b"new"

    def test_session_goes_on_while_it_is_saved(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        device.set_state(VfioState.PRE_COPY)
        fileno = kernel.data_fileno
        kernel.peer.send(b"while it runs")
        for state in VfioState.PRE_COPY_P2P, VfioState.PRE_COPY, VfioState.STOP_COPY:
            device.set_state(state)
            assert is_open(fileno)
        buffer = bytearray(32)
        assert device.read_into(memoryview(buffer)) == 13
        assert buffer[:13] == b"while it runs"

    @pytest.mark.parametrize("stuck_at", VfioState)
    def test_failed_move_keeps_a_session_only_where_there_is_one(
        self, kernel: PlayedKernel, device: KernelVfioDevice, stuck_at: VfioState
    ) -> None:
        device.set_state(VfioState.PRE_COPY)
        kernel.move_errno, kernel.stuck_at = errno.EIO, stuck_at
        refused(lambda: device.set_state(VfioState.STOP), "go to STOP", errno.EIO)
        assert device.state == stuck_at
        assert is_open(kernel.data_fileno) == (stuck_at in DATA_STATES)

    def test_device_that_cannot_say_where_it_is_keeps_its_session_until_it_is_reset(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        device.set_state(VfioState.PRE_COPY)
        kernel.refused["VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE"] = errno.EIO
        refused(lambda: device.set_state(VfioState.STOP), "go to STOP", errno.EIO)
        refused(lambda: device.state, "say in which state it is", errno.EIO)
        assert is_open(kernel.data_fileno)
        device.reset()
        assert not is_open(kernel.data_fileno)

    def test_state_of_a_newer_kernel_is_none_that_is_known(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        kernel.state = 8
        step = "say in which state it is: state 8 is not known"
        refused(lambda: device.state, step, errno.EPROTO, ValueError)

    @pytest.mark.parametrize("state", [VfioState.PRE_COPY, VfioState.RESUMING, VfioState.STOP])
    def test_reset_ends_everything(
        self, kernel: PlayedKernel, device: KernelVfioDevice, state: VfioState
    ) -> None:
        device.set_state(state)
        device.reset()
        assert device.state == VfioState.RUNNING
        assert not is_open(kernel.data_fileno)

    def test_one_that_cannot_be_reset_is_where_it_was(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        device.set_state(VfioState.RESUMING)
        kernel.refused["VFIO_DEVICE_RESET"] = errno.EINVAL
        refused(device.reset, "be reset", errno.EINVAL)
        assert device.state == VfioState.RESUMING
        assert is_open(kernel.data_fileno)


class TestSizes:
    def test_are_those_that_the_kernel_tells(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        device.set_state(VfioState.PRE_COPY)
        kernel.info = 0, 1 << 33, 4096
        assert device.precopy_info() == PrecopyInfo(1 << 33, 4096)
        assert device.stop_copy_bytes() == 5 << 30

    @pytest.mark.parametrize("knows", [True, False])
    @pytest.mark.parametrize("flags", [0, 1, 2, 3])
    def test_flags_count_if_the_kernel_was_told(
        self, kernel: PlayedKernel, knows: bool, flags: int
    ) -> None:
        kernel.knows_precopy_flags = knows
        kernel.info = flags, 10, 20
        with KernelVfioDevice("net0", kernel.fileno, ioctl=kernel) as device:
            device.set_state(VfioState.PRE_COPY)
            assert device.precopy_info() == PrecopyInfo(10, 20, knows and bool(flags & 1))

    def test_there_are_none_outside_of_a_session(self, device: KernelVfioDevice) -> None:
        refused(device.precopy_info, "tell what there is to read", errno.EBADF)

    def test_there_are_none_once_it_is_stopped(self, device: KernelVfioDevice) -> None:
        device.set_state(VfioState.PRE_COPY)
        device.set_state(VfioState.STOP_COPY)
        refused(device.precopy_info, "tell what there is to read", errno.EINVAL)

    def test_older_kernel_cannot_tell_all(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        kernel.refused["VFIO_DEVICE_FEATURE_MIG_DATA_SIZE"] = errno.ENOTTY
        step = "tell what there is to read once it is stopped"
        refused(device.stop_copy_bytes, step, errno.ENOTTY)


class TestReading:
    def test_gives_what_there_is_and_then_the_end(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        device.set_state(VfioState.STOP_COPY)
        kernel.peer.send(bytes(range(100)))
        kernel.close()
        buffer = bytearray(64)
        assert device.read_into(memoryview(buffer)) == 64
        assert buffer == bytes(range(64))
        assert device.read_into(memoryview(buffer)) == 36
        assert buffer[:36] == bytes(range(64, 100))
        assert device.read_into(memoryview(buffer)) == 0

    def test_nothing_for_now_is_none(
        self, device: KernelVfioDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """ENOMSG comes from no descriptor but a device's."""

        def readv(fileno: int, buffers: object) -> int:
            raise OSError(errno.ENOMSG, os.strerror(errno.ENOMSG))

        device.set_state(VfioState.PRE_COPY)
        monkeypatch.setattr(os, "readv", readv)
        assert device.read_into(memoryview(bytearray(8))) is None

    @pytest.mark.parametrize("state", [VfioState.RUNNING, VfioState.STOP])
    def test_there_is_nothing_to_read_from_outside_of_a_session(
        self, device: KernelVfioDevice, state: VfioState
    ) -> None:
        device.set_state(state)
        read = lambda: device.read_into(memoryview(bytearray(8)))  # noqa: E731
        refused(read, "be read", errno.EBADF, OSError)

    def test_failed_read_is_the_devices(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        device.set_state(VfioState.RESUMING)
        device.write(memoryview(b"never read"))
        kernel.close()
        read = lambda: device.read_into(memoryview(bytearray(8)))  # noqa: E731
        refused(read, "be read", errno.ECONNRESET, ConnectionResetError)


class TestWriting:
    def test_data_arrives(self, kernel: PlayedKernel, device: KernelVfioDevice) -> None:
        device.set_state(VfioState.RESUMING)
        device.write(memoryview(b""))
        device.write(memoryview(b"some"))
        device.write(memoryview(b"thing"))
        assert kernel.peer.recv(64) == b"something"

    def test_short_writes_go_on(self, kernel: PlayedKernel, device: KernelVfioDevice) -> None:
        """A pipe that is full takes a part, as a signal comes; it says by one that it has data."""
        device.set_state(VfioState.RESUMING)
        read_end, write_end = os.pipe()
        os.dup2(write_end, kernel.data_fileno, inheritable=False)
        os.close(write_end)
        taken = bytearray()

        def drain(number: int, frame: FrameType | None) -> None:
            try:
                taken.extend(os.read(read_end, 1 << 20))
            except BlockingIOError:
                return

        previous = signal.signal(signal.SIGIO, drain)
        try:
            fcntl.fcntl(read_end, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(read_end, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
            data = os.urandom(1 << 20)
            device.write(memoryview(data))
            fcntl.fcntl(read_end, fcntl.F_SETFL, os.O_NONBLOCK)
            drain(signal.SIGIO, None)
        finally:
            signal.signal(signal.SIGIO, previous)
            os.close(read_end)
        assert taken == data

    def test_there_is_nothing_to_write_to_outside_of_a_session(
        self, device: KernelVfioDevice
    ) -> None:
        refused(lambda: device.write(memoryview(b"x")), "be written", errno.EBADF, OSError)

    def test_failed_write_is_the_devices(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        device.set_state(VfioState.RESUMING)
        kernel.close()
        write = lambda: device.write(memoryview(b"x"))  # noqa: E731
        refused(write, "be written", errno.EPIPE, BrokenPipeError)

    def test_it_is_ready_at_once(self, device: KernelVfioDevice) -> None:
        called: list[bool] = []
        device.when_ready(lambda: called.append(True))
        assert called == [True]


class TestConfig:
    def test_is_that_of_the_device(self, device: KernelVfioDevice) -> None:
        assert device.config == PciConfig(SPACE)

    def test_command_is_taken_and_nothing_else(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        space = SPACE[:4] + b"\x06\x00" + b"\xff" * 250
        device.config = PciConfig(space, (0, 1, 0, 0), b"table")
        expected = SPACE[:4] + b"\x06\x00" + SPACE[6:]
        assert os.pread(kernel.fileno, 512, CONFIG_OFFSET) == expected
        assert device.config == PciConfig(expected, (0, 1, 0, 0), b"table")

    def test_interrupts_are_forgotten_by_a_reset(self, device: KernelVfioDevice) -> None:
        device.config = PciConfig(SPACE, (0, 1, 0, 0), b"table")
        device.reset()
        assert device.config == PciConfig(SPACE)

    @pytest.mark.parametrize(
        ("space", "step"),
        [
            (SPACE + bytes(3840), "take a PCI configuration of 4096 bytes: it has 256"),
            (b"", "take a PCI configuration of 0 bytes: it has 256"),
            (
                bytes(256),
                "take a PCI configuration with the ids 00000000: it has b3151e10",
            ),
        ],
    )
    def test_one_of_another_kind_is_not_taken(
        self, kernel: PlayedKernel, device: KernelVfioDevice, space: bytes, step: str
    ) -> None:
        config = replace(device.config, space=space)
        refused(lambda: setattr(device, "config", config), step, errno.EINVAL, None)
        assert os.pread(kernel.fileno, 512, CONFIG_OFFSET) == SPACE

    @pytest.mark.parametrize("does_write", [False, True])
    def test_device_may_have_none(
        self, kernel: PlayedKernel, device: KernelVfioDevice, does_write: bool
    ) -> None:
        kernel.config_size = 0
        step = "take a PCI configuration" if does_write else "tell its PCI configuration"
        refused(access_of(device, does_write), f"{step}: it has none", errno.EINVAL, None)

    @pytest.mark.parametrize("does_write", [False, True])
    def test_kernel_may_refuse_it(
        self, kernel: PlayedKernel, device: KernelVfioDevice, does_write: bool
    ) -> None:
        kernel.refused["VFIO_DEVICE_GET_REGION_INFO"] = errno.EPERM
        step = "take a PCI configuration" if does_write else "tell its PCI configuration"
        refused(access_of(device, does_write), step, errno.EPERM)

    def test_one_that_ends_early_is_not_read(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        kernel.config_size = 4096
        step = "tell its PCI configuration: 256 of 4096 bytes can be read"
        refused(lambda: device.config, step, errno.EIO, None)

    def test_failed_read_is_the_devices(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        fileno = os.open("/", os.O_RDONLY)
        os.dup2(fileno, kernel.fileno, inheritable=False)
        os.close(fileno)
        step = "tell its PCI configuration"
        refused(lambda: device.config, step, errno.EISDIR, IsADirectoryError)

    def test_failed_write_is_the_devices(
        self, kernel: PlayedKernel, device: KernelVfioDevice
    ) -> None:
        fileno = os.open(f"/proc/self/fd/{kernel.fileno}", os.O_RDONLY)
        os.dup2(fileno, kernel.fileno, inheritable=False)
        os.close(fileno)
        write = access_of(device, True)
        refused(write, "take a PCI configuration", errno.EBADF, OSError)


def access_of(device: KernelVfioDevice, does_write: bool) -> Callable[[], object]:
    if does_write:
        return lambda: setattr(device, "config", PciConfig(SPACE))
    return lambda: device.config


class TestDmaLogging:
    def test_is_started_and_stopped(self, kernel: PlayedKernel, device: KernelVfioDevice) -> None:
        ranges = [(0, 1 << 30), (1 << 32, 1 << 33)]
        device.start_dma_logging(4096, ranges)
        assert kernel.logged == (4096, ranges)
        device.stop_dma_logging()
        assert kernel.logged is None

    @pytest.mark.parametrize(("pages", "size"), [(1, 8), (64, 8), (65, 16), (130, 24)])
    def test_pages_are_bits(self, device: KernelVfioDevice, pages: int, size: int) -> None:
        bitmap = device.report_dma(4096, 1 << 32, pages * 4096)
        assert len(bitmap) == size
        assert int.from_bytes(bitmap, "little") == 1 | 1 << pages - 1

    @pytest.mark.parametrize(
        ("page_size", "iova", "length"),
        [(0, 0, 4096), (-1, 0, 4096), (4096, 0, 0), (4096, 0, -1), (4096, -1, 4096)],
    )
    def test_what_makes_no_sense_is_not_asked(
        self,
        kernel: PlayedKernel,
        device: KernelVfioDevice,
        page_size: int,
        iova: int,
        length: int,
    ) -> None:
        kernel.calls.clear()
        step = f"report writes to {length} bytes at {iova:#x} by pages of {page_size} bytes"
        refused(lambda: device.report_dma(page_size, iova, length), step, errno.EINVAL, None)
        assert not kernel.calls

    def test_what_the_kernel_refuses(self, kernel: PlayedKernel, device: KernelVfioDevice) -> None:
        for call in "START", "STOP", "REPORT":
            kernel.refused[f"VFIO_DEVICE_FEATURE_DMA_LOGGING_{call}"] = errno.EOPNOTSUPP
        refused(
            lambda: device.start_dma_logging(4096, [(0, 4096)]),
            "note writes to pages of 4096 bytes in 1 ranges",
            errno.EOPNOTSUPP,
        )
        refused(device.stop_dma_logging, "stop noting writes", errno.EOPNOTSUPP)
        refused(
            lambda: device.report_dma(4096, 1 << 32, 8192),
            "report writes to 8192 bytes at 0x100000000 by pages of 4096 bytes",
            errno.EOPNOTSUPP,
        )


def test_state_goes_from_one_device_to_another(
    kernel: PlayedKernel, device: KernelVfioDevice
) -> None:
    there = PlayedKernel()
    buffer = memoryview(bytearray(8))
    taken = b""
    with KernelVfioDevice("net1", there.fileno, ioctl=there) as other:
        other.set_state(VfioState.RESUMING)
        device.set_state(VfioState.PRE_COPY)
        for state in VfioState.PRE_COPY, VfioState.PRE_COPY_P2P, VfioState.STOP_COPY:
            device.set_state(state)
            kernel.peer.send(f"what there is in {state.name}; ".encode())
        kernel.peer.shutdown(socket.SHUT_WR)
        while size := device.read_into(buffer):
            other.write(buffer[:size])
            taken += there.peer.recv(64)
        device.set_state(VfioState.STOP)
        other.set_state(VfioState.STOP)
        other.set_state(VfioState.RUNNING)
        assert (device.state, other.state) == (VfioState.STOP, VfioState.RUNNING)
    there.close()
    assert taken.decode().count("what there is in ") == 3
    assert taken.endswith(b" in STOP_COPY; ")
