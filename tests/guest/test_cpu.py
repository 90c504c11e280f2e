"""The CPU: its state, its thread, and what happens to one that cannot go on."""

import threading
from collections.abc import Iterator

import pytest
import unicorn
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzzing import stable
from tests.waiting import wait_until

from switchover.errors import GuestError
from switchover.guest.cpu import PORT_PACER, PORT_SERIAL, Cpu
from switchover.guest.pacer import Pacer
from switchover.guest.ram import GuestRAM
from switchover.guest.serial import Serial
from switchover.model.ramblock import TARGET_PAGE_SIZE, RAMBlock
from switchover.wire.cursor import Cursor
from switchover.wire.vmstate import decode_vmstate, encode_vmstate

RAM_BYTES = 16 * TARGET_PAGE_SIZE
COUNTER = 0x800
FLAGS = 0x2 | 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x400 | 0x800
"""Those that a program sets by computing, the direction, and the one that is always set."""


def printing(letter: bytes) -> bytes:
    """A program that counts in memory, prints a letter a line, and asks the pacer, for ever."""
    program = (
        *(b"\xfe\x04\x25", COUNTER.to_bytes(4, "little")),  # inc byte ptr [COUNTER]
        *(b"\xba", PORT_SERIAL.to_bytes(4, "little")),  # mov edx, PORT_SERIAL
        *(b"\xb0", letter, b"\xee"),  # mov al, letter; out dx, al
        *(b"\xb0", b"\n", b"\xee"),  # mov al, 10; out dx, al
        *(b"\xba", PORT_PACER.to_bytes(4, "little")),  # mov edx, PORT_PACER
        b"\xed",  # in eax, dx
    )
    length = sum(map(len, program))
    return b"".join(program) + b"\xeb" + (256 - length - 2).to_bytes()  # jmp to the beginning


class Computer:
    """A CPU with what it needs, and a program at address 0, where it begins."""

    def __init__(self, program: bytes = printing(b"a")) -> None:
        self.ram = GuestRAM(RAMBlock("ram", RAM_BYTES))
        self.serial = Serial()
        self.pacer = Pacer(None)
        self.cpu = Cpu(self.ram.memory, self.pacer, self.serial)
        self.load_program(program)

    def load_program(self, program: bytes) -> None:
        self.ram.memory.reshape(-1)[: len(program)] = memoryview(program)

    def wait_lines(self, count: int) -> None:
        """Waits for so many lines more."""
        expected = len(self.serial.lines) + count
        wait_until(lambda: len(self.serial.lines) >= expected, "line")


@pytest.fixture
def computer() -> Iterator[Computer]:
    computer = Computer()
    yield computer
    computer.cpu.stop()


def vcpus() -> int:
    """How many CPUs have a thread."""
    return [thread.name for thread in threading.enumerate()].count("vcpu")


class TestState:
    @given(
        st.lists(st.integers(0, (1 << 64) - 1), min_size=16, max_size=16),
        st.integers(0, (1 << 64) - 1),
        st.integers(0, (1 << 64) - 1),
    )
    @stable(30)
    def test_comes_back(self, regs: list[int], rip: int, rflags: int) -> None:
        values = {"regs": regs, "rip": rip, "rflags": rflags & FLAGS | 2}
        first, second = Computer().cpu, Computer().cpu
        first.load(values)
        assert first.save() == values
        body = encode_vmstate(first.description, first.save())
        second.load(decode_vmstate(second.description, Cursor(body)))
        assert second.save() == values

    def test_is_that_of_a_program_that_was_stopped(self, computer: Computer) -> None:
        computer.cpu.cont()
        computer.wait_lines(3)
        computer.cpu.stop()
        regs = computer.cpu.save()["regs"]
        assert regs[2] == PORT_PACER
        assert computer.cpu.save() == computer.cpu.save()


class TestRunning:
    def test_is_in_a_thread_of_its_own(self, computer: Computer) -> None:
        cpu = computer.cpu
        assert not cpu.is_running
        assert vcpus() == 0
        cpu.cont()
        assert cpu.is_running
        assert vcpus() == 1
        cpu.stop()
        assert not cpu.is_running
        assert vcpus() == 0

    def test_may_be_asked_for_twice(self, computer: Computer) -> None:
        computer.cpu.stop()
        computer.cpu.cont()
        computer.cpu.cont()
        assert vcpus() == 1
        computer.wait_lines(1)
        computer.cpu.stop()
        computer.cpu.stop()
        assert vcpus() == 0

    def test_goes_on_where_it_was(self, computer: Computer) -> None:
        for _ in range(50):
            computer.cpu.cont()
            computer.wait_lines(2)
            computer.cpu.stop()
            count = int(computer.ram.memory.reshape(-1)[COUNTER])
            # It stops where it asks the pacer, so that whatever was counted was printed, too.
            assert count == len(computer.serial.lines) % 256
            assert {line.text for line in computer.serial.lines} == {"a"}

    def test_runs_what_is_in_memory_now(self, computer: Computer) -> None:
        for letter in (b"a", b"b", b"a", b"c"):
            computer.load_program(printing(letter))
            computer.serial.lines.clear()
            computer.cpu.cont()
            computer.wait_lines(2)
            computer.cpu.stop()
            assert {line.text for line in computer.serial.lines} == {letter.decode()}

    def test_is_stopped_while_it_waits_for_the_pacer(self) -> None:
        computer = Computer()
        computer.pacer.pages_per_second = 0
        computer.cpu.cont()
        computer.wait_lines(1)
        computer.cpu.stop()
        assert not computer.cpu.is_running

    def test_what_is_put_out_elsewhere_goes_nowhere(self, computer: Computer) -> None:
        elsewhere = b"\xba" + (PORT_SERIAL + 1).to_bytes(4, "little") + b"\xb0x\xee"
        computer.load_program(elsewhere + printing(b"a"))
        computer.cpu.cont()
        computer.wait_lines(2)
        computer.cpu.stop()
        assert {line.text for line in computer.serial.lines} == {"a"}


class TestFailure:
    @pytest.mark.parametrize(
        ("program", "values", "where", "what"),
        [
            pytest.param(b"", {"rip": 1 << 40}, 1 << 40, "fetch", id="outside of memory"),
            pytest.param(b"", {"rip": RAM_BYTES}, RAM_BYTES, "fetch", id="behind memory"),
            pytest.param(b"\x88\x04\x25\0\0\1\0", {}, 0, "write", id="a write behind memory"),
            pytest.param(b"\x90\x8a\x04\x25\0\0\1\0", {}, 1, "read", id="a read behind memory"),
            pytest.param(b"\x0f\x0b", {}, 0, "nstruction", id="an undefined instruction"),
            pytest.param(b"\x31\xc9\xf7\xf1", {}, 2, "exception", id="a division by zero"),
        ],
    )
    def test_is_told_at_the_stop(
        self, program: bytes, values: dict[str, int], where: int, what: str
    ) -> None:
        computer = Computer(program or b"\x90")
        cpu = computer.cpu
        cpu.load({**cpu.save(), **values})
        cpu.cont()
        with pytest.raises(GuestError, match=f"^the CPU cannot go on at {where:#x}: ") as caught:
            cpu.stop()
        assert what in str(caught.value)
        assert isinstance(caught.value.__cause__, unicorn.UcError)

    def test_leaves_a_cpu_that_is_stopped_and_can_be_loaded(self, computer: Computer) -> None:
        cpu = computer.cpu
        good = cpu.save()
        cpu.load({**good, "rip": 1 << 40})
        cpu.cont()
        with pytest.raises(GuestError):
            cpu.stop()
        assert not cpu.is_running
        cpu.stop()
        cpu.load(good)
        cpu.cont()
        computer.wait_lines(2)
        cpu.stop()
        assert vcpus() == 0
