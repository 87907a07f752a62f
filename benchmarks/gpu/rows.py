"""Row after row, each saved as soon as it is measured, so that a stop leaves what was done and the next run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import report
from .stages import FAILED, OK, Result, Settings

NOT_REACHED = "not reached within the limit of time"


@dataclass(frozen=True)
class Task:
    """One row to be.

    Attributes:
        name: What ``--only`` looks into; unique.
        labels: What tells the row from others in the table.
        measure: The rest of the row, or an exception; its argument is a number that differs from row to row.
        needs: Seconds it may take; with fewer left it is not begun.
    """

    name: str
    labels: Mapping[str, Any]
    measure: Callable[[int], dict[str, Any]]
    needs: float = 0.0


def measure_all(stage: str, tasks: Sequence[Task], settings: Settings, common: Mapping[str, Any]) -> Result:
    """Measures every row that ``settings.only`` names and an earlier run of the same code on this machine has not.

    Args:
        stage: Whose result file it is.
        tasks: In the order of the table.
        settings: Of the command line; ``again`` measures what is there already.
        common: What all rows rest on; rows of an earlier run that rest on something else are dropped.

    Returns:
        FAILED if a row of those asked for failed or time ran out before it, else OK; and all rows known.
    """
    chosen = [task for task in tasks if settings.only in task.name]
    if not chosen:
        names = "\n  ".join(task.name for task in tasks)
        return FAILED, {"rows": [], "error": f"no row has {settings.only!r} in its name:\n  {names}"}
    file = report.result_file(settings.out, stage, settings.card)
    facts = report.facts(settings.card, settings.commit)
    known = earlier_rows(file, facts, common)
    content: dict[str, Any] = {**common, "rows": []}
    deadline = time.monotonic() + settings.limit
    for done, task in enumerate(chosen, 1):
        is_there = "error" not in known.get(task.name, {"error": "not measured yet"})
        if is_there and not settings.again:
            said = "measured earlier"
        elif time.monotonic() + max(settings.seconds, task.needs) > deadline:
            if not is_there:
                known[task.name] = {"name": task.name, **task.labels, "error": NOT_REACHED}
            said = NOT_REACHED
        else:
            known[task.name] = {"name": task.name, **task.labels, **_measured(task, tasks.index(task))}
            said = known[task.name].get("error") or known[task.name]["match"]
        left = max(0, round(deadline - time.monotonic()))
        print(f"[{done}/{len(chosen)}, {left} s left] {task.name}: {said}", flush=True)
        content["rows"] = [known[task.name] for task in tasks if task.name in known]
        report.save(file, {"stage": stage, "facts": facts, "complete": False, **content})
    failed = any("error" in known[task.name] for task in chosen)
    return FAILED if failed else OK, content


def _measured(task: Task, number: int) -> dict[str, Any]:
    try:
        return task.measure(number)
    except (AssertionError, RuntimeError) as error:  # the other rows are still worth measuring
        return {"error": f"{type(error).__name__}: {error}"}


def earlier_rows(file: Path, facts: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By name, the rows of a result file of the same card, commit and versions; none where that cannot be told."""
    earlier = report.load(file)
    commit = facts["commit"]
    if earlier is None or commit == "unknown" or commit.endswith("-dirty"):
        return {}
    if earlier.get("facts") != facts or any(earlier.get(name) != value for name, value in common.items()):
        return {}
    return {row["name"]: row for row in earlier["rows"]}
