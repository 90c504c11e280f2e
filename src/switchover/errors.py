"""Every exception that switchover raises, and whose fault each one is.

    MigrationError
    |-- StreamError            the peer's bytes are wrong; .offset, .expected, .got
    |   |-- TruncatedStream    the stream ended inside something
    |   `-- UnsupportedStream  right in QEMU, not here; says which capability or version
    |-- UsageError             our own caller asked for what cannot be
    |-- CompatibilityError     both sides make sense, but differ: machine, RAM blocks, devices
    |-- PeerError              the other side failed or left; .after_switchover tells who may run
    |-- ChannelError           the pipe broke, or could not be opened; __cause__ is the OSError
    |-- KernelError            a call we need is refused or missing; .call, .errno
    |-- GuestError             a guest or one of its devices would not save or load
    |   `-- DeviceError        a device refused a step of its migration; .device, .step, .errno
    `-- MigrationCancelled     asked for; not a failure

The text of each is one sentence in the present tense, without a dot at its end: what is wrong,
what was expected, what was there instead, and where. Decoders raise StreamError and nothing else,
whatever bytes they are given.
"""

from os import strerror


class MigrationError(Exception):
    """A migration, or the reading of a stream, cannot go on."""


class StreamError(MigrationError):
    """The peer's bytes are not a migration stream that makes sense.

    Args:
        what: The thing that is wrong, as the beginning of a sentence.
        offset: Where in the stream it stands, in bytes from its first byte.
        expected: What should have been there.
        got: What was there.
    """

    def __init__(
        self, what: str, *, offset: int, expected: object = None, got: object = None
    ) -> None:
        self.what = what
        self.offset = offset
        self.expected = expected
        self.got = got
        details = [
            f"{word} {value}"
            for word, value in (("expected", expected), ("got", got))
            if value is not None
        ]
        sentence = f"{what}: {', '.join(details)}" if details else what
        super().__init__(f"{sentence} at offset {offset:#x}")


class TruncatedStream(StreamError):
    """The bytes end inside something: more of them may still mend it."""


class UnsupportedStream(StreamError):
    """The bytes mean something to QEMU that switchover does not do yet."""


class UsageError(MigrationError):
    """The caller asked for something that cannot be, whatever the peer does."""


class CompatibilityError(MigrationError):
    """The stream makes sense, but is of another machine than the one that is to take it."""


class PeerError(MigrationError):
    """The other side said that it failed, or went away.

    Args:
        message: The sentence.
        after_switchover: True when every byte was already written, so that nobody here can
            know whether the other side runs the guest.
    """

    def __init__(self, message: str, *, after_switchover: bool = False) -> None:
        self.after_switchover = after_switchover
        super().__init__(message)


class ChannelError(MigrationError):
    """The pipe between the two sides could not be opened, or broke."""


class KernelError(MigrationError):
    """The kernel does not have a call that is needed, or refuses it.

    Args:
        call: Its name in the kernel's headers.
        cause: What the kernel said.
    """

    def __init__(self, call: str, cause: OSError) -> None:
        self.call = call
        self.errno = cause.errno
        super().__init__(f"the kernel refuses {call}: {cause.strerror}")


class GuestError(MigrationError):
    """The guest, or one of its devices, cannot be saved or loaded."""


class DeviceError(GuestError):
    """A device refused a step of its migration, as the kernel's devices do: with an errno.

    Args:
        device: Its name.
        step: What it was asked for, as the end of "cannot …".
        errno: Why not.
    """

    def __init__(self, device: str, step: str, errno: int) -> None:
        self.device = device
        self.step = step
        self.errno = errno
        super().__init__(f"device '{device}' cannot {step}: {strerror(errno)}")


class MigrationCancelled(MigrationError):
    """The migration was cancelled because somebody asked for it."""
