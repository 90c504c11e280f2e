"""The built-in machine's CPU: Unicorn, on memory that is ours.

It is stopped in one way only: the guest's program asks the pacer for work, and the hook that
answers says that there is none and stops the emulation there, between two of the program's steps.
A stop from another thread, or by a time-out, may come between a store and the step behind it, and
then the store happens twice.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any

import unicorn
from unicorn import x86_const as x86

from ..errors import GuestError
from ..model.ramblock import Bytes
from ..model.vmstate import VmstateDescription, VmstateField, VmstateType
from ..worker import Worker
from .pacer import TICK, Pacer
from .serial import Serial

PORT_PACER = 0x500
PORT_SERIAL = 0x3F8
_FOREVER = (1 << 64) - 1

_REGISTERS = tuple(
    getattr(x86, f"UC_X86_REG_{name}")
    for name in (
        *("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI"),
        *("R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"),
    )
)
RDI, RSI, R8 = 7, 6, 8
"""Places in the array of registers."""


class Cpu:
    """One x86-64 CPU.

    Args:
        memory: The guest's memory, from address 0 on.
        pacer: Grants it work.
        serial: Takes what it prints.
    """

    idstr = "cpu"
    description = VmstateDescription(
        "cpu",
        (
            VmstateField("regs", VmstateType.UINT64, count=len(_REGISTERS)),
            VmstateField("rip", VmstateType.UINT64),
            VmstateField("rflags", VmstateType.UINT64),
        ),
    )

    def __init__(self, memory: Bytes, pacer: Pacer, serial: Serial) -> None:
        self._pacer = pacer
        self._serial = serial
        self._memory = memory  # Unicorn holds its address only
        self._worker: Worker | None = None
        self._lock = threading.Lock()  # of who starts and stops it
        self._stopping = threading.Event()
        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        address = memory.ctypes.data
        self._uc.mem_map_ptr(0, memory.nbytes, unicorn.UC_PROT_ALL, address)
        hook = unicorn.UC_HOOK_INSN
        self._uc.hook_add(hook, self._on_in, None, 1, 0, x86.UC_X86_INS_IN)
        self._uc.hook_add(hook, self._on_out, None, 1, 0, x86.UC_X86_INS_OUT)

    # State

    def save(self) -> Mapping[str, Any]:
        """The registers."""
        return {
            "regs": [self._uc.reg_read(register) for register in _REGISTERS],
            "rip": self._uc.reg_read(x86.UC_X86_REG_RIP),
            "rflags": self._uc.reg_read(x86.UC_X86_REG_EFLAGS),
        }

    def load(self, values: Mapping[str, Any]) -> None:
        """Sets the registers."""
        for register, value in zip(_REGISTERS, values["regs"], strict=True):
            self._uc.reg_write(register, value)
        self._uc.reg_write(x86.UC_X86_REG_RIP, values["rip"])
        self._uc.reg_write(x86.UC_X86_REG_EFLAGS, values["rflags"])

    # Running

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self._worker is not None

    def cont(self) -> None:
        """Runs on in a thread of its own."""
        with self._lock:
            if self._worker is None:
                self._stopping.clear()
                self._pacer.cont(time.monotonic_ns())
                self._worker = Worker("vcpu", self._run)

    def stop(self) -> None:
        """Stops where the program next asks for work, and waits for that.

        Raises:
            GuestError: It could not go on, somewhere on the way.
        """
        with self._lock:
            if self._worker is None:
                return
            self._stopping.set()
            self._worker.join()
            error, self._worker = self._worker.error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        # What Unicorn compiled before the memory was loaded may not be what is there now.
        self._uc.ctl_flush_tb()
        try:
            self._uc.emu_start(self._uc.reg_read(x86.UC_X86_REG_RIP), _FOREVER)
        except unicorn.UcError as error:
            rip = self._uc.reg_read(x86.UC_X86_REG_RIP)
            raise GuestError(f"the CPU cannot go on at {rip:#x}: {error}") from error
        finally:
            self._pacer.stop(time.monotonic_ns())

    def _on_in(self, uc: Any, port: int, size: int, data: object) -> int:
        while not self._stopping.is_set():
            grant = self._pacer.grant(time.monotonic_ns())
            if grant.pages or grant.is_tick:
                return grant.pages | (TICK if grant.is_tick else 0)
            self._stopping.wait(grant.wait_ns / 1e9)
        uc.emu_stop()
        return 0

    def _on_out(self, uc: Any, port: int, size: int, value: int, data: object) -> None:
        if port == PORT_SERIAL:
            self._serial.write(value & 0xFF, time.monotonic_ns())
