"""What the rows are to reach, in one place, and whether they do. Reads result files; needs neither card nor torch.

A goal is a number that a row has to reach: a ratio of torchvision's figure over ours, or a share of a ceiling. It is
reached or missed only by what was measured; everything else is "not measured", with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import report

REACHED, MISSED, NOT_MEASURED = "reached", "missed", "not measured"
FPN = "generate_proposals FPN {batch}x268569 1000 to 1000 float32 NCHW"
PYRAMID = "1000x256x7x7 from 4 levels"
PLANE = "1000x256x7x7 from 200x336"
SHAPES = {"classic_vgg16": "608x800", "resnet50_c4": "800x1056"}
PRECISIONS = ("float32", "bfloat16")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """One line of the table.

    Attributes:
        stage: Whose result file has the row.
        row: Its name.
        what: The number, in words.
        least: To be reached.
        unit: Of the number.
        read: Row → the number, or None where the row does not have it.
        strict: Whether it has to be more than ``least``.
        instead: Read where the row does not have the number, and said to be so with these words.
    """

    stage: str
    row: str
    what: str
    least: float
    unit: str
    read: Callable[[Row], float | None]
    strict: bool = False
    instead: tuple[Callable[[Row], float | None], str] | None = None


def cold(kind: str) -> Callable[[Row], float | None]:
    """Of an operator row torchvision's cold median over ours: ``gpu``, ``busy`` or ``wall`` time."""
    return lambda row: row["cold"]["ratios"].get(kind)


def share_of_ceiling(row: Row) -> float | None:
    """Of an operator row the percentage of the measured copy bandwidth that our GPU time, caches cold, comes to."""
    return row["percent_of_floor"]


def of_model(contender: str, kind: str) -> Callable[[Row], float | None]:
    """Of a model row torchvision's wall time or peak memory over a contender's."""
    return lambda row: row["ratios"].get(contender, {}).get(kind)


def _operator(row: str, kind: str, least: float) -> Goal:
    if kind == "wall":
        return Goal("operators", row, "wall time, torchvision ÷ ours", least, "×", cold("wall"))
    # These rivals wait for the card within a call, which is idle until they go on: not to count in our favour.
    by_events = (cold("gpu"), "by events, host gaps included")
    return Goal("operators", row, "GPU time, torchvision ÷ ours", least, "×", cold("busy"), instead=by_events)


def _goals() -> list[Goal]:
    proposals = [FPN.format(batch=batch) for batch in (1, 2, 16)]
    proposals.append("generate_proposals C4 1x37800 6000 to 1000 float32 NCHW")
    found = [_operator(row, "wall", 20) for row in proposals]
    for dtype in PRECISIONS:
        for layout in ("NCHW", "NHWC"):
            found.append(_operator(f"multi_scale_roi_align {PYRAMID} {dtype} {layout}", "gpu", 3))
            found.append(_operator(f"multi_scale_roi_align backward {PYRAMID} {dtype} {layout}", "gpu", 5))
    found.append(_operator("nms 6000 float32", "gpu", 10))
    found.append(_operator("batched_nms 80x1000 float32", "gpu", 50))
    found.append(_operator("select_detections 1000x91 float32", "wall", 20))
    for row in (f"roi_align {PLANE}", f"multi_scale_roi_align {PYRAMID}"):
        for layout in ("NCHW", "NHWC"):
            name = f"{row} float32 {layout}"
            found.append(Goal("operators", name, "share of the measured copy bandwidth", 60, "%", share_of_ceiling))
    for system, size in SHAPES.items():
        for dtype in PRECISIONS:
            row, what = f"detect {system} 1x{size} {dtype}", "wall time, torchvision ÷ ours in a graph"
            found.append(Goal("models", row, what, 3, "×", of_model("ours_graph", "wall")))
    for system, size in SHAPES.items():
        for batch in (1, 8):
            for dtype in PRECISIONS:
                row = f"train {system} {batch}x{size} {dtype}"
                what = "wall time of a training step, torchvision ÷ ours"
                found.append(Goal("models", row, what, 1.3, "×", of_model("ours", "wall")))
                what = "peak memory of a training step, torchvision ÷ ours"
                found.append(Goal("models", row, what, 1, "×", of_model("ours", "peak"), strict=True))
    return found


GOALS: Sequence[Goal] = tuple(_goals())


def judge(goals: Sequence[Goal], results: Mapping[str, Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """What became of each goal.

    Args:
        goals: Such as ``GOALS``.
        results: By stage, the content of its result file, or None.

    Returns:
        Per goal ``row``, ``what``, ``least``, ``unit``, ``found`` (None if not measured), ``verdict`` (``REACHED``,
        ``MISSED`` or ``NOT_MEASURED``) and ``reason``: why it was not measured, or how, if not as the goal has it.
    """
    judged = []
    for goal in goals:
        found, reason = _look_up(goal, results.get(goal.stage))
        enough = found is not None and (found > goal.least if goal.strict else found >= goal.least)
        verdict = NOT_MEASURED if found is None else REACHED if enough else MISSED
        line = {"row": goal.row, "what": goal.what, "least": goal.least, "unit": goal.unit}
        judged.append({**line, "found": found, "verdict": verdict, "reason": reason})
    return judged


def _look_up(goal: Goal, result: Mapping[str, Any] | None) -> tuple[float | None, str]:
    if result is None:
        return None, f"no result of {goal.stage}"
    row = next((row for row in result.get("rows", ()) if row["name"] == goal.row), None)
    if row is None:
        return None, "no such row"
    if "error" in row:
        return None, row["error"].splitlines()[0]
    if goal.read is share_of_ceiling and result.get("floors_from") != "measured ceilings":
        return None, "ceilings not measured"
    found = goal.read(row)
    if found is None and goal.instead is not None:
        read, how = goal.instead
        if (found := read(row)) is not None:
            return found, how
    return found, "" if found is not None else "not in the row"


def verdicts(judged: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many goals there are of each verdict."""
    return {name: sum(line["verdict"] == name for line in judged) for name in (REACHED, MISSED, NOT_MEASURED)}


def table(judged: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a line a goal."""
    lines = ["| row | number | goal | found | verdict |", "|---|---|---|---|---|"]
    for line in judged:
        found = "–" if line["found"] is None else f"{line['found']:.3g} {line['unit']}"
        verdict = line["verdict"] + (f": {line['reason']}" if line["reason"] else "")
        goal = f"{line['least']:g} {line['unit']}"
        cells = [line["row"], line["what"], goal, found, verdict.replace("|", "/")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cards(folder: Path) -> list[str]:
    """The cards, as file names spell them, of which the folder has rows."""
    names = {path.name for stage in ("operators", "models") for path in folder.glob(f"gpu_*_{stage}.json")}
    return sorted({name.removeprefix("gpu_").rpartition("_")[0] for name in names})


def results_of(folder: Path, card: str) -> dict[str, dict[str, Any] | None]:
    """By stage, what is known of a card."""
    return {stage: report.load(report.result_file(folder, stage, card)) for stage in ("operators", "models")}
