"""A VFIO device that is played to another process: what its calls ask for, and what they get.

QEMU takes a VFIO device as open descriptors, one of an iommufd and one of the device, and asks
nothing of them but system calls. Those are answered here, as the kernel would for a PCI device
without BARs or interrupts whose migration is a `PrecopyDevice`. Numbers and layouts: Linux,
include/uapi/linux/vfio.h and iommufd.h. Page: docs/vfio-without-hardware.md.
"""

import os
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import EBADF, EFAULT, EINVAL, EMSGSIZE, ENOMSG, ENOTTY
from functools import partial

from ..errors import DeviceError, UsageError
from ..model.vfio import (
    DATA_STATES,
    PRE_COPY_STATES,
    SAVING_STATES,
    VfioState,
)
from ..vfio.device import PrecopyDevice
from .call import LET_GO_ON, Answer, BadAddress, Call, Failed, Returned

_IOMMUFD = {
    0x3B80: "IOMMU_DESTROY",
    0x3B81: "IOMMU_IOAS_ALLOC",
    0x3B84: "IOMMU_IOAS_IOVA_RANGES",
    0x3B85: "IOMMU_IOAS_MAP",
    0x3B86: "IOMMU_IOAS_UNMAP",
    0x3B89: "IOMMU_HWPT_ALLOC",
    0x3B8A: "IOMMU_GET_HW_INFO",
}
_DEVICE = {
    0x3B6B: "VFIO_DEVICE_GET_INFO",
    0x3B6C: "VFIO_DEVICE_GET_REGION_INFO",
    0x3B6D: "VFIO_DEVICE_GET_IRQ_INFO",
    0x3B6E: "VFIO_DEVICE_SET_IRQS",
    0x3B6F: "VFIO_DEVICE_RESET",
    0x3B75: "VFIO_DEVICE_FEATURE",
    0x3B76: "VFIO_DEVICE_BIND_IOMMUFD",
    0x3B77: "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
    0x3B78: "VFIO_DEVICE_DETACH_IOMMUFD_PT",
}
_SMALLEST = {
    "IOMMU_DESTROY": 8,
    "IOMMU_IOAS_ALLOC": 12,
    "IOMMU_IOAS_IOVA_RANGES": 32,
    "IOMMU_IOAS_MAP": 40,
    "IOMMU_IOAS_UNMAP": 24,
    "IOMMU_HWPT_ALLOC": 24,
    "IOMMU_GET_HW_INFO": 32,
    "VFIO_DEVICE_GET_INFO": 16,
    "VFIO_DEVICE_GET_REGION_INFO": 32,
    "VFIO_DEVICE_GET_IRQ_INFO": 16,
    "VFIO_DEVICE_SET_IRQS": 20,
    "VFIO_DEVICE_FEATURE": 8,
    "VFIO_DEVICE_BIND_IOMMUFD": 16,
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT": 12,
    "VFIO_DEVICE_DETACH_IOMMUFD_PT": 8,
    "VFIO_MIG_GET_PRECOPY_INFO": 24,
}
"""Bytes of what a call gives, which says its size first: with less it is refused."""
_DATA = {0x3B79: "VFIO_MIG_GET_PRECOPY_INFO"}
_KVM_SET_DEVICE_ATTR = 0x4018AEE1
_KVM_DEV_VFIO_FILE = 1

_GET, _SET, _PROBE = 1 << 16, 1 << 17, 1 << 18
_FEATURES = {
    1: "MIGRATION",
    2: "MIG_DEVICE_STATE",
    6: "DMA_LOGGING_START",
    7: "DMA_LOGGING_STOP",
    8: "DMA_LOGGING_REPORT",
    9: "MIG_DATA_SIZE",
    12: "MIG_PRECOPY_INFOv2",
}
_VERBS = {
    "MIGRATION": (_GET, 8),
    "MIG_DEVICE_STATE": (_GET | _SET, 8),
    "DMA_LOGGING_START": (_SET, 24),
    "DMA_LOGGING_STOP": (_SET, 0),
    "DMA_LOGGING_REPORT": (_GET, 32),
    "MIG_DATA_SIZE": (_GET, 8),
    "MIG_PRECOPY_INFOv2": (_SET, 0),
}
"""What each feature lets be done with it, and the bytes that stand behind its flags."""
_FLAG_RESET, _FLAG_PCI = 1, 2
_REGIONS, _IRQS, _CONFIG_REGION = 9, 5, 7
_REGION_SHIFT = 40
"""As vfio-pci of Linux lays its regions out."""
_READ, _WRITE = 1, 2
_WRITABLE = ((0x04, 2), (0x0C, 2), (0x3C, 1))
"""Of the configuration space: command, cache line and latency, interrupt line."""
_MAX_IO = 1 << 20
_IDS = {"IOMMU_IOAS_ALLOC": 8, "IOMMU_HWPT_ALLOC": 16}
"""Where an iommufd call puts the number of the object that it made."""
_ALL_ADDRESSES = struct.pack("=QQ", 0, 2**64 - 1)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the other process asked for, and got.

    Attributes:
        now: When, monotonic, in nanoseconds.
        device: Whose descriptor; `iommufd` for that of the address spaces.
        call: The call, by its name in the kernel's headers; `read` and `write` of data too.
        detail: What it was about, such as the state that was asked for.
        result: What it got: a number, or the negative of an errno.
        duration_ns: How long that took.
    """

    now: int
    device: str
    call: str
    detail: str
    result: int
    duration_ns: int


Observer = Callable[[Event], None]
"""Told of each event, by whichever thread answered."""


class PlayedDevice:
    """A device as its descriptor's caller sees it. To be subclassed for one of one's own.

    Args:
        name: Its name.
        device: Its migration, and its configuration space.
    """

    def __init__(self, name: str, device: PrecopyDevice) -> None:
        self.name = name
        self.device = device
        self._space = bytearray(device.config.space)
        self._lock = threading.Lock()
        self._has_precopy_flags = False

    def before(self, call: str, detail: str) -> None:
        """Called before anything is answered; whatever it raises as DeviceError is the answer."""

    def read_config(self, offset: int, size: int) -> bytes:
        """Some of its configuration space."""
        return bytes(self._space[offset : offset + size]).ljust(size, b"\0")

    def write_config(self, offset: int, data: bytes) -> None:
        """Changes what may be changed of it."""
        for first, count in _WRITABLE:
            for place in range(first, first + count):
                if offset <= place < offset + len(data):
                    self._space[place] = data[place - offset]

    @property
    def config_size(self) -> int:
        """Bytes of its configuration space."""
        return len(self._space)


class Player:
    """Answers the calls on the descriptors of some played devices.

    Args:
        devices: The devices by their descriptors' numbers in the other process.
        iommufd: The number of the iommufd's.
        first_data_fd: From this number on data descriptors are put.
        observe: Told of each event.
    """

    def __init__(
        self,
        devices: Mapping[int, PlayedDevice],
        iommufd: int,
        first_data_fd: int,
        observe: Observer,
    ) -> None:
        self._devices = dict(devices)
        self._next_fd = max([iommufd, *devices]) + 1
        self._iommufd = iommufd
        self._first_data_fd = first_data_fd
        self._observe = observe
        self._data: dict[int, PlayedDevice] = {}
        self._data_lock = threading.Lock()
        self._ids = iter(range(1, 1 << 31))
        self.mappings: dict[int, tuple[int, int]] = {}
        """The guest's memory: by address of the device, the address in the process and a length."""

    def add_device(self, device: PlayedDevice) -> int:
        """Answers for one more device.

        Returns:
            Its descriptor's number in the other process: one that no device had before.

        Raises:
            UsageError: There is no number left.
        """
        if self._next_fd >= self._first_data_fd:
            raise UsageError(
                f"there is no descriptor for device '{device.name}': all below "
                f"{self._first_data_fd} are or were those of others"
            )
        fd, self._next_fd = self._next_fd, self._next_fd + 1
        self._devices[fd] = device
        return fd

    def answer(self, call: Call) -> Answer:
        """Answers one call; see `switchover.player.process.PlayedProcess`."""
        if call.fd == self._iommufd:
            return self._told("iommufd", call, self._answer_iommufd)
        if (device := self._devices.get(call.fd)) is not None:
            return self._told(device.name, call, partial(self._answer_device, device))
        if (device := self._data.get(call.fd)) is not None:
            return self._told(device.name, call, partial(self._answer_data, device))
        if call.name == "ioctl" and call.arguments[1] & 0xFFFFFFFF == _KVM_SET_DEVICE_ATTR:
            return self._answer_kvm(call)
        return LET_GO_ON

    def _told(
        self, name: str, call: Call, answer: Callable[[Call], tuple[str, str, Answer]]
    ) -> Answer:
        began = time.monotonic_ns()
        what, detail, given = answer(call)
        result = 0
        match given:
            case Returned(value=value):
                result = value
            case Failed(errno=errno):
                result = -errno
        self._observe(Event(began, name, what, detail, result, time.monotonic_ns() - began))
        return given

    def _answer_kvm(self, call: Call) -> Answer:
        """KVM's VFIO device is told of a descriptor of ours, which it would refuse."""
        _, group, _, address = struct.unpack("=IIQQ", call.read(call.arguments[2], 24))
        if group != _KVM_DEV_VFIO_FILE:
            return LET_GO_ON
        (fd,) = struct.unpack("=i", call.read(address, 4))
        return Returned(0) if fd in self._devices else LET_GO_ON

    # The iommufd

    def _answer_iommufd(self, call: Call) -> tuple[str, str, Answer]:
        if call.name != "ioctl":
            return call.name, "", LET_GO_ON if call.name == "close" else Failed(EINVAL)
        name = _IOMMUFD.get(call.arguments[1] & 0xFFFFFFFF, f"{call.arguments[1]:#x}")
        try:
            detail, answer = self._answer_known_iommufd(name, call)
            return name, detail, answer
        except BadAddress:
            return name, "", Failed(EFAULT)

    def _answer_known_iommufd(self, name: str, call: Call) -> tuple[str, Answer]:
        address = call.arguments[2]
        detail = ""
        if name in _SMALLEST and _size(call) < _SMALLEST[name]:
            return detail, Failed(EINVAL)
        match name:
            case "IOMMU_IOAS_ALLOC" | "IOMMU_HWPT_ALLOC":
                number = next(self._ids)
                call.write(address + _IDS[name], struct.pack("=I", number))
                detail = str(number)
            case "IOMMU_GET_HW_INFO":
                # Of no kind, and able to do nothing.
                call.write(address + 24, bytes(min(_size(call), 40) - 24))
            case "IOMMU_IOAS_IOVA_RANGES":
                count, _, ranges = struct.unpack("=IIQ", call.read(address + 8, 16))
                call.write(address + 8, struct.pack("=I", 1))
                call.write(address + 24, struct.pack("=Q", os.sysconf("SC_PAGE_SIZE")))
                if not count:
                    return detail, Failed(EMSGSIZE)
                call.write(ranges, _ALL_ADDRESSES)
            case "IOMMU_IOAS_MAP":
                user_va, length, iova = struct.unpack("=QQQ", call.read(address + 16, 24))
                self.mappings[iova] = (user_va, length)
                detail = f"{iova:#x}, {length} bytes"
            case "IOMMU_IOAS_UNMAP":
                iova, length = struct.unpack("=QQ", call.read(address + 8, 16))
                self.mappings.pop(iova, None)
                detail = f"{iova:#x}, {length} bytes"
            case "IOMMU_DESTROY":
                pass
            case _:
                return detail, Failed(ENOTTY)
        return detail, Returned(0)

    # A device

    def _answer_device(self, device: PlayedDevice, call: Call) -> tuple[str, str, Answer]:
        what, detail = call.name, ""
        try:
            match call.name:
                case "ioctl":
                    what = _DEVICE.get(call.arguments[1] & 0xFFFFFFFF, f"{call.arguments[1]:#x}")
                    if what == "VFIO_DEVICE_FEATURE":
                        return self._answer_feature(device, call)
                    device.before(what, detail)
                    return what, detail, self._answer_ioctl(device, what, call)
                case "pread64" | "pwrite64":
                    return self._answer_config(device, call)
                case "close":
                    self._devices.pop(call.fd, None)
                    return what, detail, LET_GO_ON
            return what, detail, Failed(EINVAL)
        except DeviceError as error:
            return what, detail, Failed(error.errno)
        except BadAddress:
            return what, detail, Failed(EFAULT)

    def _answer_ioctl(self, device: PlayedDevice, name: str, call: Call) -> Answer:
        address = call.arguments[2]
        if name in _SMALLEST and _size(call) < _SMALLEST[name]:
            return Failed(EINVAL)
        match name:
            case "VFIO_DEVICE_GET_INFO":
                flags = _FLAG_RESET | _FLAG_PCI
                call.write(address + 4, struct.pack("=III", flags, _REGIONS, _IRQS))
            case "VFIO_DEVICE_GET_REGION_INFO":
                (index,) = struct.unpack("=I", call.read(address + 8, 4))
                if index >= _REGIONS:
                    return Failed(EINVAL)
                is_config = index == _CONFIG_REGION
                flags = _READ | _WRITE if is_config else 0
                size = device.config_size if is_config else 0
                where = index << _REGION_SHIFT
                call.write(address + 4, struct.pack("=IIIQQ", flags, index, 0, size, where))
            case "VFIO_DEVICE_GET_IRQ_INFO":
                (index,) = struct.unpack("=I", call.read(address + 8, 4))
                if index >= _IRQS:
                    return Failed(EINVAL)
                call.write(address + 4, struct.pack("=III", 0, index, 0))
            case "VFIO_DEVICE_BIND_IOMMUFD":
                call.write(address + 12, struct.pack("=I", next(self._ids)))
            case "VFIO_DEVICE_RESET":
                with device._lock:
                    device.device.reset()
            case (
                "VFIO_DEVICE_SET_IRQS"
                | "VFIO_DEVICE_ATTACH_IOMMUFD_PT"
                | "VFIO_DEVICE_DETACH_IOMMUFD_PT"
            ):
                pass
            case _:
                return Failed(ENOTTY)
        return Returned(0)

    def _answer_config(self, device: PlayedDevice, call: Call) -> tuple[str, str, Answer]:
        _, address, size, offset, *_ = call.arguments
        region, place = offset >> _REGION_SHIFT, offset & ((1 << _REGION_SHIFT) - 1)
        what, detail = call.name, f"configuration {place:#x}, {size} bytes"
        if region != _CONFIG_REGION:
            return what, f"region {region}", Failed(EINVAL)
        if place + size > device.config_size:
            return what, detail, Failed(EFAULT)
        device.before(what, detail)
        if call.name == "pread64":
            call.write(address, device.read_config(place, size))
        else:
            device.write_config(place, call.read(address, size))
        return what, detail, Returned(size)

    def _answer_feature(self, device: PlayedDevice, call: Call) -> tuple[str, str, Answer]:
        address = call.arguments[2]
        size, flags = struct.unpack("=II", call.read(address, 8))
        name = _FEATURES.get(flags & 0xFFFF, str(flags & 0xFFFF))
        verb = "PROBE" if flags & _PROBE else "SET" if flags & _SET else "GET"
        what, detail = f"{verb} {name}", ""
        payload = address + 8
        if (errno := _feature_errno(name, size, flags)) is not None:
            return what, detail, Failed(errno)
        try:
            if name == "MIG_DEVICE_STATE" and verb == "SET":
                (number,) = struct.unpack("=I", call.read(payload, 4))
                try:
                    state = VfioState(number)
                except ValueError:
                    return what, str(number), Failed(EINVAL)
                detail = state.name
                device.before(what, detail)
                return what, detail, self._set_state(device, state, payload, call)
            device.before(what, detail)
            if verb == "PROBE":
                return what, detail, Returned(0)
            with device._lock:
                detail, answer = self._answer_other_feature(device, name, payload, call)
                return what, detail, answer
        except DeviceError as error:
            return what, detail, Failed(error.errno)
        except BadAddress:
            return what, detail, Failed(EFAULT)

    def _answer_other_feature(
        self, device: PlayedDevice, name: str, payload: int, call: Call
    ) -> tuple[str, Answer]:
        played = device.device
        detail = ""
        match name:
            case "MIGRATION":
                call.write(payload, struct.pack("=Q", int(played.flags)))
            case "MIG_DEVICE_STATE":
                detail = played.state.name
                call.write(payload, struct.pack("=Ii", int(played.state), -1))
            case "MIG_DATA_SIZE":
                size = played.stop_copy_bytes()
                call.write(payload, struct.pack("=Q", size))
                detail = f"{size} bytes"
            case "MIG_PRECOPY_INFOv2":
                device._has_precopy_flags = True
            case "DMA_LOGGING_START":
                page_size, count, _, ranges = struct.unpack("=QIIQ", call.read(payload, 24))
                if count > _MAX_IO // 16:
                    return detail, Failed(EINVAL)
                found = struct.iter_unpack("=QQ", call.read(ranges, 16 * count))
                played.start_dma_logging(page_size, [(iova, length) for iova, length in found])
            case "DMA_LOGGING_STOP":
                played.stop_dma_logging()
            case "DMA_LOGGING_REPORT":
                iova, length, page_size, bitmap = struct.unpack("=QQQQ", call.read(payload, 32))
                detail = f"{iova:#x}, {length} bytes"
                wrote = played.report_dma(page_size, iova, length)
                if any(wrote):
                    known = call.read(bitmap, len(wrote))
                    both = bytes(old | new for old, new in zip(known, wrote, strict=True))
                    call.write(bitmap, both)
            case _:
                return detail, Failed(ENOTTY)
        return detail, Returned(0)

    def _set_state(
        self, device: PlayedDevice, state: VfioState, payload: int, call: Call
    ) -> Answer:
        with device._lock:
            before = device.device.state
            device.device.set_state(state)
            after = device.device.state
        goes_on = before in SAVING_STATES and after in SAVING_STATES
        data_fd = -1
        if after in DATA_STATES and not goes_on and before != after:
            data_fd = self._open_data(device, call)
        call.write(payload + 4, struct.pack("=i", data_fd))
        return Returned(0)

    def _open_data(self, device: PlayedDevice, call: Call) -> int:
        """A data descriptor in the other process: anything that is open will do."""
        with self._data_lock:
            number = self._first_data_fd
            while number in self._data:
                number += 1
            self._data[number] = device
        source = os.memfd_create("switchover-data", os.MFD_CLOEXEC)
        try:
            call.add_fd(source, number)
        except BaseException:
            self._data.pop(number, None)
            raise
        finally:
            os.close(source)
        return number

    # Its data

    def _answer_data(self, device: PlayedDevice, call: Call) -> tuple[str, str, Answer]:
        what, detail = call.name, ""
        _, address, size, *_ = call.arguments
        try:
            match call.name:
                case "read":
                    device.before(what, detail)
                    return what, f"{size} bytes", self._read(device, address, size, call)
                case "write":
                    device.before(what, detail)
                    data = call.read(address, min(size, _MAX_IO))
                    with device._lock:
                        device.device.write(memoryview(data))
                    return what, f"{size} bytes", Returned(len(data))
                case "ioctl":
                    what = _DATA.get(call.arguments[1] & 0xFFFFFFFF, f"{call.arguments[1]:#x}")
                    device.before(what, detail)
                    return self._answer_precopy_info(device, what, call)
                case "close":
                    self._data.pop(call.fd, None)
                    return what, "data", LET_GO_ON
            return what, detail, Failed(EBADF)
        except DeviceError as error:
            return what, detail, Failed(error.errno)
        except BadAddress:
            return what, detail, Failed(EFAULT)

    def _read(self, device: PlayedDevice, address: int, size: int, call: Call) -> Answer:
        buffer = memoryview(bytearray(min(size, _MAX_IO)))
        with device._lock:
            count = device.device.read_into(buffer)
        if count is None:
            return Failed(ENOMSG)
        if count:
            call.write(address, buffer[:count])
        return Returned(count)

    def _answer_precopy_info(
        self, device: PlayedDevice, what: str, call: Call
    ) -> tuple[str, str, Answer]:
        if what not in _DATA.values():
            return what, "", Failed(ENOTTY)
        if _size(call) < _SMALLEST[what]:
            return what, "", Failed(EINVAL)
        with device._lock:
            if device.device.state not in PRE_COPY_STATES:
                return what, "", Failed(EINVAL)
            info = device.device.precopy_info()
        flags = int(info.is_reinit and device._has_precopy_flags)
        sizes = (flags, info.initial_bytes, info.dirty_bytes)
        call.write(call.arguments[2] + 4, struct.pack("=IQQ", *sizes))
        return what, f"initial {info.initial_bytes}, dirty {info.dirty_bytes}", Returned(0)


def _size(call: Call) -> int:
    """What the caller of an ioctl says to have given."""
    (size,) = struct.unpack("=I", call.read(call.arguments[2], 4))
    return int(size)


def _feature_errno(name: str, size: int, flags: int) -> int | None:
    """Why a feature's call is refused whatever the device, as `vfio_check_feature` of Linux."""
    if size < _SMALLEST["VFIO_DEVICE_FEATURE"] or flags & ~(_GET | _SET | _PROBE | 0xFFFF):
        return EINVAL
    asked = flags & (_GET | _SET)
    if asked == _GET | _SET and not flags & _PROBE:
        return EINVAL
    if name not in _VERBS:
        return ENOTTY
    allowed, payload_size = _VERBS[name]
    if asked & ~allowed:
        return EINVAL
    if flags & _PROBE:
        return None
    if not asked or size < _SMALLEST["VFIO_DEVICE_FEATURE"] + payload_size:
        return EINVAL
    return None
