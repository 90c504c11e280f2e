"""Arguments are checked in QEMU's words, and parameters have its names, defaults and ranges."""

from typing import Any

import pytest

from switchover.model.parameter import AckTimeoutPolicy, Parameters
from switchover.qmp.schema import (
    COMMANDS,
    MIGRATION_PARAMETERS,
    OWN_PARAMETERS,
    change_parameters,
    describe_parameters,
)
from switchover.qmp.session import CommandError


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        ("stop", {"a": 1}, "Parameter 'a' is unexpected"),
        ("migrate", {"uri": 5}, "Invalid parameter type for 'uri', expected: string"),
        ("migrate", {"detach": 5}, "Invalid parameter type for 'detach', expected: boolean"),
        ("migrate-set-capabilities", {}, "Parameter 'capabilities' is missing"),
        (
            "migrate-set-capabilities",
            {"capabilities": 5},
            "Invalid parameter type for 'capabilities', expected: array",
        ),
        (
            "migrate-set-capabilities",
            {"capabilities": [5]},
            "Invalid parameter type for 'capabilities[0]', expected: object",
        ),
        (
            "migrate-set-capabilities",
            {"capabilities": [{"capability": "x"}]},
            "Parameter 'capability' does not accept value 'x'",
        ),
        (
            "migrate-set-capabilities",
            {"capabilities": [{"capability": 5, "state": True}]},
            "Invalid parameter type for 'capabilities[0].capability', expected: string",
        ),
        (
            "migrate-set-capabilities",
            {"capabilities": [{"capability": "events", "state": 5}]},
            "Invalid parameter type for 'capabilities[0].state', expected: boolean",
        ),
        (
            "migrate-set-capabilities",
            {"capabilities": [{"capability": "events", "state": True, "x": 1}]},
            "Parameter 'capabilities[0].x' is unexpected",
        ),
        ("migrate-set-parameters", {"bogus": 1}, "Parameter 'bogus' is unexpected"),
        (
            "migrate-set-parameters",
            {"downtime-limit": "x"},
            "Parameter 'downtime-limit' expects uint64",
        ),
        (
            "migrate-set-parameters",
            {"downtime-limit": 1.5},
            "Parameter 'downtime-limit' expects uint64",
        ),
        (
            "migrate-set-parameters",
            {"max-bandwidth": 1 << 64},
            "Parameter 'max-bandwidth' expects uint64",
        ),
        (
            "migrate-set-parameters",
            {"multifd-channels": 256},
            "Parameter 'multifd-channels' expects uint8_t",
        ),
        (
            "migrate-set-parameters",
            {"mode": "bogus"},
            "Parameter 'mode' does not accept value 'bogus'",
        ),
        (
            "migrate-set-parameters",
            {"switchover-ack-timeout": "1s"},
            "Parameter 'switchover-ack-timeout' expects uint64",
        ),
        (
            "migrate-set-parameters",
            {"switchover-ack-timeout-policy": "maybe"},
            "Parameter 'switchover-ack-timeout-policy' does not accept value 'maybe'",
        ),
        (
            "migrate-set-parameters",
            {"avail-switchover-bandwidth": "much"},
            "Parameter 'avail-switchover-bandwidth' expects uint64",
        ),
        (
            "migrate-set-parameters",
            {"tls-creds": 5},
            "Invalid parameter type for 'tls-creds', expected: StrOrNull",
        ),
        (
            "migrate-set-parameters",
            {"direct-io": 5},
            "Invalid parameter type for 'direct-io', expected: boolean",
        ),
    ],
)
def test_arguments_are_refused_in_qemus_words(
    command: str, arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(CommandError) as caught:
        COMMANDS[command](arguments, "")
    assert str(caught.value) == text


def change(**changes: object) -> Parameters:
    named = {name.replace("_", "-"): value for name, value in changes.items()}
    checked = COMMANDS["migrate-set-parameters"](named, "")
    return change_parameters(Parameters(), checked)


def test_parameters_are_changed_one_by_one() -> None:
    assert change() == Parameters()
    assert change(max_bandwidth=0) == Parameters(max_bandwidth=0)
    assert change(downtime_limit=2_000_000) == Parameters(downtime_limit_ms=2_000_000)
    assert change(max_bandwidth=-1) == Parameters(max_bandwidth=(1 << 64) - 1)
    assert change(avail_switchover_bandwidth=5) == Parameters(avail_switchover_bandwidth=5)
    assert change(switchover_ack_timeout=7) == Parameters(switchover_ack_timeout_ms=7)
    policy = change(switchover_ack_timeout_policy="proceed").switchover_ack_timeout_policy
    assert policy is AckTimeoutPolicy.PROCEED


def test_our_own_parameters_mean_something() -> None:
    assert all(MIGRATION_PARAMETERS[name].field for name in OWN_PARAMETERS)


@pytest.mark.parametrize("value", [2_000_001, -1])
def test_a_value_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(CommandError) as caught:
        change(downtime_limit=value)
    expected = "an integer in the range of 0 to (2000 * 1000) ms"
    assert str(caught.value) == f"Parameter 'downtime_limit' expects {expected}"


def test_what_means_nothing_here_stays_as_it_is() -> None:
    assert change(multifd_channels=2, tls_creds=None, mode="normal") == Parameters()
    with pytest.raises(CommandError) as caught:
        change(multifd_channels=3)
    assert str(caught.value) == "parameter 'multifd-channels' is not supported by switchover"


def test_the_answer_names_all_that_have_a_value() -> None:
    described = describe_parameters(Parameters(max_bandwidth=5))
    assert described.keys() == MIGRATION_PARAMETERS.keys() - {"block-bitmap-mapping"}
    assert described["max-bandwidth"] == 5
    assert described["downtime-limit"] == 300
    assert described["tls-creds"] == ""
    assert described["avail-switchover-bandwidth"] == 0
    assert described["switchover-ack-timeout"] == 0
    assert described["switchover-ack-timeout-policy"] == "cancel"
