"""`switchover send`: the source that puts a parked guest into a real QEMU."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..channel.file import open_file
from ..channel.open import open_outgoing
from ..engine.load import load_guest
from ..engine.progress import Progress
from ..engine.source import ParkedSource
from ..model.address import parse_address
from ..model.capability import parse_capabilities
from ..model.switchover import SwitchoverAckMode
from .ack_mode import AckMode, AckModeOption
from .console import figures, say, warn
from .transfer import run_transfer


def send(
    file: Annotated[
        Path,
        Argument(metavar="FILE", help="A parked guest, or any precopy stream that QEMU wrote."),
    ],
    uri: Annotated[
        str,
        Argument(
            metavar="URI",
            help="Where the destination listens: tcp:HOST:PORT, unix:PATH, fd:NUMBER, exec:COMMAND "
            "or file:PATH.",
        ),
    ],
    capability: Annotated[
        list[str] | None,
        Option(
            metavar="NAME",
            help="A migration capability to set, as on a QEMU source: return-path, which is on "
            "wherever the destination can answer, or switchover-ack, with which its VFIO devices "
            "are told when their initial data is there. May be given several times.",
        ),
    ] = None,
    switchover_ack_mode: AckModeOption = AckMode.AUTO,
    json: Annotated[bool, Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Put the parked guest in FILE into a QEMU, where it goes on.

    FILE is read and checked as a whole before anything is sent. Over tcp and unix the destination
    is asked to answer, and the command succeeds only when it has said that it has the guest. FILE
    is left as it is: a guest that runs somewhere must not be sent again.
    """

    def transfer(progress: Progress) -> None:
        address = parse_address(uri)
        capabilities = parse_capabilities(capability or ())
        with open_file(str(file), f"file:{file}") as channel:
            guest = load_guest(channel)
        with open_outgoing(address) as channel:
            mode = switchover_ack_mode.mode
            ParkedSource(guest, channel, progress, capabilities=capabilities, ack_mode=mode).run()

    report = run_transfer(transfer, json).report()
    ack = report.switchover_ack
    is_asked_for = "switchover-ack" in (capability or ())
    is_per_device = ack.mode == SwitchoverAckMode.PER_DEVICE
    if is_per_device and ack.received_ms is not None and not is_asked_for:
        warn(
            "the destination sent an ACK that no device asked for: it counts in legacy mode, and a "
            "QEMU source that counts per device would have failed with 'Switchover ack pending num "
            "underflowed'"
        )
    say(
        f"sent to {uri}: {figures(report)}, {report.pages} pages, {report.zero_pages} zero pages, "
        f"{len(report.devices)} devices in {report.total_ms:.0f} ms"
    )
