"""A guest of a real QEMU is held by us, and goes on in another QEMU: what `make demo-qemu` shows.

It runs the same commands as a user would, and checks what the guest itself can tell: that it ran
until the ACK, that its memory is what it wrote, and that it counts on without a gap.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from switchover.testing import (
    BootSectorGuest,
    Qemu,
    check_memory,
    check_progress,
    check_serial,
    default_directory,
    find_peer,
    missing_reason,
)
from switchover.testing.guest import REGION_BYTES, REGION_START_GPA

CAPABILITIES = ("return-path", "switchover-ack")
HOLD_S = 2
MACHINE = "pc-i440fx-10.0"

console = Console(highlight=False, soft_wrap=True)


def start(*arguments: str) -> subprocess.Popen[str]:
    """Starts a command of ours, and shows it."""
    console.print(f"[bold]$ switchover {' '.join(arguments)}[/bold]")
    return subprocess.Popen(
        [sys.executable, "-m", "switchover", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(command: subprocess.Popen[str]) -> dict[str, Any]:
    """Its result, once it has ended well."""
    output, messages = command.communicate()
    if command.returncode != 0:
        raise SystemExit(messages)
    console.print(messages.splitlines()[-1])
    report: dict[str, Any] = json.loads(output)
    return report


def park(source: Qemu, file: Path) -> tuple[dict[str, Any], int]:
    """Moves the source's guest into a file; tells how many letters it printed in the wait."""
    options = [word for name in CAPABILITIES for word in ("--capability", name)]
    receive = start(
        *("receive", "tcp:127.0.0.1:0", "--output", str(file), *options),
        *("--hold-ack", str(HOLD_S)),
    )
    assert receive.stderr is not None
    listening = receive.stderr.readline().strip()
    console.print(listening)
    source.set_capabilities(*CAPABILITIES)
    before = len(source.serial())
    source.migrate(listening.removeprefix("listening on "))
    source.wait_status("active")
    # The guest prints a letter for each pass over its memory: it is seen to run while it waits.
    source.wait_serial(lambda text: len(text) >= before + 50)
    info = source.query("query-migrate")
    console.print(
        f"QEMU meanwhile: migration {info['status']}, guest {source.run_state()}, "
        f"{info['ram']['remaining'] >> 10} KiB remaining"
    )
    report = finish(receive)
    return report, len(source.serial()) - before


def restore(file: Path, destination: Qemu) -> dict[str, Any]:
    """Moves the guest from the file into a QEMU, where it goes on."""
    uri = f"unix:{destination.directory / 'migration'}"
    destination.migrate_incoming(uri)
    report = finish(start("send", str(file), uri))
    destination.wait_status("completed")
    destination.wait_run_state("running")
    destination.wait_serial(lambda text: len(text) >= 50)
    return report


def show(rows: dict[str, str]) -> None:
    """What was seen, as a table."""
    table = Table(title="What was seen", show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print()
    console.print(table)


def main() -> None:
    """Runs the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-dir", type=Path, default=default_directory())
    directory = parser.parse_args().peers_dir
    peer = find_peer("10.0", directory)
    if peer is None:
        raise SystemExit(missing_reason("10.0", directory))
    guest = BootSectorGuest()
    console.print(f"Two of QEMU {'.'.join(map(str, peer.version))}, machine {MACHINE}, 64 MiB.")
    with (
        tempfile.TemporaryDirectory(prefix="switchover-demo-") as name,
        Qemu(peer, MACHINE, guest=guest) as source,
        Qemu(peer, MACHINE, guest=guest, incoming="defer") as destination,
    ):
        file = Path(name) / "guest.mig"
        source.wait_serial(lambda text: len(text) >= 50)
        console.print("In the first one a guest writes to 4096 pages, round and round.\n")
        parked, letters_waiting = park(source, file)
        info = source.wait_status("completed")
        console.print(f"QEMU now: migration {info['status']}, guest {source.run_state()}\n")
        sent = restore(file, destination)
        destination.execute("stop")
        passes = check_memory(destination.save_memory(REGION_START_GPA, REGION_BYTES))
        letters = check_serial(source.serial() + destination.serial())
        check_progress(passes, letters)
        ack = parked["switchover_ack"]
        show(
            {
                "ACK asked for, sent": f"{ack['asked_ms']:.0f} ms, {ack['sent_ms']:.0f} ms",
                "passes of the guest while QEMU waited": str(letters_waiting),
                "downtime as QEMU measured it": f"{info['downtime']} ms, the writing of the "
                "file to disk included",
                "parked": f"{file.stat().st_size >> 10} KiB: {parked['ram_bytes'] >> 20} MiB "
                f"RAM, {len(parked['devices'])} devices",
                "from the file into the second QEMU": f"{sent['total_ms']:.0f} ms",
                "passes of the guest in both": f"{letters}, none lost or repeated",
                "memory": f"right: all {REGION_BYTES // 4096} pages equal but for one step",
            }
        )


if __name__ == "__main__":
    main()
