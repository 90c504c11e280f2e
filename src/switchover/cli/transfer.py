"""Runs one transfer: shows it, reports it, and turns how it ended into an exit code."""

from collections.abc import Callable

from typer import Exit

from ..engine.progress import Progress
from ..errors import MigrationCancelled, MigrationError, UsageError
from ..model.status import MigrationStatus
from .console import fail, print_json, watching

FAILED = 1
WRONG_USAGE = 2


def run_transfer(transfer: Callable[[Progress], None], as_json: bool) -> Progress:
    """Does a transfer with somebody watching.

    Args:
        transfer: Does it, counting in what it is given.
        as_json: Whether the result goes to standard output as JSON.

    Returns:
        The figures of a transfer that went well.

    Raises:
        Exit: With 1 when it failed, with 2 when it could not have gone well.
    """
    error: MigrationError | None = None
    with watching() as observer:
        progress = Progress(observer)
        try:
            transfer(progress)
        except KeyboardInterrupt as interrupt:
            # Behind the end there is nothing to be cancelled.
            if progress.status != MigrationStatus.COMPLETED:
                progress.status = MigrationStatus.CANCELLED
                notes: list[str] = getattr(interrupt, "__notes__", [])
                error = MigrationCancelled("; ".join(("cancelled", *notes)))
        except MigrationError as failure:
            progress.status = MigrationStatus.FAILED
            error = failure
        except Exception as bug:
            progress.status = MigrationStatus.FAILED
            if as_json:
                print_json(progress.report(bug))
            raise
    if as_json:
        print_json(progress.report(error))
    if error is not None:
        fail(str(error))
        raise Exit(WRONG_USAGE if isinstance(error, UsageError) else FAILED)
    return progress
