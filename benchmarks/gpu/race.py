"""The operators stage: every row of the operator table, and its picture."""

from __future__ import annotations

import functools
from typing import Any

import torch

from . import report
from .arithmetic import NOMINAL_BYTES_PER_SECOND
from .case import Case
from .operators import operator_cases
from .rows import Task, measure_all
from .stages import Result, Settings
from .timing import Meter, measure

MEASURED, NOMINAL = "measured ceilings", "nominal figures"  # what floors rest on
SEEDS_A_ROW = 1000
NEEDS = 15.0  # seconds a row may take, inputs and comparison included; a guess until it is measured


def run_rows(settings: Settings, ceilings: dict[str, Any] | None) -> Result:
    """Measures the rows.

    Args:
        settings: Of the command line.
        ceilings: Result of the stage of that name on this card; without it, floors rest on nominal figures.
    """
    return measure_cases(operator_cases(), Meter(torch.device("cuda")), settings, ceilings)


def measure_cases(cases: list[Case], meter: Meter, settings: Settings, ceilings: dict[str, Any] | None) -> Result:
    """``run_rows`` of the cases given."""
    limits = {
        "launch_us": ceilings["empty_launch_us"]["median"] if ceilings else 1.0,
        "bytes_per_second": ceilings["copy_bytes_per_second"]["median"] if ceilings else NOMINAL_BYTES_PER_SECOND,
    }

    def row(case: Case, number: int) -> dict[str, Any]:
        seed = settings.seed + SEEDS_A_ROW * number
        return measure(case, meter, seed=seed, seconds=settings.seconds, **limits)

    tasks = [Task(case.name, case.labels, functools.partial(row, case), NEEDS) for case in cases]
    code, content = measure_all("operators", tasks, settings, {"floors_from": MEASURED if ceilings else NOMINAL})
    if content["rows"]:
        file = report.result_file(settings.out, "operators", settings.card).with_suffix(".png")
        facts = report.facts(settings.card, settings.commit)
        content["picture"] = report.picture({"facts": facts, **content}, file) or file.name
        print(report.table(content["rows"]))
    return code, content
