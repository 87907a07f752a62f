"""The operators stage: row after row, the results saved after each, so that a stop leaves what was measured."""

from __future__ import annotations

import time
from typing import Any

import torch

from . import report
from .arithmetic import NOMINAL_BYTES_PER_SECOND
from .case import Case
from .operators import operator_cases
from .stages import FAILED, OK, Result, Settings
from .timing import Meter, measure


def run_rows(settings: Settings, ceilings: dict[str, Any] | None) -> Result:
    """Measures every row that ``settings.only`` names.

    Args:
        settings: Of the command line.
        ceilings: Result of the stage of that name on this card; without it, floors rest on nominal figures.

    Returns:
        FAILED if a row failed or time ran out before it, else OK; and the rows.
    """
    device = torch.device("cuda")
    return measure_all(operator_cases(), Meter(device), settings, ceilings)


def measure_all(cases: list[Case], meter: Meter, settings: Settings, ceilings: dict[str, Any] | None) -> Result:
    """``run_rows`` of the cases given."""
    chosen = [case for case in cases if settings.only in case.name]
    if not chosen:
        names = "\n  ".join(case.name for case in cases)
        return FAILED, {"rows": [], "error": f"no row has {settings.only!r} in its name:\n  {names}"}
    limits = {
        "launch_us": ceilings["empty_launch_us"]["median"] if ceilings else 1.0,
        "bytes_per_second": ceilings["copy_bytes_per_second"]["median"] if ceilings else NOMINAL_BYTES_PER_SECOND,
    }
    content: dict[str, Any] = {"rows": [], "floors_from": "measured ceilings" if ceilings else "nominal figures"}
    file = report.result_file(settings.out, "operators", settings.card)
    facts = report.facts(settings.card, settings.commit)
    deadline = time.monotonic() + settings.limit
    for i, case in enumerate(chosen):
        if time.monotonic() + settings.seconds > deadline:
            row = case.labels | {"error": "not reached within the limit of time"}
        else:
            row = _row(case, meter, settings, 1000 * i, limits)
        content["rows"].append(row)
        print(f"{case.name}: {row.get('error') or row['match']}", flush=True)
        report.save(file, {"stage": "operators", "facts": facts, "complete": False, **content})
    content["picture"] = report.picture({"facts": facts, **content}, file.with_suffix(".png")) or file.stem + ".png"
    print(report.table(content["rows"]))
    return FAILED if any("error" in row for row in content["rows"]) else OK, content


def _row(case: Case, meter: Meter, settings: Settings, offset: int, limits: dict[str, float]) -> dict[str, Any]:
    try:
        return measure(case, meter, seed=settings.seed + offset, seconds=settings.seconds, **limits)
    except (AssertionError, RuntimeError) as error:  # the other rows are still worth measuring
        return case.labels | {"error": f"{type(error).__name__}: {error}"}
