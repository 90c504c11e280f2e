"""The option that says who counts the SWITCHOVER_ACKs, for each side of a migration."""

from enum import StrEnum
from typing import Annotated

from typer import Option

from ..model.switchover import SwitchoverAckMode


class AckMode(StrEnum):
    """What a person may say."""

    AUTO = "auto"
    LEGACY = "legacy"
    PER_DEVICE = "per-device"

    @property
    def mode(self) -> SwitchoverAckMode | None:
        """The mode; None where the machine type's name is to tell."""
        return None if self == AckMode.AUTO else SwitchoverAckMode(self.value)


AckModeOption = Annotated[
    AckMode,
    Option(
        "--switchover-ack-mode",
        help="Who counts the ACKs, which both sides must agree on. auto reads it from the machine "
        "type's name: pc-*-11.1 and newer count per device.",
    ),
]
