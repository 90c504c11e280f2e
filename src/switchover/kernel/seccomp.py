"""Answering chosen system calls of another process: seccomp's user notification, x86-64.

Source: include/uapi/linux/seccomp.h, audit.h, filter.h and bpf_common.h; seccomp_unotify(2).
Needs no privilege. Linux 5.0 brought the listener, 5.9 the handing over of descriptors and 5.19
waiting that only a fatal signal ends, which is asked for here: without it any signal makes the
caller repeat a call that was answered already. A kernel without the mending of that, which came
with 6.17, may still do so if a signal arrives in the instant in which the answer does.
"""

import ctypes
import struct
from errno import EFAULT, EINTR, ENOENT, EPROTO
from typing import NamedTuple

from ..errors import KernelError
from .ioctl import ioctl, ior, iowr, syscall

_SYS_PRCTL = 157
_SYS_SECCOMP = 317
"""x86-64, as are the numbers in `CALLS`."""

CALLS = {
    "read": 0,
    "write": 1,
    "close": 3,
    "ioctl": 16,
    "pread64": 17,
    "pwrite64": 18,
}
"""Which calls on the descriptors that were chosen are notified of."""
NAMES = {number: name for name, number in CALLS.items()}

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_GET_NOTIF_SIZES = 3
_FILTER_FLAG_NEW_LISTENER = 1 << 3
_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5
_FILTER_FLAGS = _FILTER_FLAG_NEW_LISTENER | _FILTER_FLAG_WAIT_KILLABLE_RECV
_RET_USER_NOTIF = 0x7FC0_0000
_RET_ALLOW = 0x7FFF_0000
_USER_NOTIF_FLAG_CONTINUE = 1 << 0
_ADDFD_FLAG_SETFD = 1 << 0

_EM_X86_64 = 62
_AUDIT_ARCH_64BIT = 0x8000_0000
_AUDIT_ARCH_LE = 0x4000_0000
_AUDIT_ARCH_X86_64 = _EM_X86_64 | _AUDIT_ARCH_64BIT | _AUDIT_ARCH_LE

_BPF_LD, _BPF_W, _BPF_ABS = 0x00, 0x00, 0x20
_BPF_JMP, _BPF_JEQ, _BPF_JGE, _BPF_JSET, _BPF_K = 0x05, 0x10, 0x30, 0x40, 0x00
_BPF_RET = 0x06
_SIGN = 1 << 31
"""Of a descriptor: a negative one is nobody's."""


class _Data(ctypes.Structure):
    _fields_ = (
        ("nr", ctypes.c_int),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("args", ctypes.c_uint64 * 6),
    )


class _Sizes(ctypes.Structure):
    _fields_ = (
        ("notif", ctypes.c_uint16),
        ("notif_resp", ctypes.c_uint16),
        ("data", ctypes.c_uint16),
    )


class _Notif(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_uint64),
        ("pid", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("data", _Data),
    )


class _Resp(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_uint64),
        ("val", ctypes.c_int64),
        ("error", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
    )


class _Addfd(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("srcfd", ctypes.c_uint32),
        ("newfd", ctypes.c_uint32),
        ("newfd_flags", ctypes.c_uint32),
    )


class _Id(ctypes.Structure):
    _fields_ = (("id", ctypes.c_uint64),)


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class _KvmDeviceAttr(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint32),
        ("group", ctypes.c_uint32),
        ("attr", ctypes.c_uint64),
        ("addr", ctypes.c_uint64),
    )


def _iow(group: int, number: int, struct: type[ctypes.Structure]) -> int:
    """_IOW: of _IOWR's two directions the one to the kernel."""
    return iowr(group, number, ctypes.sizeof(struct)) & ~ior(0, 0, 0)


_IOC_MAGIC = ord("!")
_KVMIO = 0xAE

SECCOMP_IOCTL_NOTIF_RECV = iowr(_IOC_MAGIC, 0, ctypes.sizeof(_Notif))
SECCOMP_IOCTL_NOTIF_SEND = iowr(_IOC_MAGIC, 1, ctypes.sizeof(_Resp))
SECCOMP_IOCTL_NOTIF_ID_VALID = _iow(_IOC_MAGIC, 2, _Id)
SECCOMP_IOCTL_NOTIF_ADDFD = _iow(_IOC_MAGIC, 3, _Addfd)
KVM_SET_DEVICE_ATTR = _iow(_KVMIO, 0xE1, _KvmDeviceAttr)

_INSTRUCTION = struct.Struct("=HBBI")


def notify_from(first_fd: int) -> bytes:
    """A program for a filter: calls on some descriptors are notified of, all others go on.

    Notified of are the `CALLS` whose descriptor, the low word of their first argument, is
    `first_fd` or higher, and KVM_SET_DEVICE_ATTR on any descriptor. A negative descriptor is none,
    and other architectures than x86-64 are not looked at. Nor is x32: its numbers have a bit
    that none of `CALLS` has.

    Args:
        first_fd: The first descriptor; more than 0.
    """
    if not 0 < first_fd < _SIGN:
        raise ValueError(f"a first descriptor of {first_fd}")
    low = _Data.args.offset
    numbers = (number for name, number in CALLS.items() if name != "ioctl")
    lines: list[tuple[str, int, str | None, str | None]] = [
        # What is done, its constant, and where it goes on if so and if not; None is the next line.
        ("load", _Data.arch.offset, None, None),
        ("is", _AUDIT_ARCH_X86_64, None, "allow"),
        ("load", _Data.nr.offset, None, None),
        ("is", CALLS["ioctl"], "ioctl", None),
        *(("is", number, "descriptor", None) for number in numbers),
        ("return", _RET_ALLOW, None, None),
        ("descriptor", 0, None, None),
        ("load", low, None, None),
        ("has", _SIGN, "allow", None),
        ("from", first_fd, "notify", "allow"),
        ("ioctl", 0, None, None),
        ("load", low, None, None),
        ("has", _SIGN, "allow", None),
        ("from", first_fd, "notify", None),
        ("load", low + ctypes.sizeof(ctypes.c_uint64), None, None),
        ("is", KVM_SET_DEVICE_ATTR, "notify", "allow"),
        ("allow", 0, None, None),
        ("return", _RET_ALLOW, None, None),
        ("notify", 0, None, None),
        ("return", _RET_USER_NOTIF, None, None),
    ]
    return _assemble(lines)


_CODES = {
    "load": _BPF_LD | _BPF_W | _BPF_ABS,
    "is": _BPF_JMP | _BPF_JEQ | _BPF_K,
    "from": _BPF_JMP | _BPF_JGE | _BPF_K,
    "has": _BPF_JMP | _BPF_JSET | _BPF_K,
    "return": _BPF_RET | _BPF_K,
}


def _assemble(lines: list[tuple[str, int, str | None, str | None]]) -> bytes:
    """The bytes of a program; a line that does nothing that there is a code for is a label."""
    labels: dict[str, int] = {}
    count = 0
    for word, *_ in lines:
        if word in _CODES:
            count += 1
        else:
            labels[word] = count
    program = b""
    position = 0
    for word, constant, *targets in lines:
        if word in _CODES:
            position += 1
            jumps = (0 if target is None else labels[target] - position for target in targets)
            program += _INSTRUCTION.pack(_CODES[word], *jumps, constant)
    return program


def check() -> None:
    """Checks that this kernel has all that is needed, without installing anything.

    Raises:
        KernelError: It has not.
    """
    sizes = _Sizes()
    name = "SECCOMP_GET_NOTIF_SIZES"
    syscall(name, _SYS_SECCOMP, _GET_NOTIF_SIZES, 0, ctypes.addressof(sizes))
    ours = tuple(map(ctypes.sizeof, (_Notif, _Resp, _Data)))
    if (sizes.notif, sizes.notif_resp, sizes.data) != ours:
        raise KernelError(name, OSError(EPROTO, "its structures have other sizes"))
    try:
        # Of flags that it knows it asks for the program, which there is none of.
        syscall("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", *_set_mode_filter(0))
    except KernelError as error:
        if error.errno != EFAULT:
            raise


def _set_mode_filter(program: int) -> tuple[int, int, int, int]:
    return _SYS_SECCOMP, _SET_MODE_FILTER, _FILTER_FLAGS, program


def install_listener(program: bytes) -> int:
    """Installs a filter in this thread, and in whatever it starts or becomes, for good.

    Args:
        program: As `notify_from` makes it.

    Returns:
        The listener's descriptor, which is closed on exec.

    Raises:
        KernelError: The kernel refused: EBUSY if there is a listener already.
    """
    syscall("PR_SET_NO_NEW_PRIVS", _SYS_PRCTL, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    text = ctypes.create_string_buffer(program, len(program))
    argument = _Program(len(program) // _INSTRUCTION.size, ctypes.addressof(text))
    return syscall("SECCOMP_SET_MODE_FILTER", *_set_mode_filter(ctypes.addressof(argument)))


class Notification(NamedTuple):
    """A call that waits for its answer.

    Args:
        id: What it is answered by; never given twice.
        pid: The thread that calls, as the listener sees it; 0 if it does not.
        nr: The number of the call.
        arguments: All six, unsigned, whatever the call takes.
    """

    id: int
    pid: int
    nr: int
    arguments: tuple[int, ...]


class Listener:
    """Where the calls arrive. Any thread may call anything but `receive`, which is one's alone.

    Args:
        fileno: The descriptor that `install_listener` returned, or what it became in another
            process. It stays the caller's, who closes it. The calls that wait when the last
            such descriptor is closed fail with ENOSYS, and so do all later ones.
    """

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno

    def receive(self) -> Notification | None:
        """Waits for a call; None if it was given up meanwhile.

        It may wait for ever once nobody is left to call: what can be polled is the descriptor.

        Raises:
            KernelError: The kernel refused.
        """
        argument = _Notif()
        try:
            self._ioctl("SECCOMP_IOCTL_NOTIF_RECV", SECCOMP_IOCTL_NOTIF_RECV, argument)
        except KernelError as error:
            if error.errno == ENOENT:
                return None
            raise
        data = argument.data
        return Notification(argument.id, argument.pid, data.nr, tuple(data.args))

    def is_valid(self, id: int) -> bool:
        """Whether the call still waits for its answer."""
        return self._found("SECCOMP_IOCTL_NOTIF_ID_VALID", SECCOMP_IOCTL_NOTIF_ID_VALID, _Id(id))

    def respond(self, id: int, value: int = 0, errno: int = 0, continues: bool = False) -> bool:
        """Answers a call.

        Args:
            id: Which.
            value: What it returns.
            errno: What it fails with instead, if not 0.
            continues: It is made as if there were no filter; then there is no value and no errno.

        Returns:
            Whether there was somebody to answer.

        Raises:
            KernelError: The kernel refused: EINPROGRESS if it was answered just now.
        """
        flags = _USER_NOTIF_FLAG_CONTINUE if continues else 0
        argument = _Resp(id, value, -errno, flags)
        return self._found("SECCOMP_IOCTL_NOTIF_SEND", SECCOMP_IOCTL_NOTIF_SEND, argument)

    def add_fd(self, id: int, source_fd: int, at: int | None = None) -> int:
        """Gives a descriptor to the process that calls; it is not closed on exec there.

        Args:
            id: Which call.
            source_fd: The descriptor, here.
            at: Its number there; what was there is closed. None: the lowest free one.

        Returns:
            Its number there.

        Raises:
            KernelError: The kernel refused: ENOENT if the call waits no longer, EBADF if the
                number is beyond the process's limit, EMFILE if it has no free one.
        """
        flags = 0 if at is None else _ADDFD_FLAG_SETFD
        argument = _Addfd(id, flags, source_fd, at or 0, 0)
        return self._ioctl("SECCOMP_IOCTL_NOTIF_ADDFD", SECCOMP_IOCTL_NOTIF_ADDFD, argument)

    def _found(self, name: str, number: int, argument: ctypes.Structure) -> bool:
        try:
            self._ioctl(name, number, argument)
        except KernelError as error:
            if error.errno == ENOENT:
                return False
            raise
        return True

    def _ioctl(self, name: str, number: int, argument: ctypes.Structure) -> int:
        while True:
            try:
                return ioctl(self._fileno, name, number, argument)
            except KernelError as error:
                # A signal; the kernel has done nothing then.
                if error.errno != EINTR:
                    raise
