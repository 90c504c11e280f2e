"""The driver: what it makes of what a source says, whosever it is."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from switchover.qmp import driver
from switchover.qmp.driver import Driver, Outcome, Plan, Server

UNDERFLOW = "Switchover ack pending num underflowed"


class Telling(Server):
    """A server that says one thing after the other, and the last for ever.

    Args:
        answers: What it says to query-migrate.
    """

    def __init__(self, *answers: Mapping[str, Any]) -> None:
        super().__init__("source", "nowhere")
        self.answers = list(answers)
        self.commands: list[str] = []

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        if command != "query-migrate":
            self.commands.append(command)
            return {}
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def drive(*answers: Mapping[str, Any]) -> tuple[Outcome, list[str]]:
    """How it ends, and what was said."""
    said: list[str] = []
    driving = Driver(Plan("tcp:x:1"), Telling(*answers), None, lambda _: None, said.append)
    return asyncio.run(driving.run()), said


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "POLL_S", 0)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_an_ack_too_many_is_explained(status: str) -> None:
    outcome, said = drive({"status": "active"}, {"status": status, "error-desc": UNDERFLOW})
    assert said == []
    assert outcome.status == status
    assert str(outcome.error).startswith(f"{UNDERFLOW}; the source counts the ACKs per device")
    assert "-global migration.switchover-ack-legacy=on at a source" in str(outcome.error)
    assert outcome.as_dict()["error"] == outcome.error


def test_an_error_that_ends_nothing_is_said_once() -> None:
    active = {"status": "active", "error-desc": UNDERFLOW}
    _, said = drive(active, active, active, {"status": "cancelled", "error-desc": UNDERFLOW})
    (line,) = said
    assert line.startswith(f"the source is active and has an error: {UNDERFLOW}; the source counts")


def test_other_errors_stand_for_themselves() -> None:
    outcome, _ = drive({"status": "failed", "error-desc": "no"})
    assert outcome.error == "no"
    outcome, _ = drive({"status": "cancelled"})
    assert outcome.error == "the migration is cancelled"


def test_a_hint_with_other_figures_is_no_news() -> None:
    hints = ["5 MiB are left", "6 MiB are left", "wait", "7 MiB are left", 5]
    _, said = drive(*({"status": "active", "x-hint": hint} for hint in hints), {"status": "failed"})
    assert said == ["5 MiB are left", "wait"]


def test_what_a_qemu_does_not_tell_is_nothing() -> None:
    outcome, _ = drive({"status": "completed", "downtime": 5, "expected-downtime": 300})
    found = outcome.as_dict()
    assert (found["downtime_ms"], found["phases"]) == (5, [])
    assert [found[name] for name in ("expected_downtime", "switchover_ack", "hint")] == [None] * 3


PHASE = {"side": "source", "name": "ram", "start": 0.5, "duration": 2}
ACK = {"mode": None, "waiting-for": ["a"], "waiting": None, "timed-out": False}
EXPECTED = {"expected": 2.5, "transfer": 1, "load-measured": True}


def test_what_ours_tells_is_data() -> None:
    outcome, _ = drive(
        {
            "status": "completed",
            "x-downtime-phases": [PHASE],
            "x-switchover-ack": ACK,
            "x-expected-downtime": EXPECTED,
        }
    )
    found = outcome.as_dict()
    assert found["phases"] == [{"side": "source", "name": "ram", "start_ms": 0.5, "duration_ms": 2}]
    assert found["switchover_ack"] == {
        "mode": None,
        "waiting_for": ("a",),
        "waiting_ms": None,
        "timed_out": False,
    }
    assert found["expected_downtime"] == {
        "expected_ms": 2.5,
        "transfer_ms": 1,
        "is_load_measured": True,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-downtime-phases", 5),
        ("x-downtime-phases", "ram"),
        ("x-downtime-phases", [5, {}, PHASE | {"start": "x"}]),
        ("x-switchover-ack", []),
        ("x-switchover-ack", ACK | {"waiting-for": "a"}),
        ("x-expected-downtime", 5),
        ("x-expected-downtime", EXPECTED | {"expected": "x"}),
        ("x-hint", 5),
    ],
)
def test_what_somebody_elses_name_means_is_not_guessed(name: str, value: object) -> None:
    outcome, said = drive({"status": "active", name: value}, {"status": "completed", name: value})
    plain, _ = drive({"status": "completed"})
    assert outcome.as_dict() == plain.as_dict()
    assert said == []
