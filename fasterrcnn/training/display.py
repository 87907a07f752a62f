"""The progress of a training on a terminal: a bar, and below it every loss and the learning rate."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class TrainingProgress(Progress):
    """A progress bar with a line of numbers below it. Without a terminal it shows nothing.

    Args:
        show: False for nothing at all.
        console: Where to; by default standard error.
    """

    def __init__(self, show: bool = True, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self.numbers = Text()
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not (show and console.is_terminal),
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """What a refresh draws."""
        yield from super().get_renderables()
        yield self.numbers

    def report(self, losses: dict[str, float], rate: float) -> None:
        """Sets the numbers shown from the next refresh on."""
        self.numbers = Text(in_words(losses, rate), style="dim")


def warn(console: Console, message: str) -> None:
    """Says what the user should know and may do nothing about."""
    console.print(f"Warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def in_words(losses: dict[str, float], rate: float) -> str:
    """Losses and rate in one line, the sum first: "loss 1.234 = objectness 0.500 + …, rate 1.0e-03"."""
    terms = [f"{name.removeprefix('loss_')} {value:.3f}" for name, value in losses.items() if name != "loss"]
    return f"loss {losses['loss']:.3f} = {' + '.join(terms)}, rate {rate:.1e}"
