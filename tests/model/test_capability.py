"""Capabilities by name, and QEMU's rules for a set of them."""

import pytest

from switchover.errors import UsageError
from switchover.model.capability import (
    DESTINATION_CAPABILITIES,
    MACHINE_CAPABILITIES,
    QEMU_CAPABILITIES,
    Capability,
    change_capabilities,
    parse_capabilities,
)

UNSUPPORTED = sorted(set(Capability) - DESTINATION_CAPABILITIES)


def test_every_supported_capability_is_taken_by_its_name() -> None:
    assert parse_capabilities(map(str, DESTINATION_CAPABILITIES)) == DESTINATION_CAPABILITIES


def test_none_is_a_set_too() -> None:
    assert parse_capabilities([]) == frozenset()


def test_a_capability_named_twice_is_there_once() -> None:
    assert parse_capabilities(["return-path"] * 2) == {Capability.RETURN_PATH}


@pytest.mark.parametrize("name", ["", "Multifd", "return_path", "no-such"])
def test_an_unknown_name_is_refused_in_qemus_words(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_capabilities(["return-path", name])
    assert str(caught.value) == f"Parameter 'capability' does not accept value '{name}'"


@pytest.mark.parametrize("capability", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(capability: Capability) -> None:
    with pytest.raises(UsageError, match=f"^capability '{capability}' is not supported"):
        parse_capabilities([capability.value])


@pytest.mark.parametrize("name", ["multifd", "postcopy-ram", "xbzrle", "x-colo", "mapped-ram"])
def test_what_changes_the_stream_is_not_supported(name: str) -> None:
    assert name in UNSUPPORTED


def test_the_ack_needs_the_return_path() -> None:
    with pytest.raises(UsageError) as caught:
        parse_capabilities(["switchover-ack"])
    assert str(caught.value) == "Capability 'switchover-ack' requires capability 'return-path'"
    both = parse_capabilities(["switchover-ack", "return-path"])
    assert both == {Capability.SWITCHOVER_ACK, Capability.RETURN_PATH}


def test_changes_are_judged_by_what_comes_out() -> None:
    both = {Capability.SWITCHOVER_ACK: True, Capability.RETURN_PATH: True}
    changed = change_capabilities(frozenset({Capability.EVENTS}), both)
    assert changed == {Capability.EVENTS, *both}
    off = dict.fromkeys(both, False)
    assert change_capabilities(changed, off) == {Capability.EVENTS}
    with pytest.raises(UsageError) as caught:
        change_capabilities(changed, {Capability.RETURN_PATH: False})
    assert str(caught.value) == "Capability 'switchover-ack' requires capability 'return-path'"


def test_load_reports_need_the_return_path_too() -> None:
    with pytest.raises(UsageError) as caught:
        change_capabilities(frozenset(), {Capability.X_LOAD_REPORT: True})
    assert str(caught.value) == "Capability 'x-load-report' requires capability 'return-path'"


def test_one_capability_is_our_own() -> None:
    assert set(Capability) - set(QEMU_CAPABILITIES) == {Capability.X_LOAD_REPORT}


@pytest.mark.parametrize("capability", sorted(set(Capability) - MACHINE_CAPABILITIES))
def test_a_machine_takes_what_is_not_supported_only_switched_off(capability: Capability) -> None:
    assert change_capabilities(frozenset(), {capability: False}) == frozenset()
    with pytest.raises(UsageError) as caught:
        change_capabilities(frozenset(), {capability: True})
    assert str(caught.value) == f"capability '{capability}' is not supported by switchover"
