"""seccomp: the numbers are those of the headers, and notifications come as they must."""

import ctypes
import errno
import os
import re
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.kernel.headers import header

from switchover.errors import KernelError
from switchover.kernel import seccomp
from switchover.kernel.seccomp import CALLS, Listener, Notification, notify_from

IOCTLS = {
    # direction << 30 | size << 16 | '!' << 8 | number
    "SECCOMP_IOCTL_NOTIF_RECV": 3 << 30 | 80 << 16 | 0x21 << 8 | 0,
    "SECCOMP_IOCTL_NOTIF_SEND": 3 << 30 | 24 << 16 | 0x21 << 8 | 1,
    "SECCOMP_IOCTL_NOTIF_ID_VALID": 1 << 30 | 8 << 16 | 0x21 << 8 | 2,
    "SECCOMP_IOCTL_NOTIF_ADDFD": 1 << 30 | 24 << 16 | 0x21 << 8 | 3,
    "KVM_SET_DEVICE_ATTR": 0x4018_AEE1,
}
CONSTANTS = {
    "seccomp.h": {
        "_SET_MODE_FILTER": "SECCOMP_SET_MODE_FILTER",
        "_GET_NOTIF_SIZES": "SECCOMP_GET_NOTIF_SIZES",
        "_FILTER_FLAG_NEW_LISTENER": "SECCOMP_FILTER_FLAG_NEW_LISTENER",
        "_FILTER_FLAG_WAIT_KILLABLE_RECV": "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        "_RET_USER_NOTIF": "SECCOMP_RET_USER_NOTIF",
        "_RET_ALLOW": "SECCOMP_RET_ALLOW",
        "_USER_NOTIF_FLAG_CONTINUE": "SECCOMP_USER_NOTIF_FLAG_CONTINUE",
        "_ADDFD_FLAG_SETFD": "SECCOMP_ADDFD_FLAG_SETFD",
        "_IOC_MAGIC": "SECCOMP_IOC_MAGIC",
    },
    "prctl.h": {"_PR_SET_NO_NEW_PRIVS": "PR_SET_NO_NEW_PRIVS"},
    "elf-em.h": {"_EM_X86_64": "EM_X86_64"},
    "audit.h": {
        "_AUDIT_ARCH_64BIT": "__AUDIT_ARCH_64BIT",
        "_AUDIT_ARCH_LE": "__AUDIT_ARCH_LE",
    },
    "bpf_common.h": {
        name: name.removeprefix("_")
        for name in (
            *("_BPF_LD", "_BPF_W", "_BPF_ABS", "_BPF_RET"),
            *("_BPF_JMP", "_BPF_JEQ", "_BPF_JGE", "_BPF_JSET", "_BPF_K"),
        )
    },
    "kvm.h": {"_KVMIO": "KVMIO"},
}
STRUCTS = {
    "_Data": 64,
    "_Sizes": 6,
    "_Notif": 80,
    "_Resp": 24,
    "_Addfd": 24,
    "_KvmDeviceAttr": 24,
    "_Program": 16,
}
X86_64 = 0xC000_003E
ALLOW, NOTIFY = 0x7FFF_0000, 0x7FC0_0000
FIRST = 1000

try:
    seccomp.check()
    _reason = None
except KernelError as error:
    _reason = str(error)
needs_listener = pytest.mark.skipif(_reason is not None, reason=_reason or "")


def number(text: str) -> int:
    """A C number, whose suffix says its type, shifted or not."""
    value, _, shift = re.sub(r"(?<=\w)U?L?\b|[()\s]", "", text).partition("<<")
    return ord(value[1]) if value.startswith("'") else int(value, 0) << int(shift or "0")


class TestNumbers:
    @pytest.mark.parametrize(("name", "expected"), IOCTLS.items())
    def test_ioctls_are_what_the_formula_gives(self, name: str, expected: int) -> None:
        assert getattr(seccomp, name) == expected

    @pytest.mark.parametrize("file", CONSTANTS)
    def test_what_the_installed_header_has_is_the_same(self, file: str) -> None:
        installed = header(file)
        for ours, theirs in CONSTANTS[file].items():
            if installed.has(theirs):
                text = installed.definition(theirs)
                assert getattr(seccomp, ours) == number(text), theirs

    def test_architecture_is_put_together_as_in_the_header(self) -> None:
        installed = header("audit.h")
        assert seccomp._AUDIT_ARCH_X86_64 == X86_64
        if installed.has("AUDIT_ARCH_X86_64"):
            expected = "(EM_X86_64|__AUDIT_ARCH_64BIT|__AUDIT_ARCH_LE)"
            assert installed.definition("AUDIT_ARCH_X86_64") == expected

    @pytest.mark.parametrize(
        ("name", "macro", "last", "struct"),
        [
            ("SECCOMP_IOCTL_NOTIF_RECV", "SECCOMP_IOWR", 0, "struct seccomp_notif"),
            ("SECCOMP_IOCTL_NOTIF_SEND", "SECCOMP_IOWR", 1, "struct seccomp_notif_resp"),
            ("SECCOMP_IOCTL_NOTIF_ID_VALID", "SECCOMP_IOW", 2, "__u64"),
            ("SECCOMP_IOCTL_NOTIF_ADDFD", "SECCOMP_IOW", 3, "struct seccomp_notif_addfd"),
        ],
    )
    def test_ioctls_are_made_of_what_the_header_says(
        self, name: str, macro: str, last: int, struct: str
    ) -> None:
        installed = header("seccomp.h")
        if not installed.has(name):
            pytest.skip(f"no {name} in /usr/include/linux/seccomp.h")
        found = re.fullmatch(r"(\w+)\((\d+),\s*([\w ]+)\)", installed.definition(name))
        assert found is not None
        if name != "SECCOMP_IOCTL_NOTIF_ID_VALID":  # Older headers have its direction wrong.
            assert found[1] == macro
        assert (int(found[2]), found[3]) == (last, struct)

    def test_that_of_kvm_is_the_header_s(self) -> None:
        installed = header("kvm.h")
        if not installed.has("KVM_SET_DEVICE_ATTR"):
            pytest.skip("no KVM_SET_DEVICE_ATTR in /usr/include/linux/kvm.h")
        assert installed.number("KVM_SET_DEVICE_ATTR") == seccomp.KVM_SET_DEVICE_ATTR

    @pytest.mark.parametrize(("struct", "size"), STRUCTS.items())
    def test_structs_have_their_size(self, struct: str, size: int) -> None:
        assert ctypes.sizeof(getattr(seccomp, struct)) == size

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("_Sizes", "seccomp_notif_sizes"),
            ("_Resp", "seccomp_notif_resp"),
            ("_Addfd", "seccomp_notif_addfd"),
        ],
    )
    def test_sizes_are_the_header_s(self, ours: str, theirs: str) -> None:
        text = Path("/usr/include/linux/seccomp.h")
        body = re.search(
            rf"struct {theirs} \{{(.*?)\}};", text.read_text() if text.exists() else "", re.S
        )
        if body is None:
            pytest.skip(f"no struct {theirs} in {text}")
        sizes = {"__u16": 2, "__u32": 4, "__s32": 4, "__u64": 8, "__s64": 8}
        fields = re.findall(r"(__\w+) (\w+);", body[1])
        assert sum(sizes[kind] for kind, _ in fields) == ctypes.sizeof(getattr(seccomp, ours))

    def test_calls_have_their_numbers(self) -> None:
        path = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
        if not path.exists():
            pytest.skip(f"no {path}")
        text = path.read_text()
        ours = {**CALLS, "prctl": seccomp._SYS_PRCTL, "seccomp": seccomp._SYS_SECCOMP}
        for name, expected in ours.items():
            found = re.search(rf"^#define __NR_{name}\s+(\d+)$", text, re.M)
            assert found is not None and int(found[1]) == expected, name


def run(program: bytes, arch: int, nr: int, *arguments: int) -> int:
    """What a program returns for a call: a machine for the few instructions that it may have."""
    six = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("=iIQ6Q", nr, arch, 0, *six)
    lines = list(struct.iter_unpack("=HBBI", program))
    position, accumulator = 0, 0
    while True:
        code, so, not_so, constant = lines[position]
        position += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, constant)
            case 0x15:
                position += so if accumulator == constant else not_so
            case 0x35:
                position += so if accumulator >= constant else not_so
            case 0x45:
                position += so if accumulator & constant else not_so
            case 0x06:
                return int(constant)
            case _:
                raise AssertionError(f"{code:#x}")


class TestProgram:
    @pytest.mark.parametrize("name", CALLS)
    @pytest.mark.parametrize(
        ("fd", "expected"),
        [
            (0, ALLOW),
            (FIRST - 1, ALLOW),
            (FIRST, NOTIFY),
            (FIRST + 1, NOTIFY),
            (0x7FFF_FFFF, NOTIFY),
            (0x8000_0000, ALLOW),
            (0xFFFF_FFFF, ALLOW),
            (0xFFFF_FFFF_FFFF_FFFF, ALLOW),
            (0xABCD_0000_0000 + FIRST, NOTIFY),
            (0xABCD_0000_0000 + FIRST - 1, ALLOW),
        ],
    )
    def test_looks_at_the_low_word_of_the_descriptor(
        self, name: str, fd: int, expected: int
    ) -> None:
        assert run(notify_from(FIRST), X86_64, CALLS[name], fd) == expected

    def test_lets_every_other_call_go_on(self) -> None:
        program = notify_from(FIRST)
        for nr in {*range(600), -1} - set(CALLS.values()):
            assert run(program, X86_64, nr, FIRST, 0x4018_AEE1) == ALLOW, nr

    @pytest.mark.parametrize("fd", [0, FIRST - 1, FIRST])
    @pytest.mark.parametrize("high", [0, 0xFFFF_FFFF])
    def test_sees_one_ioctl_on_any_descriptor(self, fd: int, high: int) -> None:
        request = high << 32 | 0x4018_AEE1
        assert run(notify_from(FIRST), X86_64, CALLS["ioctl"], fd, request) == NOTIFY

    @pytest.mark.parametrize(("fd", "request_"), [(3, 0x4018_AEE2), (0xFFFF_FFFF, 0x4018_AEE1)])
    def test_sees_no_other_ioctl(self, fd: int, request_: int) -> None:
        assert run(notify_from(FIRST), X86_64, CALLS["ioctl"], fd, request_) == ALLOW

    @pytest.mark.parametrize("nr", CALLS.values())
    def test_does_not_look_at_other_calling_conventions(self, nr: int) -> None:
        program = notify_from(FIRST)
        assert run(program, 0x4000_0003, nr, FIRST) == ALLOW  # i386
        assert run(program, 0xC000_00B7, nr, FIRST) == ALLOW  # aarch64
        assert run(program, X86_64, nr | 0x4000_0000, FIRST) == ALLOW  # x32

    @pytest.mark.parametrize("first", [-1, 0, 1 << 31])
    def test_first_descriptor_is_one(self, first: int) -> None:
        with pytest.raises(ValueError, match=str(first)):
            notify_from(first)


CHILD = """
import os, socket, sys
from switchover.kernel.seccomp import install_listener, notify_from
here = socket.socket(fileno=int(sys.argv[1]))
listener = install_listener(notify_from(1000))
socket.send_fds(here, [b"x"], [listener])
os.close(listener)
exec(sys.argv[2])
"""


@contextmanager
def listening(text: str) -> Iterator[tuple[Listener, int, "subprocess.Popen[bytes]"]]:
    """A process that runs a text, and the listener for it."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(theirs.fileno()), text],
                pass_fds=[theirs.fileno()],
                stdout=subprocess.PIPE,
            )
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    with process:
        try:
            yield Listener(descriptors[0]), descriptors[0], process
        finally:
            os.close(descriptors[0])
            process.kill()


def received(listener: Listener) -> Notification:
    notification = listener.receive()
    assert notification is not None
    return notification


@needs_listener
class TestListener:
    def test_value_comes_back(self) -> None:
        text = "import fcntl; print(fcntl.ioctl(1000, 77, 0x1234))"
        with listening(text) as (listener, _, process):
            call = received(listener)
            assert call.nr == CALLS["ioctl"]
            assert call.arguments[:3] == (1000, 77, 0x1234)
            assert len(call.arguments) == 6
            assert call.pid == process.pid
            assert listener.is_valid(call.id)
            assert listener.respond(call.id, value=41)
            assert process.communicate()[0] == b"41\n"

    def test_errno_comes_back(self) -> None:
        text = "\ntry: os.read(1001, 1)\nexcept OSError as error: print(error.errno)"
        with listening(text) as (listener, _, process):
            assert listener.respond(received(listener).id, errno=errno.EXDEV)
            assert process.communicate()[0] == b"%d\n" % errno.EXDEV

    def test_call_goes_on(self) -> None:
        text = "r, w = os.pipe(); os.dup2(w, 1000); os.write(1000, b'abc'); print(os.read(r, 9))"
        with listening(text) as (listener, _, process):
            assert listener.respond(received(listener).id, continues=True)
            assert process.communicate()[0] == b"b'abc'\n"

    @pytest.mark.parametrize("at", [None, 10, 1005])
    def test_descriptor_is_handed_over(self, at: int | None) -> None:
        text = "import fcntl; n = fcntl.ioctl(1000, 1); os.fstat(n); print(n)"
        with listening(text) as (listener, _, process):
            call = received(listener)
            got = listener.add_fd(call.id, 1, at)
            assert at in (None, got)
            assert 2 < got < 1006
            assert listener.respond(call.id, value=got)
            assert process.communicate()[0] == b"%d\n" % got

    def test_descriptor_that_is_none_is_refused(self) -> None:
        with listening("os.read(1000, 1)") as (listener, _, _):
            call = received(listener)
            with pytest.raises(KernelError) as caught:
                listener.add_fd(call.id, 1 << 20)
            assert caught.value.call == "SECCOMP_IOCTL_NOTIF_ADDFD"
            assert caught.value.errno == errno.EBADF

    def test_answer_of_nobody_s_call_is_no_error(self) -> None:
        with listening("os.read(1000, 1)") as (listener, fd, process):
            call = received(listener)
            assert not listener.is_valid(call.id + 1)
            assert not listener.respond(call.id + 1)
            process.kill()
            process.wait()
            assert not listener.is_valid(call.id)
            assert not listener.respond(call.id)
            with pytest.raises(KernelError) as caught:
                listener.add_fd(call.id, 1)
            assert caught.value.errno == errno.ENOENT
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            assert dict(poll.poll())[fd] & select.POLLHUP

    def test_ids_are_not_given_twice(self) -> None:
        with listening("[os.write(1000, b'') for _ in range(50)]; print(1)") as (listener, _, p):
            ids = []
            for _ in range(50):
                ids.append(received(listener).id)
                assert not any(map(listener.is_valid, ids[:-1]))
                assert not any(map(listener.respond, ids[:-1]))
                assert listener.respond(ids[-1])
            assert len(set(ids)) == 50
            assert p.communicate()[0] == b"1\n"

    def test_what_waits_fails_once_nobody_listens(self) -> None:
        text = "\nfor _ in 1, 2:\n try: os.read(1000, 1)\n except OSError as e: print(e.errno)"
        with listening(text) as (listener, fd, process):
            received(listener)
            nothing = os.open("/dev/null", os.O_RDONLY)
            os.dup2(nothing, fd, inheritable=False)
            os.close(nothing)
            assert process.communicate()[0].split() == [b"%d" % errno.ENOSYS] * 2

    def test_a_process_that_listens_already_is_refused(self) -> None:
        text = (
            "from switchover.errors import KernelError\n"
            "try: install_listener(notify_from(1000))\n"
            "except KernelError as error: print(error.call, error.errno)"
        )
        with listening(text) as (_, _, process):
            expected = f"SECCOMP_SET_MODE_FILTER {errno.EBUSY}"
            assert process.communicate()[0].decode().strip() == expected

    def test_other_ioctls_of_a_listener_are_refused_by_name(self) -> None:
        read_end, write_end = os.pipe()
        try:
            with pytest.raises(KernelError) as caught:
                Listener(read_end).respond(1)
        finally:
            os.close(read_end)
            os.close(write_end)
        assert (caught.value.call, caught.value.errno) == (
            "SECCOMP_IOCTL_NOTIF_SEND",
            errno.ENOTTY,
        )


class TestCheck:
    @needs_listener
    def test_installs_nothing(self) -> None:
        seccomp.check()
        status = Path("/proc/self/status").read_text()
        found = re.search(r"^Seccomp:\s+(\d)$", status, re.M)
        before = found and found[1]
        seccomp.check()
        found = re.search(r"^Seccomp:\s+(\d)$", Path("/proc/self/status").read_text(), re.M)
        assert before == (found and found[1])

    @needs_listener
    def test_kernel_without_the_flag_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(seccomp, "_FILTER_FLAGS", 1 << 30)
        with pytest.raises(KernelError) as caught:
            seccomp.check()
        assert caught.value.call == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
        assert caught.value.errno == errno.EINVAL

    def test_kernel_without_the_call_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(seccomp, "_SYS_SECCOMP", 100_000)
        with pytest.raises(KernelError) as caught:
            seccomp.check()
        assert (caught.value.call, caught.value.errno) == (
            "SECCOMP_GET_NOTIF_SIZES",
            errno.ENOSYS,
        )

    @needs_listener
    def test_kernel_with_other_structs_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(seccomp, "_Resp", seccomp._Data)
        with pytest.raises(KernelError, match="other sizes"):
            seccomp.check()
