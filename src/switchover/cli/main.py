"""The command `switchover`."""

import signal
from typing import Annotated

import typer

from .. import __version__
from .bench import bench
from .demo import demo
from .migrate import migrate
from .qemu import qemu
from .receive import receive
from .run import run
from .send import send

app = typer.Typer(
    name="switchover",
    help="Live migration as Python: speaks QEMU's migration protocol, byte for byte.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(demo)
app.command()(migrate)
app.command()(qemu)
app.command()(receive)
app.command()(run)
app.command()(send)
app.add_typer(bench, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"switchover {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line; a request to end is handled like Ctrl-C, so that all is tidied up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
