"""Evaluations for the eye: a table on the terminal and precision/recall curves as pictures."""

from __future__ import annotations

import math
import re
from pathlib import Path

from rich.table import Table

from fasterrcnn.evaluation.run import Evaluation
from fasterrcnn.evaluation.voc_ap import PrecisionRecall
from fasterrcnn.visualize import class_colour


def as_table(evaluation: Evaluation) -> Table:
    """One row per class and one for the means."""
    table = Table(caption=_caption(evaluation), caption_justify="left")
    table.add_column("class")
    for heading in ("objects", "AP@0.5", "11-point", "COCO AP@0.5", "COCO AP"):
        table.add_column(heading, justify="right")
    coco, voc, points = evaluation.coco, evaluation.voc, evaluation.voc_11point
    for i, name in enumerate(evaluation.class_names):
        values = (voc.per_class[i], points.per_class[i], coco.per_class_50[i], coco.per_class[i])
        table.add_row(name, str(voc.objects[i]), *map(_number, values))
    table.add_section()
    means = (voc.mean, points.mean, coco.at_50, coco.mean)
    table.add_row("mean", str(sum(voc.objects)), *(f"[bold]{_number(value)}[/bold]" for value in means))
    return table


def _caption(evaluation: Evaluation) -> str:
    coco = evaluation.coco
    parts = [f"{evaluation.images} images, {1000 * evaluation.seconds:.0f} ms each"]
    parts.append(f"COCO AP@0.75 {_number(coco.at_75)}, average recall {_number(coco.recall)}")
    parts.append(f"small {_number(coco.small)}, medium {_number(coco.medium)}, large {_number(coco.large)}")
    return "; ".join(parts)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def plot_precision_recall(evaluation: Evaluation, out_dir: Path) -> list[Path]:
    """Draws the curves at IoU 0.5: one picture with all classes and one for each class.

    Args:
        evaluation: What to draw.
        out_dir: Gets ``precision_recall.png`` and ``precision_recall_NAME.png``; made when missing.

    Returns:
        The files.
    """
    from matplotlib.figure import Figure  # not pyplot: no display, no state; and only those who plot wait for it

    out_dir.mkdir(parents=True, exist_ok=True)
    named = list(zip(evaluation.class_names, evaluation.curves, evaluation.voc.per_class, strict=True))
    figures: dict[str, Figure] = {}

    def axes_of(file: str, title: str):
        figure = figures[file] = Figure(figsize=(5, 4), dpi=120, layout="constrained")
        axes = figure.add_subplot(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02), title=title)
        axes.grid(alpha=0.3)
        return axes

    together = axes_of("precision_recall.png", f"mAP@0.5 {_number(evaluation.voc.mean)}")
    for label, (name, curve, value) in enumerate(named, 1):
        colour = tuple(0.8 * channel / 255 for channel in class_colour(label))  # darker: for lines on white
        _draw(together, curve, colour, f"{name} {_number(value)}")
        alone = axes_of(f"precision_recall_{_file_name(name, label)}.png", f"{name}: AP@0.5 {_number(value)}")
        _draw(alone, curve, colour, "as measured", raw=True)
        alone.legend(loc="lower left")
    together.legend(loc="lower left")
    for file, figure in figures.items():
        figure.savefig(out_dir / file)
    return [out_dir / file for file in figures]


def _draw(axes, curve: PrecisionRecall, colour: tuple[float, ...], label: str, *, raw: bool = False) -> None:
    recall, envelope = curve.recall.tolist(), curve.envelope.tolist()
    if curve.objects == 0 or not recall:
        axes.plot([], [], color=colour, label=label)
        return
    if raw:
        axes.plot(recall, curve.precision.tolist(), color=colour, alpha=0.4, linewidth=1, label=label)
        label = "best from there on"
    # The best precision holds from the recall before up to its own.
    axes.step([0.0, *recall], [envelope[0], *envelope], where="pre", color=colour, label=label)


def _file_name(name: str, label: int) -> str:
    return re.sub(r"\W+", "_", name).strip("_") or str(label)
