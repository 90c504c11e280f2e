"""A serial port: what the guest prints, line by line, with the time at which each line ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..model.vmstate import VmstateDescription, VmstateField, VmstateType


@dataclass(frozen=True, slots=True)
class SerialLine:
    """One line.

    Attributes:
        now: When it ended, in monotonic nanoseconds of the host.
        text: What it said.
    """

    now: int
    text: str


class Serial:
    """The port.

    Attributes:
        lines: What was printed here; what was printed before a migration is with its source.
    """

    idstr = "serial"
    description = VmstateDescription("serial", (VmstateField("written_bytes", VmstateType.UINT64),))

    def __init__(self) -> None:
        self.lines: list[SerialLine] = []
        self._line = bytearray()
        self._written_bytes = 0

    def save(self) -> Mapping[str, Any]:
        """How much was ever printed."""
        return {"written_bytes": self._written_bytes}

    def load(self, values: Mapping[str, Any]) -> None:
        """Takes the count over."""
        self._written_bytes = values["written_bytes"]

    def write(self, byte: int, now: int) -> None:
        """The guest printed a byte."""
        self._written_bytes += 1
        if byte == ord("\n"):
            self.lines.append(SerialLine(now, self._line.decode("latin-1")))
            self._line.clear()
        else:
            self._line.append(byte)
