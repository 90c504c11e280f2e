"""`switchover run`: the built-in machine in this process, driven over QMP."""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, TextIO

from typer import BadParameter, Exit, Option

from .. import __version__
from ..channel.connection import Listener
from ..channel.open import open_incoming, open_outgoing
from ..engine.arrival import ArrivingDestination
from ..engine.incoming import ReceiveOptions
from ..engine.precopy import PrecopySource
from ..engine.progress import Progress
from ..errors import MigrationError, UsageError
from ..guest.machine import BuiltinMachine
from ..model.address import MigrationAddress, UnixAddress
from ..model.capability import Capability
from ..model.parameter import Parameters
from ..model.switchover import SwitchoverAckMode, switchover_ack_mode
from ..qmp.commands import Machine
from ..qmp.guest import SharedGuest
from ..qmp.server import Server
from ..vfio.migration import VfioMigration
from ..vfio.options import KEYS, parse_options
from ..vfio.sim import VfioSim
from ..worker import Worker
from .ack_mode import AckMode, AckModeOption
from .console import fail, say, warn
from .values import parse_size

_FAILED, _INTERRUPTED = 1, 130
_SERIAL_POLL_S = 0.01
_VERSION = {
    "qemu": {"major": 10, "minor": 0, "micro": 0},
    "package": f"switchover {__version__}",
}
"""The QEMU whose QMP is spoken."""


def _parse_rate(text: str) -> int | None:
    if text == "max":
        return None
    if not text.isdecimal():
        raise BadParameter(f"{text!r} is not a rate: expected pages a second, or max")
    return int(text)


def _parse_qmp(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if not path or path.startswith("tcp:"):
        raise BadParameter(f"{text!r} is not a unix socket: expected unix:PATH")
    return UnixAddress(path)


def _make_device(text: str, place: int, *, is_awaited: bool) -> VfioMigration:
    kind, _, options = text.partition(",")
    if kind != "vfio-sim":
        raise BadParameter(f"{text!r} is not a device: expected vfio-sim[,KEY=VALUE]…")
    try:
        parsed = parse_options(options, f"sim{place}")
    except UsageError as error:
        raise BadParameter(f"{text!r}: {error}") from error
    return VfioMigration(parsed.id, VfioSim(parsed, is_empty=is_awaited))


def run(
    qmp: Annotated[
        UnixAddress,
        Option(
            metavar="unix:PATH",
            parser=_parse_qmp,
            help="Where QMP clients connect. Only the owner may; the socket is removed at the end.",
        ),
    ],
    incoming: Annotated[
        str | None,
        Option(
            metavar="URI|defer",
            help="Receive the machine from here; defer waits for migrate-incoming.",
        ),
    ] = None,
    memory: Annotated[
        int, Option(metavar="SIZE", parser=parse_size, help="The machine's RAM.")
    ] = "256M",  # type: ignore[assignment]
    dirty_rate: Annotated[
        int | None,
        Option(
            metavar="PAGES|max",
            parser=_parse_rate,
            help="Pages that the machine's program writes to in a second; max for all it can.",
        ),
    ] = "0",  # type: ignore[assignment]
    region: Annotated[
        int | None,
        Option(
            metavar="SIZE",
            parser=parse_size,
            help="How much of the RAM the program writes to.",
            show_default="all above the first MiB",
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        Option(
            metavar="vfio-sim[,KEY=VALUE]…",
            help="A simulated device with VFIO's migration interface, such as "
            "vfio-sim,state=300M,initial=16M,allocate=1480ms. "
            f"Keys: {', '.join(KEYS)}. "
            "May be given several times.",
        ),
    ] = None,
    serial: Annotated[
        str | None,
        Option(metavar="FILE", help="Where the serial port's lines go; - for standard output."),
    ] = None,
    switchover_ack_mode: AckModeOption = AckMode.AUTO,
    paused: Annotated[
        bool, Option("--paused", help="Do not let the machine run before QMP's cont.")
    ] = False,
    ram_only: Annotated[
        bool,
        Option(
            "--ram-only",
            help="Migrate nothing but the RAM, as a QEMU with -machine none and as much memory "
            "takes it.",
        ),
    ] = False,
) -> None:
    """Run the built-in machine in this process, driven by QMP.

    It runs until a client says quit, or until SIGTERM or Ctrl-C. The commands are QEMU's: stop,
    cont, migrate, query-migrate, migrate_cancel and more; query-commands lists them all.
    """
    devices = [
        _make_device(text, place, is_awaited=incoming is not None)
        for place, text in enumerate(device or ())
    ]
    names = [one.idstr for one in devices]
    if len(set(names)) != len(names):
        raise BadParameter("two devices have the same id")
    if ram_only and devices:
        raise BadParameter("--ram-only and --device: a machine with nothing but RAM has no devices")
    try:
        machine = BuiltinMachine(
            memory,
            region_bytes=region,
            pages_per_second=dirty_rate,
            live_devices=devices,
            ram_only=ram_only,
        )
        with ExitStack() as stack:
            listener = stack.enter_context(Listener(qmp))
            stack.enter_context(_printing(machine, serial))
            channels = _Channels(switchover_ack_mode.mode)
            serving = _serve(machine, listener, incoming, channels, is_paused=paused)
            exit_code = asyncio.run(serving)
    except MigrationError as error:
        fail(str(error))
        raise Exit(_FAILED) from error
    if exit_code:
        raise Exit(exit_code)


async def _serve(
    machine: BuiltinMachine,
    listener: Listener,
    incoming: str | None,
    channels: "_Channels",
    *,
    is_paused: bool,
) -> int:
    """Serves QMP until it is over; gives the exit code."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[int] = loop.create_future()

    def end(exit_code: int, reason: str) -> None:
        if not over.done():
            server.notify("SHUTDOWN", {"guest": False, "reason": reason})
            over.set_result(exit_code)

    def die(reason: str) -> None:
        fail(reason)
        loop.call_soon_threadsafe(end, _FAILED, "host-error")

    server = Server(_VERSION, lambda command, arguments: controlled.execute(command, arguments))
    controlled = Machine(
        machine,
        channels,
        server.notify,
        _VERSION,
        has_incoming=incoming is not None,
        is_paused=is_paused,
    )
    controlled.quits = lambda: end(0, "host-qmp-quit")
    controlled.dies = die
    loop.add_signal_handler(signal.SIGTERM, end, 0, "host-signal")
    loop.add_signal_handler(signal.SIGINT, end, _INTERRUPTED, "host-signal")
    try:
        if incoming not in (None, "defer"):
            controlled.listen(str(incoming))
        await server.start(socket.socket(fileno=os.dup(listener.fileno())))
        say(f"QMP is at {listener.address}")
        exit_code = await over
    finally:
        controlled.close()
        await server.close()
    return exit_code


class _Channels:
    """Channels for the migrations of a machine.

    Args:
        ack_mode: Who counts the ACKs; None to read it from the machine type's name.
    """

    def __init__(self, ack_mode: SwitchoverAckMode | None) -> None:
        self._ack_mode = ack_mode

    def _mode(self, machine: str, capabilities: frozenset[Capability]) -> SwitchoverAckMode:
        mode = self._ack_mode or switchover_ack_mode(machine)
        if mode is None and Capability.SWITCHOVER_ACK in capabilities:
            warn(
                f"machine type '{machine}' does not tell the mode of SWITCHOVER_ACK; legacy is "
                "assumed, and --switchover-ack-mode says otherwise"
            )
        return mode or SwitchoverAckMode.LEGACY

    @contextmanager
    def open_source(
        self,
        address: MigrationAddress,
        guest: SharedGuest,
        capabilities: frozenset[Capability],
        parameters: Parameters,
        progress: Progress,
    ) -> Iterator[PrecopySource]:
        """A source that is connected."""
        with open_outgoing(address) as channel:
            mode = self._mode(guest.machine, capabilities)
            yield PrecopySource(guest, channel, capabilities, parameters, progress, ack_mode=mode)

    @contextmanager
    def open_destination(
        self,
        address: MigrationAddress,
        guest: SharedGuest,
        capabilities: frozenset[Capability],
        progress: Progress,
    ) -> Iterator[tuple[ArrivingDestination, MigrationAddress]]:
        """A destination that listens, and where."""
        with open_incoming(address) as incoming:
            mode = self._mode(guest.machine, capabilities)
            options = ReceiveOptions(capabilities=capabilities, ack_mode=mode)
            where = incoming.address if isinstance(incoming, Listener) else address
            if isinstance(incoming, Listener):
                say(f"listening on {where}")
            yield ArrivingDestination(guest, incoming, options, progress, warn), where


@contextmanager
def _printing(machine: BuiltinMachine, target: str | None) -> Iterator[None]:
    """Has what the machine prints written somewhere, or thrown away, as it comes."""
    is_over, is_done = threading.Event(), threading.Event()
    with ExitStack() as stack:
        file: TextIO | None = None
        if target == "-":
            file = sys.stdout
        elif target is not None:
            try:
                file = stack.enter_context(Path(target).open("w", buffering=1))
            except OSError as error:
                raise BadParameter(f"{target}: {error.strerror}") from error

        def pump() -> None:
            try:
                while not is_over.wait(_SERIAL_POLL_S):
                    _print_lines(machine, file)
                _print_lines(machine, file)
            except (OSError, ValueError) as error:
                warn(f"the serial port's lines go nowhere from here on: {error}")
                while not is_over.wait(_SERIAL_POLL_S):
                    _print_lines(machine, None)
            finally:
                is_done.set()

        Worker("serial", pump)
        try:
            yield
        finally:
            is_over.set()
            # Nobody may be reading what it writes to.
            is_done.wait(1.0)


def _print_lines(machine: BuiltinMachine, file: TextIO | None) -> None:
    lines = machine.serial.lines
    count = len(lines)
    if count and file is not None:
        file.write("".join(f"{line.text}\n" for line in lines[:count]))
        file.flush()
    del lines[:count]
