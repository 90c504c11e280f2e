"""Migration capabilities by their QAPI names, and which of them are taken here."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from ..errors import UsageError


class Capability(StrEnum):
    """The migration capabilities of QEMU 10.0, in its order, and our own behind them."""

    XBZRLE = "xbzrle"
    RDMA_PIN_ALL = "rdma-pin-all"
    AUTO_CONVERGE = "auto-converge"
    ZERO_BLOCKS = "zero-blocks"
    EVENTS = "events"
    POSTCOPY_RAM = "postcopy-ram"
    X_COLO = "x-colo"
    RELEASE_RAM = "release-ram"
    RETURN_PATH = "return-path"
    PAUSE_BEFORE_SWITCHOVER = "pause-before-switchover"
    MULTIFD = "multifd"
    DIRTY_BITMAPS = "dirty-bitmaps"
    POSTCOPY_BLOCKTIME = "postcopy-blocktime"
    LATE_BLOCK_ACTIVATE = "late-block-activate"
    X_IGNORE_SHARED = "x-ignore-shared"
    VALIDATE_UUID = "validate-uuid"
    BACKGROUND_SNAPSHOT = "background-snapshot"
    ZERO_COPY_SEND = "zero-copy-send"
    POSTCOPY_PREEMPT = "postcopy-preempt"
    SWITCHOVER_ACK = "switchover-ack"
    DIRTY_LIMIT = "dirty-limit"
    MAPPED_RAM = "mapped-ram"
    X_LOAD_REPORT = "x-load-report"


QEMU_CAPABILITIES = tuple(Capability)[:-1]
"""Those that QEMU has. X_LOAD_REPORT is our own: a destination tells its source how far it is with
the stream and how fast its devices take their data; both sides must be ours."""

_SOURCE_ONLY = frozenset(
    {
        Capability.AUTO_CONVERGE,
        Capability.DIRTY_LIMIT,
        Capability.EVENTS,
        Capability.LATE_BLOCK_ACTIVATE,
        Capability.PAUSE_BEFORE_SWITCHOVER,
        Capability.RELEASE_RAM,
        Capability.ZERO_BLOCKS,
    }
)
"""Set on a destination they change nothing, in QEMU as here."""

DESTINATION_CAPABILITIES = _SOURCE_ONLY | {
    Capability.RETURN_PATH,
    Capability.SWITCHOVER_ACK,
    Capability.VALIDATE_UUID,
}
"""What a destination that parks a guest may be told to set."""

MACHINE_CAPABILITIES = frozenset(
    {
        Capability.EVENTS,
        Capability.PAUSE_BEFORE_SWITCHOVER,
        Capability.RETURN_PATH,
        Capability.SWITCHOVER_ACK,
        Capability.X_LOAD_REPORT,
    }
)
"""What a machine that runs here may be told to set, as a source or as a destination."""


def change_capabilities(
    capabilities: frozenset[Capability], changes: Mapping[Capability, bool]
) -> frozenset[Capability]:
    """The capabilities of a machine that runs, some of them switched on or off.

    QEMU's rules hold for what comes out, so the order of the changes does not matter. To switch off
    what is not supported is no change.

    Raises:
        UsageError: One is not supported here, or the set lacks what one of it needs.
    """
    for capability, state in changes.items():
        if state and capability not in MACHINE_CAPABILITIES:
            raise UsageError(f"capability '{capability}' is not supported by switchover")
    switched_on = {capability for capability, state in changes.items() if state}
    changed = capabilities - changes.keys() | switched_on
    _check_needs(changed)
    return changed


def _check_needs(capabilities: frozenset[Capability]) -> None:
    for capability in (Capability.SWITCHOVER_ACK, Capability.X_LOAD_REPORT):
        if capability in capabilities and Capability.RETURN_PATH not in capabilities:
            raise UsageError(f"Capability '{capability}' requires capability 'return-path'")


def parse_capabilities(names: Iterable[str]) -> frozenset[Capability]:
    """The capabilities of that name, with QEMU's rules for a set of them.

    Raises:
        UsageError: A name is unknown, not supported here, or the set lacks what one of it needs.
    """
    capabilities = set()
    for name in names:
        try:
            capability = Capability(name)
        except ValueError:
            raise UsageError(f"Parameter 'capability' does not accept value '{name}'") from None
        if capability not in DESTINATION_CAPABILITIES:
            raise UsageError(f"capability '{name}' is not supported by switchover yet")
        capabilities.add(capability)
    parsed = frozenset(capabilities)
    _check_needs(parsed)
    return parsed
