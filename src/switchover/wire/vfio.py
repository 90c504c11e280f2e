"""The sections of VFIO devices, as QEMU's hw/vfio/migration.c writes them.

A body is tags, each eight bytes, with what belongs to them. Page: docs/wire/vfio.md.
"""

from dataclasses import dataclass
from enum import IntEnum

from ..errors import StreamError, UnsupportedStream
from ..model.section import Parsed, SectionType
from ..model.vfio import PciConfig
from .cursor import Cursor, u32, u64

VFIO_VERSION = 1
"""The version of the sections."""

_PCI_DEVICE_VERSION = 2
"""Of the vmstate `PCIDevice`, which stands before the configuration space as a number."""
_PIN_BYTES = 4


class VfioTag(IntEnum):
    """What stands in a section (VFIO_MIG_FLAG_* in QEMU)."""

    END_OF_STATE = 0xFFFFFFFF_EF100001
    DEV_CONFIG_STATE = 0xFFFFFFFF_EF100002
    DEV_SETUP_STATE = 0xFFFFFFFF_EF100003
    DEV_DATA_STATE = 0xFFFFFFFF_EF100004
    DEV_INIT_DATA_SENT = 0xFFFFFFFF_EF100005
    DEV_CONFIG_LOAD_READY = 0xFFFFFFFF_EF100006


END_OF_STATE = u64(VfioTag.END_OF_STATE)
"""Ends a body; alone it is the body of a section that says nothing."""
INIT_DATA_SENT = u64(VfioTag.DEV_INIT_DATA_SENT)
"""Ends a body too, in place of END_OF_STATE."""
SETUP_BODY = u64(VfioTag.DEV_SETUP_STATE) + END_OF_STATE
"""The body of a START section."""


def encode_data_header(size: int) -> bytes:
    """What stands before so many bytes of a device's data."""
    return u64(VfioTag.DEV_DATA_STATE) + u64(size)


def encode_config(config: PciConfig) -> bytes:
    """The body of a FULL section: the vmstates `PCIDevice` and, where there is MSI-X, `msix`."""
    return b"".join(
        (
            u64(VfioTag.DEV_CONFIG_STATE),
            u32(_PCI_DEVICE_VERSION),
            config.space,
            *map(u32, config.irq_state),
            config.msix,
            END_OF_STATE,
        )
    )


def decode_config(body: bytes, like: PciConfig, idstr: str, offset: int) -> PciConfig:
    """The configuration in the body of a FULL section.

    Args:
        body: The body, which says nothing of its parts' sizes.
        like: The configuration of the device that takes it, which does.
        idstr: The section's name, for errors.
        offset: Where the body begins in the stream.

    Raises:
        StreamError: It is of a device of another form.
    """
    size = len(encode_config(like))
    if len(body) != size:
        raise StreamError(
            f"the configuration of '{idstr}'",
            offset=offset,
            expected=f"{size} bytes, as this side's device has it",
            got=len(body),
        )
    cursor = Cursor(body, offset)
    what = f"the configuration of '{idstr}'"
    _expect(cursor, VfioTag.DEV_CONFIG_STATE, idstr)
    version = cursor.u32(what)
    if version != _PCI_DEVICE_VERSION:
        raise StreamError(
            f"the configuration of '{idstr}'",
            offset=cursor.offset - _PIN_BYTES,
            expected=f"version {_PCI_DEVICE_VERSION}",
            got=version,
        )
    space = bytes(cursor.take(len(like.space), what))
    first, second, third, fourth = (cursor.u32(what) for _ in like.irq_state)
    msix = bytes(cursor.take(len(like.msix), what))
    _expect(cursor, VfioTag.END_OF_STATE, idstr)
    return PciConfig(space, (first, second, third, fourth), msix)


def _expect(cursor: Cursor, tag: VfioTag, idstr: str) -> None:
    offset = cursor.offset
    found = cursor.u64(f"the configuration of '{idstr}'")
    if found != tag:
        raise StreamError(
            f"{idstr}: Failed loading device config space, flag incorrect",
            offset=offset,
            expected=f"{tag:#x} ({tag.name})",
            got=f"{found:#x}",
        )


@dataclass(frozen=True, slots=True)
class VfioData:
    """Data of a device, perhaps not all that its tag announced.

    Attributes:
        data: The bytes, a view.
    """

    data: memoryview


@dataclass(frozen=True, slots=True)
class VfioInitialDataSent:
    """The source has sent all of the initial data."""


class VfioParser:
    """Takes the live sections of one device apart.

    Args:
        idstr: The section's name.
    """

    version_id = VFIO_VERSION

    def __init__(self, idstr: str) -> None:
        self.idstr = idstr
        self._left_bytes = 0

    def parse(self, section_type: SectionType, body: memoryview, offset: int) -> Parsed:
        """Takes one step; see `switchover.model.section.LiveParser`."""
        if self._left_bytes:
            return self._take_data(Cursor(body, offset), 0)
        cursor = Cursor(body, offset)
        what = f"section '{self.idstr}'"
        tag = cursor.u64(what)
        match tag:
            case VfioTag.END_OF_STATE:
                return Parsed(cursor.position, None, is_last=True)
            case VfioTag.DEV_INIT_DATA_SENT:
                return Parsed(cursor.position, VfioInitialDataSent(), is_last=True)
            case VfioTag.DEV_SETUP_STATE:
                end = cursor.u64(what)
                if end != VfioTag.END_OF_STATE:
                    raise StreamError(
                        f"{self.idstr}: SETUP STATE: EOS not found {end:#x}", offset=offset
                    )
                return Parsed(cursor.position, None, is_last=True)
            case VfioTag.DEV_DATA_STATE:
                size = cursor.u64(what)
                if size == 0:
                    return Parsed(cursor.position, None, is_last=False)
                return self._take_data(cursor, size)
            case VfioTag.DEV_CONFIG_STATE:
                raise StreamError(
                    f"{self.idstr}: the configuration stands in a {section_type.name} section",
                    offset=offset,
                    expected="a FULL section",
                )
            case VfioTag.DEV_CONFIG_LOAD_READY:
                raise UnsupportedStream(
                    f"{self.idstr}: device state over multifd, and capability 'multifd' is not "
                    "supported yet",
                    offset=offset,
                )
        raise StreamError(f"{self.idstr}: Unknown tag {tag:#x}", offset=offset)

    def _take_data(self, cursor: Cursor, announced: int) -> Parsed:
        """What has come of the data, so that none of it must be gathered."""
        left_bytes = self._left_bytes or announced
        if cursor.remaining == 0:
            # Raises, as there is not one byte; nothing was changed.
            cursor.take(1, f"data of '{self.idstr}'")
        data = cursor.take(min(cursor.remaining, left_bytes), f"data of '{self.idstr}'")
        self._left_bytes = left_bytes - len(data)
        return Parsed(cursor.position, VfioData(data), is_last=False)
