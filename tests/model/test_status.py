"""The states of a migration are QAPI's, letter by letter."""

import json

from switchover.model.status import MigrationStatus


def test_states_have_their_qapi_names() -> None:
    assert [status.value for status in MigrationStatus] == [
        "none",
        "setup",
        "active",
        "pre-switchover",
        "device",
        "completed",
        "failed",
        "cancelling",
        "cancelled",
    ]


def test_a_state_is_its_name_in_json_and_in_text() -> None:
    assert json.dumps(MigrationStatus.DEVICE) == '"device"'
    assert f"{MigrationStatus.DEVICE}" == "device"
