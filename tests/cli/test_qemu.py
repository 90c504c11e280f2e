"""`switchover qemu`: a real QEMU with simulated devices, as somebody starts it by hand."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command import run_here, start
from tests.player.playing import needs_player
from tests.qmp.running import Monitor
from tests.waiting import wait_until

from switchover.player import qemu as player_qemu
from switchover.testing import find_peer, missing_reason

pytestmark = needs_player

SMALL = "id=nic,state=1M,initial=512K,allocate=0s"
NOBODY = 65534
ENDS = ("-display", "none", "-nodefaults", "-machine", "q35", "-accel", "tcg", "-S")


@pytest.fixture
def qemu_10_0(peers_directory: Path, pytestconfig: pytest.Config) -> str:
    return peer_path("10.0", peers_directory, pytestconfig)


@pytest.fixture
def qemu_7_2(peers_directory: Path, pytestconfig: pytest.Config) -> str:
    return peer_path("7.2", peers_directory, pytestconfig)


def peer_path(name: str, directory: Path, config: pytest.Config) -> str:
    peer = find_peer(name, directory)
    if peer is None:
        reason = missing_reason(name, directory)
        if config.getoption("--peers-required"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return str(peer.path)


def python(text: str) -> tuple[str, ...]:
    """Something else than a QEMU: it gets QEMU's arguments behind its own."""
    return (sys.executable, "-c", text)


# Anything at all


@pytest.mark.parametrize("status", [0, 3])
def test_exit_code_is_passed_on(status: int) -> None:
    with start(
        "qemu", "--vfio-sim", SMALL, "--", *python(f"import sys; sys.exit({status})")
    ) as running:
        done = running.wait()
    assert (done.exit_code, done.stderr) == (status, "")


def test_arguments_of_the_devices_are_added() -> None:
    program = python("import sys; print(sys.argv[1:])")
    with start(
        *("qemu", "--vfio-sim", SMALL, "--vfio-sim", "state=1M,allocate=0s"),
        *("--", *program, "-machine", "q35"),
    ) as running:
        done = running.wait()
    iommufd = "switchover-iommufd"
    same = "enable-migration=on,rombar=0"
    assert done.stdout.strip() == str(
        [
            *("-machine", "q35", "-object", f"iommufd,id={iommufd},fd=1000"),
            *("-device", f"vfio-pci,iommufd={iommufd},fd=1001,{same},id=nic"),
            *("-device", f"vfio-pci,iommufd={iommufd},fd=1002,{same},id=vf1"),
        ]
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_signal_is_passed_on(number: signal.Signals) -> None:
    text = (
        f"import signal, sys; signal.signal({int(number)}, lambda *_: sys.exit(9)); "
        "print('ready', flush=True); signal.pause()"
    )
    with start("qemu", "--vfio-sim", SMALL, "--", *python(text)) as running:
        assert running.process.stdout is not None
        assert running.process.stdout.readline() == "ready\n"
        running.process.send_signal(number)
        assert running.wait().exit_code == 9


def test_signal_that_ends_it_is_told_as_by_a_shell() -> None:
    text = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with start("qemu", "--vfio-sim", SMALL, "--", *python(text)) as running:
        assert running.wait().exit_code == 128 + signal.SIGKILL


def test_calls_are_traced_and_written_down(tmp_path: Path) -> None:
    file = tmp_path / "events"
    text = "import fcntl, os; os.pread(1001, 4, 7 << 40)\ntry: os.read(1001, 1)\nexcept OSError: 0"
    with start(
        *("qemu", "--vfio-sim", SMALL, "--trace", "--json-events", str(file)),
        *("--", *python(text)),
    ) as running:
        done = running.wait()
    assert done.exit_code == 0
    first, second = done.stderr.splitlines()
    assert "nic: pread64 configuration 0x0, 4 bytes = 4 (" in first
    assert "nic: read = -22 (" in second
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert set(lines[0]) == {"ms", "device", "call", "detail", "result", "duration_ms"}
    assert [(line["call"], line["result"]) for line in lines] == [("pread64", 4), ("read", -22)]


def test_there_is_no_such_qemu() -> None:
    with start("qemu", "--vfio-sim", SMALL, "--", "/nowhere/qemu") as running:
        done = running.wait()
    assert done.exit_code == 1
    assert done.error == "cannot run /nowhere/qemu: No such file or directory"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--vfio-sim", "colour=red"), "has no option 'colour'"),
        (("--vfio-sim", "state=1M,initial=2M"), "expected at most its state"),
        (("--vfio-sim", SMALL, "--vfio-sim", SMALL), "two devices have the same id"),
        ((), "Missing option '--vfio-sim'"),
    ],
)
def test_options_that_are_wrong(arguments: tuple[str, ...], sentence: str) -> None:
    done = run_here("qemu", *arguments, "--", "true")
    assert done.exit_code == 2
    words = " ".join(done.stderr.replace("│", " ").split())
    assert sentence in words


def test_events_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "events"
    done = run_here("qemu", "--vfio-sim", SMALL, "--json-events", str(file), "--", "true")
    assert done.exit_code == 1
    assert "No such file or directory" in done.error


# QEMU


@pytest.mark.compat
def test_qemu_runs_with_devices_until_it_is_told_to_end(qemu_10_0: str, tmp_path: Path) -> None:
    file, qmp = tmp_path / "events", tmp_path / "qmp"
    with start(
        *("qemu", "--vfio-sim", SMALL, "--json-events", str(file)),
        *("--", qemu_10_0, *ENDS, "-qmp", f"unix:{qmp},server=on,wait=off"),
    ) as running:
        wait_until(qmp.exists, "monitor")
        with Monitor(qmp) as monitor:
            assert monitor.run_state == "prelaunch"
            running.process.terminate()
            done = running.wait()
    # A QEMU that runs takes this for a wish, and ends well.
    assert done.exit_code == 0, done.stderr
    calls = [json.loads(line)["call"] for line in file.read_text().splitlines()]
    assert {"VFIO_DEVICE_BIND_IOMMUFD", "GET MIGRATION", "IOMMU_IOAS_MAP"} <= set(calls)


@pytest.mark.compat
def test_qemu_s_own_refusal_is_the_command_s(qemu_10_0: str) -> None:
    with start("qemu", "--vfio-sim", SMALL, "--", qemu_10_0, "-machine", "bogus") as running:
        done = running.wait()
    assert done.exit_code == 1
    assert "unsupported machine type" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.compat
def test_qemu_without_an_iommufd_back_end(qemu_7_2: str) -> None:
    done = run_here("qemu", "--vfio-sim", SMALL, "--", qemu_7_2, *ENDS)
    assert done.exit_code == 1
    assert done.error == (
        f"{qemu_7_2} has no iommufd back end, to which devices are played: expected QEMU 9.0 or "
        "newer, built with it"
    )


@pytest.mark.compat
def test_only_a_qemu_can_be_known_to_lack_it(qemu_10_0: str) -> None:
    for program in (qemu_10_0, "true", "false", sys.executable, "/nowhere/qemu"):
        assert player_qemu.why_not(program) is None, program


@pytest.mark.compat
def test_an_ordinary_user_may(qemu_10_0: str, tmp_path: Path) -> None:
    text = (
        "import os, sys\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "from switchover.cli.main import main\n"
        "sys.argv[0] = 'switchover'; sys.exit(main())"
    )
    if os.getuid() != 0:
        text = "from switchover.cli.main import main; main()"
    elif why := unreachable(qemu_10_0):
        pytest.skip(why)
    done = subprocess.run(
        [
            *(sys.executable, "-c", text, "qemu", "--vfio-sim", SMALL, "--trace", "--"),
            *(qemu_10_0, *ENDS, "-device", "bogus"),
        ],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "iommufd: IOMMU" in done.stderr or "'bogus' is not a valid device" in done.stderr
    assert done.returncode == 1


def unreachable(path: str) -> str | None:
    """Why an ordinary user could not run these, if so."""
    for needed in (path, sys.executable):
        tried = (
            subprocess.run(
                [needed, "--version"],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                cwd="/",
                capture_output=True,
            )
            if may_be_run(needed)
            else None
        )
        if tried is None or tried.returncode != 0:
            return f"an ordinary user cannot run {needed}"
    return None


def may_be_run(path: str) -> bool:
    """Whether all directories on the way let others through."""
    return all(parent.stat().st_mode & 0o001 for parent in Path(path).resolve().parents)
