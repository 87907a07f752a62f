"""``fasterrcnn demo``: the demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasterrcnn.cli.common import console, errors


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the annotated pictures.", file_okay=False)] = Path(
        "demo_output"
    ),
    train: Annotated[bool, typer.Option("--train", help="Retrain from scratch first; takes minutes.")] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Weights to use instead of the shipped ones.", exists=True, dir_okay=False)
    ] = None,
) -> None:
    """Detect objects on the shipped photographs, measure the detector, time the operators.

    Downloads nothing. Exit code 1 when the numbers fall short of what the project promises.
    """
    if train and weights is not None:
        raise typer.BadParameter("--train makes weights of its own: leave one of the two out", param_hint="--weights")
    from fasterrcnn.demo import run_demo

    try:
        report = run_demo(out, weights=weights, train=train, console=console)
    except (OSError, ValueError) as error:
        errors.print(f"Error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as interruption:
        errors.print(str(interruption) or "Stopped.", markup=False, highlight=False)
        raise typer.Exit(130) from interruption
    for problem in report.shortfalls():
        errors.print(f"Fell short: {problem}.", style="red", markup=False, highlight=False)
    if report.shortfalls():
        raise typer.Exit(1)
