"""One run of the demonstration, told on a console."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from fasterrcnn import checkpoints
from fasterrcnn.data.synthetic import SyntheticScenes
from fasterrcnn.demo import checks
from fasterrcnn.demo.recipe import WEIGHTS, train_detector
from fasterrcnn.demo.timing import Timing, time_operators
from fasterrcnn.evaluation import AveragePrecision
from fasterrcnn.model import TwoStageDetector


@dataclass(frozen=True)
class DemoReport:
    """What a run of the demonstration measured.

    Attributes:
        photographs: what was found on each photograph.
        precision: mAP@0.5 on the held-out generated scenes.
        coins: the test on the unseen coins.
        timings: operators against references.
        seconds: duration of the run, training not counted.
    """

    photographs: list[checks.PhotographResult]
    precision: AveragePrecision
    coins: checks.CoinResult
    timings: list[Timing]
    seconds: float

    def shortfalls(self) -> list[str]:
        """What falls short of the promised numbers, in words; empty when all are kept."""
        problems = []
        if math.isnan(self.precision.mean) or self.precision.mean < checks.PROMISED_MAP:
            problems.append(f"mAP@0.5 is {self.precision.mean:.3f}, promised are {checks.PROMISED_MAP}")
        if self.coins.found < checks.PROMISED_COINS:
            problems.append(
                f"{self.coins.found} of {self.coins.total} unseen coins found, promised are {checks.PROMISED_COINS}"
            )
        if self.coins.false_alarms > checks.PROMISED_FALSE_ALARMS:
            problems.append(
                f"{self.coins.false_alarms} false alarms among the unseen coins, promised is at most "
                f"{checks.PROMISED_FALSE_ALARMS}"
            )
        for row in self.timings:
            if math.isinf(row.difference):
                problems.append(f"{row.operator} does not agree with its reference")
        return problems


def run_demo(
    out_dir: Path, *, weights: Path | None = None, train: bool = False, console: Console | None = None
) -> DemoReport:
    """Detect on the photographs, measure, time the operators; annotated pictures go to ``out_dir``.

    Args:
        out_dir: folder for the pictures; made when missing.
        weights: weights to use instead of the shipped ones.
        train: retrain from scratch first, into ``out_dir/training`` (takes minutes; an interrupted training goes on),
            and use those.
        console: where to tell it; default standard output.

    Raises:
        OSError: no such weights.
        ValueError: weights of another kind of detector.
    """
    console = console or Console()
    if train:
        console.print(f"Training from scratch on generated pictures, on {_device_words()} …")
        weights = train_detector(out_dir / "training")
        console.print(f"Trained weights: {weights}")
    weights = weights or WEIGHTS
    with _one_thread():
        return _tell(out_dir, weights, console)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The pictures are small: a second thread gains little on an idle machine and costs much on a busy one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tell(out_dir: Path, weights: Path, console: Console) -> DemoReport:
    start = time.perf_counter()
    model = checkpoints.load_model(weights)
    if model.class_names != SyntheticScenes.class_names:
        raise ValueError(
            f"{weights} detects {model.class_names}, the demonstration needs {SyntheticScenes.class_names}"
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.print(f"Detector: {parameters / 1e6:.2f} M parameters from {weights}, on {_device_words()}\n")

    photographs = checks.detect_photographs(model, out_dir)
    console.print("[bold]Photographs[/bold]")
    console.print(_photograph_table(photographs, model))
    console.print(f"Annotated pictures: {out_dir.resolve()}\n")

    precision = _measure(model, console)
    console.print(f"[bold]{checks.HELD_OUT_SCENES} held-out generated scenes, average precision at IoU 0.5[/bold]")
    console.print(_precision_table(precision, model))
    unseen_coins = next(result for result in photographs if result.photograph.file == checks.UNSEEN_COINS)
    coins = checks.score_coins(unseen_coins.detections)
    console.print(
        f"Unseen coins: {coins.found} of {coins.total} found (IoU ≥ 0.5, score ≥ {checks.SCORE_THRESHOLD}), "
        f"{coins.false_alarms} false alarm{'' if coins.false_alarms == 1 else 's'}.\n"
    )
    timings = time_operators()
    console.print("[bold]Operators against their plain PyTorch references, medians on this machine[/bold]")
    console.print(_timing_table(timings))
    report = DemoReport(photographs, precision, coins, timings, time.perf_counter() - start)
    console.print(f"Done in {report.seconds:.0f} s.")
    return report


def _device_words() -> str:
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'' if threads == 1 else 's'}"


def _photograph_table(results: list[checks.PhotographResult], model: TwoStageDetector) -> Table:
    table = Table()
    for heading in ("picture", "training", "shows", "found"):
        table.add_column(heading)
    for result in results:
        seen = "[bold]unseen[/bold]" if result.photograph.unseen else "seen"
        table.add_row(result.annotated.name, seen, result.photograph.content, result.summary(model.class_names or ()))
    table.caption = (
        "unseen: no pixel of it was used in training, neither as object nor as background. "
        "seen: its objects were cut out for training."
    )
    table.caption_justify = "left"
    return table


def _measure(model: TwoStageDetector, console: Console) -> AveragePrecision:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("held-out generated scenes", total=checks.HELD_OUT_SCENES)
        return checks.score_generated_scenes(model, progress=lambda done: progress.update(task, completed=done))


def _precision_table(precision: AveragePrecision, model: TwoStageDetector) -> Table:
    table = Table()
    table.add_column("class")
    table.add_column("objects", justify="right")
    table.add_column("AP@0.5", justify="right")
    for name, objects, value in zip(model.class_names or (), precision.objects, precision.per_class, strict=True):
        table.add_row(name, str(objects), f"{value:.3f}")
    table.add_section()
    table.add_row("mAP@0.5", str(sum(precision.objects)), f"[bold]{precision.mean:.3f}[/bold]")
    return table


def _timing_table(timings: list[Timing]) -> Table:
    table = Table()
    table.add_column("operator")
    table.add_column("case")
    for heading in ("ours, ms", "reference", "ratio", "difference"):
        table.add_column(heading, justify="right")
    for row in timings:
        table.add_row(
            row.operator,
            row.case,
            f"{row.ours_ms:.3f}",
            f"{row.reference_ms:.3f}",
            f"{row.reference_ms / row.ours_ms:.1f}×",
            f"{row.difference:.1e}" if row.difference else "none",
        )
    return table
