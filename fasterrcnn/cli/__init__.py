"""The command ``fasterrcnn``, one module per subcommand."""

from __future__ import annotations

from typing import Annotated

import typer

from fasterrcnn.cli import data as data_commands
from fasterrcnn.cli.common import console
from fasterrcnn.cli.config import config
from fasterrcnn.cli.convert import convert
from fasterrcnn.cli.demo import demo
from fasterrcnn.cli.detect import detect
from fasterrcnn.cli.evaluate import evaluate
from fasterrcnn.cli.export import export
from fasterrcnn.cli.train import train

app = typer.Typer(
    help="Faster R-CNN detectors.", no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False
)
app.command()(demo)
app.command()(train)
app.command("eval")(evaluate)
app.command()(detect)
app.command()(config)
app.add_typer(data_commands.app, name="data")
app.command()(convert)
app.command()(export)


def main() -> None:
    """Entry point of the console script."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from fasterrcnn import __version__

        console.print(f"fasterrcnn {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Faster R-CNN detectors."""
