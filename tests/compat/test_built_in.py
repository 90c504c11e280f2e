"""The built-in machine's RAM in a real QEMU, and the built-in machine in a file."""

import pytest

from switchover.channel.connection import connect
from switchover.engine.precopy import PrecopySource
from switchover.engine.progress import Progress
from switchover.guest.machine import BuiltinMachine
from switchover.model.address import UnixAddress
from switchover.model.capability import Capability
from switchover.model.parameter import Parameters
from switchover.testing import Peer, Qemu

RAM_BYTES = 16 << 20


@pytest.mark.parametrize("pages_per_second", [2_000, None], ids=["slow", "fast"])
def test_ram_of_a_running_machine_arrives_bit_for_bit(
    peer: Peer, pages_per_second: int | None
) -> None:
    machine = BuiltinMachine(RAM_BYTES, pages_per_second=pages_per_second, ram_only=True)
    with Qemu(peer, "none", "16M", incoming="defer", paused=True) as destination:
        path = str(destination.directory / "migration")
        destination.migrate_incoming(f"unix:{path}")
        machine.cont()
        progress = Progress()
        with connect(UnixAddress(path)) as channel:
            capabilities = frozenset({Capability.RETURN_PATH})
            PrecopySource(machine, channel, capabilities, Parameters(), progress).run()
        assert not machine.is_running
        destination.wait_status("completed")
        assert destination.save_memory(0, RAM_BYTES) == machine.ram[0].memory.tobytes()
    machine.check()
    assert progress.report().dirty_sync_count >= 1
