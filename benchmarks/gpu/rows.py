"""Row after row, each saved as soon as it is measured, so that a stop leaves what was done and the next run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import report
from .stages import FAILED, NOTHING_OF_THAT_NAME, OK, Result, Settings

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
        NOTHING_OF_THAT_NAME if ``settings.only`` names no row, FAILED if a row of those asked for failed or time ran
        out before it, else OK; and all rows known.
    """
    chosen = [task for task in tasks if settings.only in task.name]
    if not chosen:
        names = "\n  ".join(task.name for task in tasks)
        return NOTHING_OF_THAT_NAME, {"rows": [], "error": f"no row has {settings.only!r} in its name:\n  {names}"}
    file = report.result_file(settings.out, stage, settings.card)
    facts = report.facts(settings.card, settings.commit)
    known = earlier_rows(file, facts, common)
    content: dict[str, Any] = {**common, "rows": []}
    for done, task in enumerate(chosen, 1):
        is_there = "error" not in known.get(task.name, {"error": "not measured yet"})
        if is_there and not settings.again:
            said = "measured earlier"
        elif settings.left < max(settings.seconds, task.needs):
            if not is_there:
                known[task.name] = {"name": task.name, **task.labels, "error": NOT_REACHED}
            said = NOT_REACHED
        else:
            known[task.name] = {"name": task.name, **task.labels, **_measured(task, tasks.index(task))}
            said = known[task.name].get("error") or known[task.name]["match"]
        print(f"[{done}/{len(chosen)}, {max(0, round(settings.left))} s left] {task.name}: {said}", flush=True)
        content["rows"] = [known[task.name] for task in tasks if task.name in known]
        report.save(file, {"stage": stage, "facts": facts, "complete": False, **content})
    failed = any("error" in known[task.name] for task in chosen)
    return FAILED if failed else OK, content


def _measured(task: Task, number: int) -> dict[str, Any]:
    try:
        return task.measure(number)
    except Exception as error:  # whatever it is, the other rows are still worth measuring
        return {"error": f"{type(error).__name__}: {error}"}


def earlier_rows(file: Path, facts: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By name, the rows of a result file that count on; says why, where they do not.

    They have to be of the same card, commit and versions and rest on the same ``common``; none are, where the commit
    is not known or files differ from it.
    """
    earlier = report.load(file)
    rows = earlier.get("rows", ()) if earlier else ()
    if not rows:
        return {}
    reasons = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for before, now in ((earlier.get("facts", {}), facts), (earlier, common))
        for name in sorted(now)
        if before.get(name) != now[name]
    ]
    if not reasons and (facts["commit"] == "unknown" or facts["commit"].endswith("-dirty")):
        reasons = [f"the code of commit {facts['commit']!r} may be another"]
    if reasons:
        print(f"{len(rows)} earlier rows of {file.name} are dropped: {'; '.join(reasons)}", flush=True)
        return {}
    return {row["name"]: row for row in rows}
