"""`switchover qemu`: a real QEMU with simulated VFIO devices, without any hardware."""

import json
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, TextIO

from typer import Argument, BadParameter, Exit, Option

from ..errors import MigrationError, UsageError
from ..player.process import why_not
from ..player.qemu import PlayedQemu
from ..player.qemu import why_not as why_not_this
from ..player.vfio import Event, PlayedDevice
from ..vfio.options import KEYS, parse_options
from ..vfio.sim import VfioSim
from .console import fail, say

_FAILED = 1
_SIGNALLED = 128
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def qemu(
    command: Annotated[
        list[str],
        Argument(metavar="-- QEMU ARGS…", help="The QEMU and its arguments, behind --."),
    ],
    vfio_sim: Annotated[
        list[str],
        Option(
            metavar="KEY=VALUE,…",
            help="A simulated device, such as state=300M,initial=16M,allocate=1480ms. "
            f"Keys: {', '.join(KEYS)}. May be given several times.",
        ),
    ],
    trace: Annotated[
        bool, Option("--trace", help="Say each call that QEMU makes on a device, and its answer.")
    ] = False,
    json_events: Annotated[
        Path | None, Option(metavar="FILE", help="Write the same as JSON objects, one in a line.")
    ] = None,
    empty: Annotated[
        bool,
        Option(
            "--empty",
            help="The devices have no state of their own yet, as at a destination; with -incoming "
            "that goes without saying.",
        ),
    ] = False,
) -> None:
    """Run a QEMU whose VFIO devices are played by this process.

    QEMU is not changed and needs no kernel VFIO, no IOMMU and no root: its calls on the devices'
    descriptors are answered here, by seccomp user notification. Its own VFIO migration code runs.
    Its arguments are passed on, and those of the devices are added; its terminal is this one, and
    its exit code is the command's.
    """
    if reason := why_not():
        fail(reason)
        raise Exit(_FAILED)
    is_empty = empty or "-incoming" in command
    try:
        options = [parse_options(text, f"vf{place}") for place, text in enumerate(vfio_sim)]
        devices = [PlayedDevice(one.id, VfioSim(one, is_empty=is_empty)) for one in options]
    except UsageError as error:
        raise BadParameter(str(error)) from error
    if len({device.name for device in devices}) != len(devices):
        raise BadParameter("two devices have the same id")
    if reason := why_not_this(command[0]):
        fail(reason)
        raise Exit(_FAILED)
    try:
        with ExitStack() as stack:
            file: TextIO | None = None
            if json_events is not None:
                file = stack.enter_context(json_events.open("w", buffering=1))
            told = _Told(file, is_traced=trace)
            signals = _Signals()
            played = stack.enter_context(PlayedQemu(command, devices, told.observe))
            signals.pass_to(played)
            status = played.wait()
    except (MigrationError, OSError) as error:
        fail(str(error))
        raise Exit(_FAILED) from error
    raise Exit(_SIGNALLED - status if status < 0 else status)


class _Signals:
    """Passes signals on, those too that came before there was anybody to get them."""

    def __init__(self) -> None:
        self._played: PlayedQemu | None = None
        self._early: list[int] = []
        for number in _PASSED_ON:
            signal.signal(number, self._receive)
        # A terminal sends it to QEMU as well, which would go on ignoring what is ignored here.
        signal.signal(signal.SIGINT, lambda *_: None)

    def pass_to(self, played: PlayedQemu) -> None:
        """Sends them there from now on."""
        self._played = played
        for number in self._early:
            played.send_signal(number)

    def _receive(self, number: int, _: object) -> None:
        if self._played is None:
            self._early.append(number)
        else:
            self._played.send_signal(number)


class _Told:
    """Shows what was answered."""

    def __init__(self, file: TextIO | None, *, is_traced: bool) -> None:
        self._file = file
        self._is_traced = is_traced
        self._first: int | None = None

    def observe(self, event: Event) -> None:
        """Takes one event; from any thread."""
        self._first = event.now if self._first is None else self._first
        at_ms = (event.now - self._first) / 1e6
        if self._is_traced:
            detail = f" {event.detail}" if event.detail else ""
            say(
                f"{at_ms:10.3f} ms  {event.device}: {event.call}{detail} = {event.result}"
                f" ({event.duration_ns / 1e6:.3f} ms)"
            )
        if self._file is not None:
            line = {
                "ms": round(at_ms, 3),
                "device": event.device,
                "call": event.call,
                "detail": event.detail,
                "result": event.result,
                "duration_ms": round(event.duration_ns / 1e6, 3),
            }
            self._file.write(f"{json.dumps(line)}\n")
            self._file.flush()
