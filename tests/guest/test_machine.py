"""The built-in machine runs, stops between two steps, and goes on anywhere."""

import errno
import shutil
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.guest.relay import Runner, load_devices, new_machine, save_devices
from tests.waiting import wait_until

import switchover.guest
from switchover.errors import DeviceError, GuestError
from switchover.guest.base import Guest
from switchover.guest.cpu import PORT_PACER, PORT_SERIAL, R8, RDI, RSI
from switchover.guest.machine import (
    PROGRAM_ADDRESS,
    REGION_START,
    BuiltinMachine,
    check_region,
)
from switchover.guest.pacer import TICK
from switchover.model.ramblock import TARGET_PAGE_SIZE, Bytes
from switchover.model.vfio import VfioState
from switchover.vfio.migration import VfioMigration
from switchover.vfio.options import Failure, SimOptions, Step
from switchover.vfio.sim import VfioSim

SOURCE = Path(switchover.guest.__file__).with_name("program.S")
PROGRAM = SOURCE.with_suffix(".bin")
MIB = 1 << 20
FIRST_PAGE = REGION_START // TARGET_PAGE_SIZE
R9 = 9
HANDOVERS = 1000


def has_lines(machine: BuiltinMachine, count: int) -> bool:
    return len(machine.serial.lines) >= count


def run_ticks(machine: BuiltinMachine, ticks: int) -> None:
    """Lets a machine run for so many ticks, or a few more, and stops it."""
    expected = len(machine.serial.lines) + ticks
    machine.cont()
    wait_until(partial(has_lines, machine, expected), "tick")
    machine.stop()


def texts(machine: BuiltinMachine) -> list[str]:
    return [line.text for line in machine.serial.lines]


def ticks_up_to(count: int, first: int = 1) -> list[str]:
    return [f"tick {number}" for number in range(first, count + 1)]


def marks(machine: BuiltinMachine) -> Bytes:
    """The first bytes of the pages from the region on."""
    return machine.ram[0].memory[FIRST_PAGE:, 0]


class TestProgram:
    def test_is_what_its_source_assembles_to(self, tmp_path: Path) -> None:
        missing = [tool for tool in ("as", "objcopy") if shutil.which(tool) is None]
        if missing:
            pytest.skip(f"binutils is needed, but there is no {', '.join(missing)} in PATH")
        object_file, flat = tmp_path / "program.o", tmp_path / "program.bin"
        commands: list[list[str | Path]] = [
            ["as", "--64", "-o", object_file, SOURCE],
            ["objcopy", "-O", "binary", "-j", ".text", object_file, flat],
        ]
        for command in commands:
            subprocess.run(command, check=True)
        assert PROGRAM.read_bytes() == flat.read_bytes()

    def test_speaks_with_the_devices_that_there_are(self) -> None:
        text = SOURCE.read_text()
        assert f"PORT_PACER,   {PORT_PACER:#x}" in text
        assert f"PORT_SERIAL,  {PORT_SERIAL:#x}" in text
        assert f"TICK,         {TICK:#x}" in text
        assert f"PAGE_BYTES,   {TARGET_PAGE_SIZE}" in text

    def test_is_loaded_below_the_region(self) -> None:
        program = PROGRAM.read_bytes()
        assert PROGRAM_ADDRESS + len(program) <= REGION_START
        memory = BuiltinMachine(2 * MIB).ram[0].memory.reshape(-1)
        assert memory[PROGRAM_ADDRESS:][: len(program)].tobytes() == program
        assert np.count_nonzero(memory) == len(program) - program.count(0)


class TestShape:
    def test_is_a_guest(self) -> None:
        live = [VfioMigration("vf0", VfioSim(SimOptions("vf0", 3)))]
        guest: Guest = BuiltinMachine(2 * MIB, live_devices=live)
        assert guest.machine == "switchover-1"
        assert [(ram.block.idstr, ram.block.used_length) for ram in guest.ram] == [("ram", 2 * MIB)]
        assert [device.idstr for device in guest.devices] == ["cpu", "pacer", "serial"]
        assert list(guest.live_devices) == live
        assert not guest.is_running

    def test_its_vfio_devices_run_and_stop_with_it(self) -> None:
        sims = [VfioSim(SimOptions(name, 3)) for name in ("vf0", "vf1")]
        live = [VfioMigration(sim.options.id, sim) for sim in sims]
        machine = BuiltinMachine(2 * MIB, live_devices=live)
        machine.cont()
        assert [sim.state for sim in sims] == [VfioState.RUNNING] * 2
        machine.stop()
        assert [sim.state for sim in sims] == [VfioState.STOP] * 2
        machine.cont()
        assert [sim.state for sim in sims] == [VfioState.RUNNING] * 2
        machine.stop()

    def test_a_vfio_device_that_does_not_stop_is_an_error_and_goes_on_with_it(self) -> None:
        options = SimOptions("vf0", 3, failure=Failure(Step.STOP, errno.EIO))
        sim = VfioSim(options)
        machine = BuiltinMachine(2 * MIB, live_devices=[VfioMigration("vf0", sim)])
        machine.cont()
        with pytest.raises(DeviceError):
            machine.stop()
        assert not machine.is_running
        assert sim.state == VfioState.RUNNING_P2P
        machine.cont()
        assert machine.is_running and sim.state == VfioState.RUNNING
        machine.cpu.stop()

    @pytest.mark.parametrize(
        "ram_bytes", [-4096, 0, 4096, 2 * MIB - 4096, 2 * MIB + 1, 2 * MIB + 4095]
    )
    def test_ram_of_another_size_is_refused(self, ram_bytes: int) -> None:
        with pytest.raises(GuestError) as caught:
            BuiltinMachine(ram_bytes)
        assert str(caught.value) == (
            f"a machine's RAM: expected a multiple of 4096, at least 2097152, got {ram_bytes}"
        )

    @pytest.mark.parametrize("region_bytes", [-4096, 0, 1, 4097, 3 * MIB + 4096])
    def test_region_of_another_size_is_refused(self, region_bytes: int) -> None:
        with pytest.raises(GuestError) as caught:
            BuiltinMachine(4 * MIB, region_bytes=region_bytes)
        assert str(caught.value) == (
            "the region that is dirtied: expected a multiple of 4096, at most 3145728, "
            f"got {region_bytes}"
        )

    @pytest.mark.parametrize(
        ("region_bytes", "pages"), [(None, 256), (MIB, 256), (4096, 1), (8192, 2), (99 * 4096, 99)]
    )
    def test_the_region_is_dirtied_and_nothing_else(
        self, region_bytes: int | None, pages: int
    ) -> None:
        machine = BuiltinMachine(2 * MIB, region_bytes=region_bytes, pages_per_second=100_000)
        machine.cont()
        seen = marks(machine)
        wait_until(lambda: bool(seen[:pages].all()), "whole pass")
        machine.stop()
        machine.check()
        assert not seen[pages:].any()
        below = machine.ram[0].memory[:FIRST_PAGE].any(axis=1)
        assert np.flatnonzero(below).tolist() == [PROGRAM_ADDRESS // TARGET_PAGE_SIZE]


class TestRunning:
    @pytest.mark.parametrize("rate", [0, 1_000, None])
    def test_ticks_count_up_without_a_gap(self, rate: int | None) -> None:
        machine = BuiltinMachine(2 * MIB, pages_per_second=rate)
        run_ticks(machine, 12)
        assert texts(machine) == ticks_up_to(len(machine.serial.lines))
        machine.check()

    @pytest.mark.parametrize("rate", [0, 20_000, None])
    def test_may_be_stopped_and_go_on_at_any_time(self, rate: int | None) -> None:
        machine = BuiltinMachine(2 * MIB, region_bytes=251 * 4096, pages_per_second=rate)
        for leg in range(60):
            machine.stop()
            machine.cont()
            if leg % 6 == 0:
                wait_until(partial(has_lines, machine, len(machine.serial.lines) + 1), "tick")
            assert machine.is_running
            machine.stop()
            assert not machine.is_running
            machine.check()
        assert len(machine.serial.lines) >= 10
        assert texts(machine) == ticks_up_to(len(machine.serial.lines))

    def test_nothing_changes_while_it_is_stopped(self) -> None:
        machine, clock = new_machine(), BuiltinMachine(2 * MIB)
        run_ticks(machine, 1)
        memory, bodies = machine.ram[0].memory.copy(), save_devices(machine)
        run_ticks(clock, 2)
        assert np.array_equal(machine.ram[0].memory, memory)
        assert save_devices(machine) == bodies

    def test_without_a_rate_no_page_is_dirtied(self) -> None:
        machine = BuiltinMachine(2 * MIB)
        run_ticks(machine, 2)
        assert not marks(machine).any()
        machine.check()

    def test_the_rate_is_about_what_was_asked_for(self) -> None:
        """In pages for each tick, which come at equal distances of running time."""
        machine = BuiltinMachine(16 * MIB, pages_per_second=10_000)
        run_ticks(machine, 10)
        pages, ticks = int(marks(machine).sum(dtype=np.int64)), len(machine.serial.lines)
        # 150, if it is always on time; a CPU that is late loses some, or gets some too many.
        assert 40 * ticks < pages < 500 * (ticks + 1)

    def test_without_a_limit_it_is_fast(self) -> None:
        machine = BuiltinMachine(16 * MIB, pages_per_second=None)
        run_ticks(machine, 4)
        registers = machine.cpu.save()["regs"]
        page = (registers[RDI] - REGION_START) // TARGET_PAGE_SIZE
        # Ten times as much as at the rate above, at least; or round and round.
        assert marks(machine)[-1] or page > 4 * 1500

    def test_two_machines_run_side_by_side(self) -> None:
        machines = [new_machine(), new_machine()]
        for machine in machines:
            machine.cont()
        for machine in machines:
            wait_until(partial(has_lines, machine, 3), "tick")
        for machine in machines:
            machine.stop()
            machine.check()
            assert texts(machine) == ticks_up_to(len(machine.serial.lines))


class TestFailure:
    @pytest.mark.parametrize("rip", [1 << 40, 2 * MIB - 1])
    def test_of_the_cpu_is_told_at_the_stop(self, rip: int) -> None:
        machine = BuiltinMachine(2 * MIB)
        machine.cpu.load({**machine.cpu.save(), "rip": rip})
        machine.cont()
        with pytest.raises(GuestError, match=f"^the CPU cannot go on at {rip:#x}: Invalid memory"):
            machine.stop()
        assert not machine.is_running
        machine.stop()

    @pytest.mark.parametrize(
        ("register", "value"),
        [
            (R8, 0),
            (R8, REGION_START + 4096),
            (RSI, REGION_START),
            (RSI, 2 * MIB + 1),
            (RSI, (1 << 64) - 1),
            (RDI, REGION_START - 1),
            (RDI, 2 * MIB),
        ],
    )
    def test_registers_that_are_not_the_programs_are_refused(
        self, register: int, value: int
    ) -> None:
        machine = BuiltinMachine(2 * MIB)
        state = machine.cpu.save()
        registers = list(state["regs"])
        registers[register] = value
        machine.cpu.load({**state, "regs": registers})
        with pytest.raises(GuestError, match="registers are not the program's"):
            machine.check()


def region(pages: int, next_page: int, passes: int) -> Bytes:
    """What the program leaves after so many whole passes and a part of one."""
    memory = np.zeros((pages, TARGET_PAGE_SIZE), np.uint8)
    memory[:, 0] = passes % 256
    memory[:next_page, 0] = (passes + 1) % 256
    return memory


class TestCheck:
    @pytest.mark.parametrize("passes", [0, 1, 127, 254, 255, 256])
    @pytest.mark.parametrize(("pages", "next_page"), [(1, 0), (7, 0), (7, 1), (7, 6)])
    def test_pages_before_the_next_one_are_one_ahead(
        self, pages: int, next_page: int, passes: int
    ) -> None:
        check_region(region(pages, next_page, passes), next_page)

    @pytest.mark.parametrize("page", [0, 3, 4, 5, 7, 8])
    @pytest.mark.parametrize("step", [1, 255, 2])
    def test_each_page_that_was_lost_or_is_ahead_is_found(self, page: int, step: int) -> None:
        memory = region(9, 5, 30)
        memory[page : page + 1, 0] += np.uint8(step)
        with pytest.raises(GuestError, match="of the region is not what the program left"):
            check_region(memory, 5)

    def test_the_first_wrong_page_is_named(self) -> None:
        memory = region(9, 5, 30)
        memory[[3, 6], 0] = 7
        with pytest.raises(GuestError) as caught:
            check_region(memory, 5)
        assert str(caught.value) == (
            "page 3 of the region is not what the program left: expected 31, got 7"
        )

    @pytest.mark.parametrize("next_page", [4, 6, 0, 8])
    def test_another_next_page_is_found(self, next_page: int) -> None:
        with pytest.raises(GuestError, match="is not what the program left"):
            check_region(region(9, 5, 30), next_page)

    @pytest.mark.parametrize("place", [1, 2048, 4095])
    def test_whatever_else_stands_there_is_found(self, place: int) -> None:
        memory = region(9, 5, 30)
        memory[8, place] = 1
        with pytest.raises(GuestError) as caught:
            check_region(memory, 5)
        assert str(caught.value) == "the program did not write what stands in the region"


def test_a_machine_is_handed_to_and_fro_a_thousand_times() -> None:
    """It runs in two other processes in turns, as fast as it can, and never notices."""
    machine = new_machine()
    bodies, memory = save_devices(machine), machine.ram[0].memory
    rng = np.random.default_rng(1)
    lines: list[str] = []
    places = set()
    with ExitStack() as stack:
        runners = [stack.enter_context(Runner()) for _ in range(2)]
        for number in range(HANDOVERS):
            passes, ticks = int(rng.integers(0, 4)), int(number % 10 == 0)
            leg = runners[number % 2].run(bodies, memory, passes, ticks)
            bodies, memory = leg.bodies, leg.memory
            lines += leg.lines
            load_devices(machine, bodies)
            registers = machine.cpu.save()["regs"]
            assert registers[R9] == len(lines)
            page = (registers[RDI] - REGION_START) // TARGET_PAGE_SIZE
            places.add(page)
            check_region(memory[FIRST_PAGE : registers[RSI] // TARGET_PAGE_SIZE], page)
    assert lines == ticks_up_to(len(lines))
    assert len(lines) >= HANDOVERS // 10
    assert len(places) > 100
