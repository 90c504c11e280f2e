"""`switchover receive`: the destination of a real QEMU, which holds its guest in a file."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..channel.connection import Listener
from ..channel.file import AtomicFile
from ..channel.open import open_incoming
from ..engine.destination import ParkingDestination
from ..engine.incoming import ReceiveOptions
from ..engine.progress import Progress
from ..errors import UsageError
from ..model.address import parse_address
from ..model.capability import DESTINATION_CAPABILITIES, Capability, parse_capabilities
from .ack_mode import AckMode, AckModeOption
from .console import figures, say, warn
from .transfer import run_transfer
from .values import parse_seconds, parse_size

_CAPABILITIES = ", ".join(sorted(DESTINATION_CAPABILITIES))


def receive(
    uri: Annotated[
        str,
        Argument(
            metavar="URI",
            help="Where the source comes: tcp:HOST:PORT, unix:PATH, fd:NUMBER, exec:COMMAND or "
            "file:PATH. Port 0 takes a free one.",
        ),
    ],
    output: Annotated[
        Path,
        Option(
            metavar="FILE",
            help="Where the guest is parked. The file appears when the guest is whole and on disk.",
        ),
    ],
    capability: Annotated[
        list[str] | None,
        Option(
            metavar="NAME",
            help=f"A migration capability to set, as on a QEMU destination: {_CAPABILITIES}. "
            "May be given several times.",
        ),
    ] = None,
    hold_ack: Annotated[
        int,
        Option(
            metavar="SECONDS",
            parser=parse_seconds,
            help="Hold the SWITCHOVER_ACK back so long; the guest goes on running at its source.",
        ),
    ] = "0",  # type: ignore[assignment]
    switchover_ack_mode: AckModeOption = AckMode.AUTO,
    max_ram: Annotated[
        int | None,
        Option(
            metavar="SIZE",
            parser=parse_size,
            help="Refuse a guest with more RAM.",
            show_default="this machine's memory",
        ),
    ] = None,
    json: Annotated[bool, Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Be the destination of a QEMU, and park its guest in FILE.

    The guest never runs here. Its source is told that all is well only when FILE is whole and on
    disk; whatever goes wrong before leaves the guest running where it is. FILE is a QEMU migration
    stream: `switchover send` puts it into a QEMU, and so does `-incoming file:FILE`.
    """

    def transfer(progress: Progress) -> None:
        capabilities = parse_capabilities(capability or ())
        if hold_ack and Capability.SWITCHOVER_ACK not in capabilities:
            raise UsageError(
                "--hold-ack without --capability switchover-ack: there is no ACK to be held"
            )
        options = ReceiveOptions(
            capabilities=capabilities,
            hold_ack_ns=hold_ack,
            ack_mode=switchover_ack_mode.mode,
        )
        if max_ram is not None:
            options = replace(options, max_ram_bytes=max_ram)
        with AtomicFile(output) as file, open_incoming(parse_address(uri)) as incoming:
            if isinstance(incoming, Listener):
                say(f"listening on {incoming.address}")
            ParkingDestination(incoming, file, options, progress, warn).run()

    report = run_transfer(transfer, json).report()
    say(
        f"parked in {output}: {figures(report)}, {report.pages} pages, {report.zero_pages} zero "
        f"pages, {len(report.devices)} devices in {report.total_ms:.0f} ms"
    )
