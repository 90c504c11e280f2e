"""What a person sees."""

import io

import pytest
from rich.console import Console

from switchover.cli import console
from switchover.cli.console import fail, figures, say, size, warn, watching
from switchover.engine.progress import Progress
from switchover.model.status import MigrationStatus

ODD = "tcp:a:44 [/bold] [red]x[/red] :key: \N{SNOWMAN}"


def test_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Names and addresses may look like somebody's markup."""
    say(ODD)
    warn(ODD)
    fail(ODD)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        ODD,
        f"warning: {ODD}",
        f"switchover: error: {ODD}",
    ]
    assert captured.out == ""


def test_long_lines_stay_one(capsys: pytest.CaptureFixture[str]) -> None:
    say("word " * 200)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_each_status_is_a_line_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):  # Nothing is remembered from one migration to the next.
        with watching() as observer:
            progress = Progress(observer)
            progress.enter(MigrationStatus.ACTIVE)
            progress.machine = "pc-q35-10.0"
            observer(progress.report())
            progress.enter(MigrationStatus.DEVICE)
        lines = capsys.readouterr().err.splitlines()
        assert lines == ["active: 0 bytes transferred", "device: pc-q35-10.0, 0 bytes transferred"]


def test_terminal_shows_what_the_peer_says_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=200, emoji=False)
    monkeypatch.setattr(console, "_ERR", terminal)
    with watching() as observer:
        progress = Progress(observer)
        progress.ram_bytes = 8192
        progress.pages = 5
        progress.machine = "[/bold]:key:[red]"
        progress.enter(MigrationStatus.ACTIVE)
    assert "[/bold]:key:[red], 0 bytes transferred, 8.0 KiB RAM" in screen.getvalue()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (150 << 10, "150 KiB"),
        (1 << 20, "1.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 40, "5.0 TiB"),
        (5 << 50, "5120 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_figures_say_what_is_known() -> None:
    progress = Progress()
    assert figures(progress.report()) == "0 bytes transferred"
    progress.machine = "pc-q35-10.0"
    progress.transferred_bytes = 2048
    progress.ram_bytes = 1 << 30
    progress.start()
    start_ns = progress._start_ns
    progress.ack_asked_ns = start_ns
    known = "pc-q35-10.0, 2.0 KiB transferred, 1.0 GiB RAM"
    assert figures(progress.report()) == f"{known}, ACK held"
    progress.ack_sent_ns = start_ns + 1_500_000_000
    assert figures(progress.report()) == f"{known}, ACK sent at 1500 ms"
