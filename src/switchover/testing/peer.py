"""The QEMUs that are installed to be talked to, as `tools/peers` puts them there.

It looks into one directory, which the caller names, and never reads the environment. Nothing here
installs anything.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PEERS = ("7.2", "10.0", "11.1")
"""The versions that switchover is tested against, oldest first."""

SYSTEM_PEER = "10.0"
"""The peer that a QEMU of the system may stand in for, if it is not older."""

SYSTEM_PROGRAM = "qemu-system-x86_64"

_VERSION_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A QEMU that is installed and starts."""

    version: tuple[int, ...]
    path: Path

    @property
    def name(self) -> str:
        """Its version as machine types spell it, `10.0`."""
        return ".".join(map(str, self.version[:2]))

    def machine(self, family: str) -> str:
        """This version's own machine type of a family: `pc-i440fx` gives `pc-i440fx-10.0`."""
        return f"{family}-{self.name}"


def default_directory() -> Path:
    """Where `make peers` puts the peers if it is told nothing else."""
    return Path.home() / ".cache" / "switchover" / "peers"


def parse_version(text: str) -> tuple[int, ...] | None:
    """The version in what `--version` prints, or None where there is none."""
    found = re.match(r"QEMU emulator version (\d+(?:\.\d+)+)", text)
    return tuple(map(int, found[1].split("."))) if found else None


def find_peer(name: str, directory: Path | None = None) -> Peer | None:
    """A QEMU by the name of its version, or None: then `missing_reason` says why.

    Args:
        name: One of `PEERS`.
        directory: Where the peers are; `default_directory()` if it is None.
    """
    found = _look_for(name, directory)
    return found if isinstance(found, Peer) else None


def missing_reason(name: str, directory: Path | None = None) -> str:
    """One sentence: what was found in the peer's place, what is needed, and what installs it."""
    found = _look_for(name, directory)
    if isinstance(found, Peer):
        raise ValueError(f"QEMU {name} is not missing: it is {found.path}")
    return f"QEMU {name} is needed, but {found}; `make peers` installs it"


def _look_for(name: str, directory: Path | None) -> Peer | str:
    """The peer, or what was found instead of it, as a part of a sentence."""
    if name not in PEERS:
        raise ValueError(f"no peer is called {name!r}; there are {', '.join(PEERS)}")
    wanted = tuple(map(int, name.split(".")))
    path = (directory or default_directory()) / "bin" / f"qemu-{name}"
    if path.exists():
        version = _version_of(path)
        if version is not None and version[:2] == wanted:
            return Peer(version, path)
        misfit = f"{path} {_called(version)}"
    else:
        misfit = f"there is no {path}"
    return _look_in_path(wanted, misfit) if name == SYSTEM_PEER else misfit


def _look_in_path(wanted: tuple[int, ...], misfit: str) -> Peer | str:
    program = shutil.which(SYSTEM_PROGRAM)
    if program is None:
        return f"{misfit} and no {SYSTEM_PROGRAM} in PATH"
    version = _version_of(Path(program))
    if version is not None and version[:2] >= wanted:
        return Peer(version, Path(program))
    return f"{misfit} and {program} {_called(version)}"


def _called(version: tuple[int, ...] | None) -> str:
    return "does not start" if version is None else f"is {'.'.join(map(str, version))}"


def _version_of(path: Path) -> tuple[int, ...] | None:
    try:
        ran = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(ran.stdout) if ran.returncode == 0 else None
