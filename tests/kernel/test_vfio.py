"""VFIO: the numbers are those of include/uapi/linux/vfio.h, and so are the bytes of each call."""

import ctypes
import errno
import os
import struct
import tempfile
from collections.abc import Callable, Iterator

import pytest
from tests.kernel.headers import header

from switchover.errors import KernelError
from switchover.kernel import vfio
from switchover.kernel.ioctl import ioctl
from switchover.kernel.vfio import Feature, Ioctl, PrecopySizes, Region, VfioCalls

IOCTLS = {
    # ';' << 8 | 100 + number
    "VFIO_DEVICE_GET_REGION_INFO": 0x3B00 + 108,
    "VFIO_DEVICE_RESET": 0x3B00 + 111,
    "VFIO_DEVICE_FEATURE": 0x3B00 + 117,
    "VFIO_DEVICE_BIND_IOMMUFD": 0x3B00 + 118,
    "VFIO_MIG_GET_PRECOPY_INFO": 0x3B00 + 121,
}
CONSTANTS = {
    "_TYPE": ("VFIO_TYPE", 0x3B),
    "_BASE": ("VFIO_BASE", 100),
    "_FEATURE_GET": ("VFIO_DEVICE_FEATURE_GET", 0x1_0000),
    "_FEATURE_SET": ("VFIO_DEVICE_FEATURE_SET", 0x2_0000),
    "PRECOPY_INFO_REINIT": ("VFIO_PRECOPY_INFO_REINIT", 1),
}
FEATURES = {
    "MIGRATION": 1,
    "MIG_DEVICE_STATE": 2,
    "DMA_LOGGING_START": 6,
    "DMA_LOGGING_STOP": 7,
    "DMA_LOGGING_REPORT": 8,
    "MIG_DATA_SIZE": 9,
    "MIG_PRECOPY_INFOv2": 12,
}
STRUCTS = {
    "_Feature": ("vfio_device_feature", 8),
    "_Migration": ("vfio_device_feature_migration", 8),
    "_MigState": ("vfio_device_feature_mig_state", 8),
    "_MigDataSize": ("vfio_device_feature_mig_data_size", 8),
    "_LoggingControl": ("vfio_device_feature_dma_logging_control", 24),
    "_LoggingRange": ("vfio_device_feature_dma_logging_range", 16),
    "_LoggingReport": ("vfio_device_feature_dma_logging_report", 32),
    "_RegionInfo": ("vfio_region_info", 32),
    "_PrecopyInfo": ("vfio_precopy_info", 24),
}
WITH_FEATURE = {
    "_MigrationFeature": "_Migration",
    "_MigStateFeature": "_MigState",
    "_MigDataSizeFeature": "_MigDataSize",
    "_LoggingControlFeature": "_LoggingControl",
    "_LoggingReportFeature": "_LoggingReport",
}
GET, SET = 0x1_0000, 0x2_0000
DEVICE, DATA = 70, 71
"""Descriptors, of which nobody asks what they are."""


class Kernel:
    """Answers one call: notes its bytes, and overwrites the first ones behind size and flags.

    Args:
        answer: What it writes; or how it fails.
        at: Where.
    """

    def __init__(self, answer: bytes | int = b"", at: int = 8) -> None:
        self.answer = answer
        self.at = at
        self.calls: list[tuple[int, str, int, bytes]] = []

    def __call__(
        self, fileno: int, name: str, number: int, argument: ctypes.Structure | None = None
    ) -> int:
        taken = b"" if argument is None else bytes(argument)
        self.calls.append((fileno, name, number, taken))
        if isinstance(self.answer, int):
            raise KernelError(name, OSError(self.answer, os.strerror(self.answer)))
        if argument is not None:
            ctypes.memmove(ctypes.addressof(argument) + self.at, self.answer, len(self.answer))
        return 0


class Logging:
    """Answers DMA_LOGGING_START and DMA_LOGGING_REPORT, following the pointers in them."""

    def __init__(self, page_size: int = 0, bits: dict[int, int] | None = None) -> None:
        self.page_size = page_size
        self.bits = bits or {}
        self.ranges: list[tuple[int, int]] = []
        self.found = b""

    def __call__(
        self, fileno: int, name: str, number: int, argument: ctypes.Structure | None = None
    ) -> int:
        taken = bytes(argument or b"")
        if name == "VFIO_DEVICE_FEATURE_DMA_LOGGING_START":
            _, _, _, count, reserved, address = struct.unpack("=IIQIIQ", taken)
            assert reserved == 0
            self.ranges = list(struct.iter_unpack("=QQ", ctypes.string_at(address, count * 16)))
            assert argument is not None
            chosen = self.page_size.to_bytes(8, "little")
            ctypes.memmove(ctypes.addressof(argument) + 8, chosen, 8)
        else:
            _, _, _, length, page_size, address = struct.unpack("=IIQQQQ", taken)
            words = -(-length // page_size // 64)
            self.found = ctypes.string_at(address, words * 8)
            for word, bits in self.bits.items():
                ctypes.c_uint64.from_address(address + 8 * word).value |= bits
        return 0


class TestNumbers:
    @pytest.mark.parametrize(("name", "number"), IOCTLS.items())
    def test_ioctls_are_what_the_formula_gives(self, name: str, number: int) -> None:
        assert getattr(vfio, name) == number

    @pytest.mark.parametrize(("ours", "value"), [(n, v) for n, (_, v) in CONSTANTS.items()])
    def test_constants_are_those_that_are_known(self, ours: str, value: int) -> None:
        assert getattr(vfio, ours) == value

    def test_features_are_those_that_are_known(self) -> None:
        assert {feature.name: feature.value for feature in Feature} == FEATURES

    @pytest.mark.parametrize(("ours", "size"), [(n, v) for n, (_, v) in STRUCTS.items()])
    def test_structs_have_their_size(self, ours: str, size: int) -> None:
        assert ctypes.sizeof(getattr(vfio, ours)) == size

    @pytest.mark.parametrize(("whole", "data"), WITH_FEATURE.items())
    def test_data_follows_size_and_flags(self, whole: str, data: str) -> None:
        whole_type, data_type = getattr(vfio, whole), getattr(vfio, data)
        assert ctypes.sizeof(whole_type) == 8 + ctypes.sizeof(data_type)
        assert (whole_type.argsz.offset, whole_type.flags.offset, whole_type.data.offset) == (
            0,
            4,
            8,
        )

    def test_what_the_installed_header_has_is_the_same(self) -> None:
        installed = header("vfio.h")
        for name, number in IOCTLS.items():
            if installed.has(name):
                assert installed.number(name) == number
        for theirs, value in CONSTANTS.values():
            if installed.has(theirs):
                assert installed.constant(theirs) == value
        for name, value in FEATURES.items():
            if installed.has(f"VFIO_DEVICE_FEATURE_{name}"):
                assert installed.constant(f"VFIO_DEVICE_FEATURE_{name}") == value
        for theirs, size in STRUCTS.values():
            if installed.has_struct(theirs):
                assert installed.size(theirs) == size
        assert installed.enumerator("VFIO_PCI_CONFIG_REGION_INDEX") in (
            None,
            vfio.PCI_CONFIG_REGION_INDEX,
        )
        if installed.has_struct("vfio_device_bind_iommufd"):
            # The newer one has a token behind what there is of ours.
            assert installed.size("vfio_device_bind_iommufd") in (16, 24)

    def test_region_of_the_configuration_is_the_one_that_is_known(self) -> None:
        assert vfio.PCI_CONFIG_REGION_INDEX == 7
        assert ctypes.sizeof(vfio._BindIommufd) == 16


class TestCalls:
    @pytest.mark.parametrize(
        ("call", "name", "number", "taken", "answer", "result"),
        [
            pytest.param(
                lambda calls: calls.bind_iommufd(DEVICE, 9),
                "VFIO_DEVICE_BIND_IOMMUFD",
                0x3B76,
                struct.pack("=IIiI", 16, 0, 9, 0),
                struct.pack("=iI", 9, 5),
                5,
                id="bind",
            ),
            pytest.param(
                lambda calls: calls.reset(DEVICE), "VFIO_DEVICE_RESET", 0x3B6F, b"", b"", None
            ),
            pytest.param(
                lambda calls: calls.region(DEVICE, 7),
                "VFIO_DEVICE_GET_REGION_INFO",
                0x3B6C,
                struct.pack("=IIIIQQ", 32, 0, 7, 0, 0, 0),
                struct.pack("=IIQQ", 7, 0, 4096, 7 << 40),
                Region(4096, 7 << 40),
                id="region",
            ),
            pytest.param(
                lambda calls: calls.migration_flags(DEVICE),
                "VFIO_DEVICE_FEATURE_MIGRATION",
                0x3B75,
                struct.pack("=IIQ", 16, GET | 1, 0),
                struct.pack("=Q", 1 << 63 | 7),
                1 << 63 | 7,
                id="flags",
            ),
            pytest.param(
                lambda calls: calls.device_state(DEVICE),
                "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE",
                0x3B75,
                struct.pack("=IIIi", 16, GET | 2, 0, -1),
                struct.pack("=Ii", 6, -1),
                6,
                id="state",
            ),
            pytest.param(
                lambda calls: calls.set_device_state(DEVICE, 4),
                "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE",
                0x3B75,
                struct.pack("=IIIi", 16, SET | 2, 4, -1),
                struct.pack("=Ii", 4, 12),
                12,
                id="set_state",
            ),
            pytest.param(
                lambda calls: calls.set_device_state(DEVICE, 1),
                "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE",
                0x3B75,
                struct.pack("=IIIi", 16, SET | 2, 1, -1),
                struct.pack("=Ii", 1, -1),
                -1,
                id="set_state-without-data",
            ),
            pytest.param(
                lambda calls: calls.stop_copy_length(DEVICE),
                "VFIO_DEVICE_FEATURE_MIG_DATA_SIZE",
                0x3B75,
                struct.pack("=IIQ", 16, GET | 9, 0),
                struct.pack("=Q", 3 << 32),
                3 << 32,
                id="data_size",
            ),
            pytest.param(
                lambda calls: calls.enable_precopy_flags(DEVICE),
                "VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2",
                0x3B75,
                struct.pack("=II", 8, SET | 12),
                b"",
                None,
                id="precopy_flags",
            ),
            pytest.param(
                lambda calls: calls.stop_dma_logging(DEVICE),
                "VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP",
                0x3B75,
                struct.pack("=II", 8, SET | 7),
                b"",
                None,
                id="stop_dma_logging",
            ),
        ],
    )
    def test_bytes_of_each_are_as_the_header_says(
        self,
        call: Callable[[VfioCalls], object],
        name: str,
        number: int,
        taken: bytes,
        answer: bytes,
        result: object,
    ) -> None:
        kernel = Kernel(answer)
        assert call(VfioCalls(kernel)) == result
        assert kernel.calls == [(DEVICE, name, number, taken)]

    @pytest.mark.parametrize("flags", [0, 1])
    def test_sizes_are_asked_of_the_data_descriptor(self, flags: int) -> None:
        kernel = Kernel(struct.pack("=IQQ", flags, 1 << 40, 77), at=4)
        assert VfioCalls(kernel).precopy_sizes(DATA) == PrecopySizes(1 << 40, 77, flags)
        taken = struct.pack("=IIQQ", 24, 0, 0, 0)
        assert kernel.calls == [(DATA, "VFIO_MIG_GET_PRECOPY_INFO", 0x3B79, taken)]


class TestDmaLogging:
    def test_ranges_are_pointed_at(self) -> None:
        kernel = Logging(page_size=8192)
        ranges = [(0, 0x8000_0000), (1 << 32, 1 << 40)]
        assert VfioCalls(kernel).start_dma_logging(DEVICE, 4096, ranges) == 8192
        assert kernel.ranges == ranges

    def test_start_says_page_size_and_count(self) -> None:
        kernel = Kernel()
        VfioCalls(kernel).start_dma_logging(DEVICE, 4096, [(0, 4096), (8192, 4096)])
        ((_, name, number, taken),) = kernel.calls
        assert (name, number) == ("VFIO_DEVICE_FEATURE_DMA_LOGGING_START", 0x3B75)
        assert taken[:24] == struct.pack("=IIQII", 32, SET | 6, 4096, 2, 0)
        assert len(taken) == 32

    def test_report_says_where(self) -> None:
        kernel = Kernel()
        VfioCalls(kernel).report_dma(DEVICE, 4096, 1 << 32, 65 * 4096)
        ((_, name, number, taken),) = kernel.calls
        assert (name, number) == ("VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT", 0x3B75)
        assert taken[:32] == struct.pack("=IIQQQ", 40, GET | 8, 1 << 32, 65 * 4096, 4096)
        assert len(taken) == 40

    @pytest.mark.parametrize(
        ("pages", "size"), [(1, 8), (63, 8), (64, 8), (65, 16), (128, 16), (129, 24)]
    )
    def test_bitmap_is_of_whole_words_that_are_zero(self, pages: int, size: int) -> None:
        kernel = Logging()
        bitmap = VfioCalls(kernel).report_dma(DEVICE, 4096, 0, pages * 4096)
        assert bitmap == kernel.found == bytes(size)

    def test_page_that_is_not_whole_has_a_bit(self) -> None:
        assert len(VfioCalls(Logging()).report_dma(DEVICE, 4096, 0, 64 * 4096 + 1)) == 16

    @pytest.mark.parametrize("page", [0, 1, 7, 8, 31, 32, 63, 64, 100, 191])
    def test_bit_of_a_page_is_where_little_endian_has_it(self, page: int) -> None:
        kernel = Logging(bits={page // 64: 1 << page % 64})
        bitmap = VfioCalls(kernel).report_dma(DEVICE, 4096, 0, 192 * 4096)
        assert int.from_bytes(bitmap, "little") == 1 << page
        assert bitmap[page // 8] == 1 << page % 8


class TestRefused:
    @pytest.mark.parametrize(
        ("call", "name"),
        [
            (lambda calls: calls.bind_iommufd(DEVICE, 9), "VFIO_DEVICE_BIND_IOMMUFD"),
            (lambda calls: calls.reset(DEVICE), "VFIO_DEVICE_RESET"),
            (lambda calls: calls.region(DEVICE, 7), "VFIO_DEVICE_GET_REGION_INFO"),
            (lambda calls: calls.migration_flags(DEVICE), "VFIO_DEVICE_FEATURE_MIGRATION"),
            (lambda calls: calls.device_state(DEVICE), "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE"),
            (
                lambda calls: calls.set_device_state(DEVICE, 1),
                "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE",
            ),
            (lambda calls: calls.stop_copy_length(DEVICE), "VFIO_DEVICE_FEATURE_MIG_DATA_SIZE"),
            (
                lambda calls: calls.enable_precopy_flags(DEVICE),
                "VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2",
            ),
            (
                lambda calls: calls.start_dma_logging(DEVICE, 4096, [(0, 4096)]),
                "VFIO_DEVICE_FEATURE_DMA_LOGGING_START",
            ),
            (lambda calls: calls.stop_dma_logging(DEVICE), "VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP"),
            (
                lambda calls: calls.report_dma(DEVICE, 4096, 0, 4096),
                "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT",
            ),
            (lambda calls: calls.precopy_sizes(DEVICE), "VFIO_MIG_GET_PRECOPY_INFO"),
        ],
    )
    class TestEach:
        def test_is_named(self, call: Callable[[VfioCalls], object], name: str) -> None:
            with pytest.raises(KernelError) as caught:
                call(VfioCalls(Kernel(errno.EOPNOTSUPP)))
            assert (caught.value.call, caught.value.errno) == (name, errno.EOPNOTSUPP)

        def test_is_refused_by_what_is_no_device(
            self, call: Callable[[VfioCalls], object], name: str, no_device: Ioctl
        ) -> None:
            """The real kernel's answer, from a file."""
            with pytest.raises(KernelError) as caught:
                call(VfioCalls(no_device))
            assert (caught.value.call, caught.value.errno) == (name, errno.ENOTTY)


@pytest.fixture
def no_device() -> Iterator[Ioctl]:
    """Makes real calls, on a file."""
    with tempfile.TemporaryFile() as file:

        def call(
            fileno: int, name: str, number: int, argument: ctypes.Structure | None = None
        ) -> int:
            return ioctl(file.fileno(), name, number, argument)

        yield call
