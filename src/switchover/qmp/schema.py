"""What the arguments of commands must be, and the migration parameters, as data.

The names, types, ranges, defaults and words are QEMU 10.0's. A check takes a value and its path,
and gives the value or raises CommandError.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..model.capability import Capability
from ..model.parameter import AckTimeoutPolicy, Parameters
from ..model.status import MigrationStatus
from .session import CommandError

Check = Callable[[Any, str], Any]


def _mistyped(path: str, expected: str) -> CommandError:
    return CommandError(f"Invalid parameter type for '{path}', expected: {expected}")


def string(value: Any, path: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise _mistyped(path, "string")
    return value


def boolean(value: Any, path: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise _mistyped(path, "boolean")
    return value


def anything(value: Any, path: str) -> Any:
    """What is looked at elsewhere."""
    return value


def string_or_null(value: Any, path: str) -> str:
    """A string; null is the empty one."""
    if value is not None and not isinstance(value, str):
        raise _mistyped(path, "StrOrNull")
    return value or ""


def unsigned(name: str, bits: int) -> Check:
    """An unsigned number; as in QEMU one of 64 bits may be written as a negative one."""

    def check(value: Any, path: str) -> int:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        lowest = -(1 << 63) if bits == 64 else 0
        if not is_number or not lowest <= value < 1 << bits:
            raise CommandError(f"Parameter '{_last(path)}' expects {name}")
        return int(value) % (1 << bits)

    return check


def choice(*values: str) -> Check:
    """One of some words."""

    def check(value: Any, path: str) -> str:
        if string(value, path) not in values:
            raise CommandError(f"Parameter '{_last(path)}' does not accept value '{value}'")
        return str(value)

    return check


def array(of: Check) -> Check:
    """A list of things of one kind."""

    def check(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise _mistyped(path, "array")
        return [of(item, f"{path}[{place}]") for place, item in enumerate(value)]

    return check


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object.

    Attributes:
        check: What it must be.
        is_required: Whether it must be there.
    """

    check: Check
    is_required: bool = True


def structure(members: Mapping[str, Member]) -> Check:
    """An object with members of certain names."""

    def check(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _mistyped(path, "object")
        prefix = f"{path}." if path else ""
        checked = {}
        for name, member in members.items():
            if name in value:
                checked[name] = member.check(value[name], prefix + name)
            elif member.is_required:
                raise CommandError(f"Parameter '{prefix}{name}' is missing")
        for name in value:
            if name not in members:
                raise CommandError(f"Parameter '{prefix}{name}' is unexpected")
        return checked

    return check


def _last(path: str) -> str:
    return path.rpartition(".")[2]


UINT8 = unsigned("uint8_t", 8)
UINT64 = unsigned("uint64", 64)
SIZE = unsigned("uint64", 64)


@dataclass(frozen=True, slots=True)
class MigrationParameter:
    """A migration parameter.

    Attributes:
        check: What it must be.
        default: What it is if nobody says.
        field: The field of Parameters that holds it; none where it means nothing here. It then may
            be set to its default only.
        largest: The largest number that it takes.
        range: That range in words.
    """

    check: Check
    default: Any
    field: str = ""
    largest: int = (1 << 64) - 1
    range: str = ""


_DEFAULTS = Parameters()

MIGRATION_PARAMETERS: Mapping[str, MigrationParameter] = {
    "announce-initial": MigrationParameter(SIZE, 50),
    "announce-max": MigrationParameter(SIZE, 550),
    "announce-rounds": MigrationParameter(SIZE, 5),
    "announce-step": MigrationParameter(SIZE, 100),
    "throttle-trigger-threshold": MigrationParameter(UINT8, 50),
    "cpu-throttle-initial": MigrationParameter(UINT8, 20),
    "cpu-throttle-increment": MigrationParameter(UINT8, 10),
    "cpu-throttle-tailslow": MigrationParameter(boolean, False),
    "tls-creds": MigrationParameter(string_or_null, ""),
    "tls-hostname": MigrationParameter(string_or_null, ""),
    "tls-authz": MigrationParameter(string_or_null, ""),
    "max-bandwidth": MigrationParameter(SIZE, _DEFAULTS.max_bandwidth, "max_bandwidth"),
    "avail-switchover-bandwidth": MigrationParameter(SIZE, 0, "avail_switchover_bandwidth"),
    "downtime-limit": MigrationParameter(
        UINT64,
        _DEFAULTS.downtime_limit_ms,
        "downtime_limit_ms",
        2000 * 1000,
        "an integer in the range of 0 to (2000 * 1000) ms",
    ),
    "x-checkpoint-delay": MigrationParameter(unsigned("uint32", 32), 20000),
    "multifd-channels": MigrationParameter(UINT8, 2),
    "xbzrle-cache-size": MigrationParameter(SIZE, 64 << 20),
    "max-postcopy-bandwidth": MigrationParameter(SIZE, 0),
    "max-cpu-throttle": MigrationParameter(UINT8, 99),
    "multifd-compression": MigrationParameter(
        choice("none", "zlib", "zstd", "qatzip", "qpl", "uadk"), "none"
    ),
    "multifd-zlib-level": MigrationParameter(UINT8, 1),
    "multifd-qatzip-level": MigrationParameter(UINT8, 1),
    "multifd-zstd-level": MigrationParameter(UINT8, 1),
    "block-bitmap-mapping": MigrationParameter(array(anything), None),
    "x-vcpu-dirty-limit-period": MigrationParameter(UINT64, 1000),
    "vcpu-dirty-limit": MigrationParameter(UINT64, 1),
    "mode": MigrationParameter(choice("normal", "cpr-reboot", "cpr-transfer"), "normal"),
    "zero-page-detection": MigrationParameter(choice("none", "legacy", "multifd"), "multifd"),
    "direct-io": MigrationParameter(boolean, False),
    "switchover-ack-timeout": MigrationParameter(UINT64, 0, "switchover_ack_timeout_ms"),
    "switchover-ack-timeout-policy": MigrationParameter(
        choice(*(policy.value for policy in AckTimeoutPolicy)),
        _DEFAULTS.switchover_ack_timeout_policy.value,
        "switchover_ack_timeout_policy",
    ),
}
OWN_PARAMETERS = frozenset({"switchover-ack-timeout", "switchover-ack-timeout-policy"})
"""Those that QEMU does not have."""

_NOTHING: Mapping[str, Member] = {}
_CAPABILITY = structure(
    {
        "capability": Member(choice(*(capability.value for capability in Capability))),
        "state": Member(boolean),
    }
)

COMMANDS: Mapping[str, Check] = {
    name: structure(members)
    for name, members in {
        "cont": _NOTHING,
        "migrate": {
            "uri": Member(string, is_required=False),
            "channels": Member(array(anything), is_required=False),
            "detach": Member(boolean, is_required=False),
            "resume": Member(boolean, is_required=False),
        },
        "migrate-continue": {
            "state": Member(choice(*(status.value for status in MigrationStatus)))
        },
        "migrate-incoming": {
            "uri": Member(string, is_required=False),
            "channels": Member(array(anything), is_required=False),
            "exit-on-error": Member(boolean, is_required=False),
        },
        "migrate-set-capabilities": {"capabilities": Member(array(_CAPABILITY))},
        "migrate-set-parameters": {
            name: Member(parameter.check, is_required=False)
            for name, parameter in MIGRATION_PARAMETERS.items()
        },
        "migrate_cancel": _NOTHING,
        "query-commands": _NOTHING,
        "query-migrate": _NOTHING,
        "query-migrate-capabilities": _NOTHING,
        "query-migrate-parameters": _NOTHING,
        "query-status": _NOTHING,
        "query-version": _NOTHING,
        "quit": _NOTHING,
        "stop": _NOTHING,
    }.items()
}
"""The commands, and what their arguments must be."""


def change_parameters(parameters: Parameters, changes: Mapping[str, Any]) -> Parameters:
    """The parameters with some of them changed, which were checked.

    Raises:
        CommandError: A value is out of range, or of a parameter that means nothing here.
    """
    values = {field: getattr(parameters, field) for field in Parameters.__slots__}
    for name, value in changes.items():
        parameter = MIGRATION_PARAMETERS[name]
        if not parameter.field:
            if value != parameter.default:
                raise CommandError(f"parameter '{name}' is not supported by switchover")
            continue
        if isinstance(value, int) and value > parameter.largest:
            underscored = name.replace("-", "_")
            raise CommandError(f"Parameter '{underscored}' expects {parameter.range}")
        values[parameter.field] = value
    policy = AckTimeoutPolicy(values.pop("switchover_ack_timeout_policy"))
    return Parameters(**values, switchover_ack_timeout_policy=policy)


def describe_parameters(parameters: Parameters) -> dict[str, Any]:
    """All parameters that have a value."""
    return {
        name: getattr(parameters, parameter.field) if parameter.field else parameter.default
        for name, parameter in MIGRATION_PARAMETERS.items()
        if parameter.default is not None
    }
