"""How a transfer that ended becomes a report and an exit code."""

import json

import pytest
from typer import Exit

from switchover.cli.transfer import run_transfer
from switchover.engine.progress import Progress
from switchover.errors import ChannelError, MigrationError, UsageError
from switchover.model.status import MigrationStatus


def complete(progress: Progress) -> None:
    progress.enter(MigrationStatus.ACTIVE)
    progress.enter(MigrationStatus.COMPLETED)


def test_success_gives_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_transfer(complete, as_json=False).status == MigrationStatus.COMPLETED
    assert capsys.readouterr().out == ""
    run_transfer(complete, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert (report["status"], report["error"]) == ("completed", None)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(ChannelError("broken"), 1), (MigrationError("broken"), 1), (UsageError("broken"), 2)],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_failure_is_reported(
    capsys: pytest.CaptureFixture[str], error: MigrationError, exit_code: int, as_json: bool
) -> None:
    def transfer(progress: Progress) -> None:
        progress.enter(MigrationStatus.ACTIVE)
        raise error

    with pytest.raises(Exit) as caught:
        run_transfer(transfer, as_json)
    assert caught.value.exit_code == exit_code
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "switchover: error: broken"
    if as_json:
        report = json.loads(captured.out)
        assert (report["status"], report["error"]) == ("failed", "broken")
    else:
        assert captured.out == ""


@pytest.mark.parametrize("notes", [[], ["look there"]])
def test_interrupt_is_a_cancel_with_its_notes(
    capsys: pytest.CaptureFixture[str], notes: list[str]
) -> None:
    def transfer(_: Progress) -> None:
        interrupt = KeyboardInterrupt()
        for note in notes:
            interrupt.add_note(note)
        raise interrupt

    with pytest.raises(Exit) as caught:
        run_transfer(transfer, as_json=True)
    assert caught.value.exit_code == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    expected = "; ".join(["cancelled", *notes])
    assert (report["status"], report["error"]) == ("cancelled", expected)
    assert captured.err == f"switchover: error: {expected}\n"


def test_interrupt_behind_the_end_cancels_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def transfer(progress: Progress) -> None:
        complete(progress)
        raise KeyboardInterrupt

    run_transfer(transfer, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert (report["status"], report["error"]) == ("completed", None)


def test_bug_is_shown_and_reported_too(capsys: pytest.CaptureFixture[str]) -> None:
    def transfer(_: Progress) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        run_transfer(transfer, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert (report["status"], report["error"]) == ("failed", "a bug")
