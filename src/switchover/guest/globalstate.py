"""Whether the guest ran at its source: the last device section, as QEMU has it."""

from collections.abc import Mapping
from typing import Any

from ..model.vmstate import VmstateDescription, VmstateField, VmstateType

_SIZE = 100


class GlobalState:
    """The device that carries the run state.

    Attributes:
        was_running: Whether the source's guest ran until its migration stopped it.
    """

    idstr = "globalstate"
    description = VmstateDescription(
        "globalstate",
        (
            VmstateField("size", VmstateType.UINT32),
            VmstateField("runstate", VmstateType.BUFFER, size=_SIZE),
        ),
    )

    def __init__(self, *, was_running: bool = False) -> None:
        self.was_running = was_running

    def save(self) -> Mapping[str, Any]:
        """The run state by QEMU's name."""
        text = b"running\0" if self.was_running else b"paused\0"
        return {"size": len(text), "runstate": text.ljust(_SIZE, b"\0")}

    def load(self, values: Mapping[str, Any]) -> None:
        """Takes the run state over."""
        self.was_running = values["runstate"].partition(b"\0")[0] == b"running"
