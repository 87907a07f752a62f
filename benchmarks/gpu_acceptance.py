"""Acceptance on a card, one stage a command, each within eight minutes; or several in a row.

    python benchmarks/gpu_acceptance.py build        installs the working tree; every operator must have a CUDA kernel
    python benchmarks/gpu_acceptance.py tests        the operator tests on the card
    python benchmarks/gpu_acceptance.py sanitizer    memcheck, racecheck, initcheck, synccheck on a short list
    python benchmarks/gpu_acceptance.py ceilings     copying, reading from L2, launching nothing
    python benchmarks/gpu_acceptance.py operators    every operator against torchvision, results compared first
    python benchmarks/gpu_acceptance.py models       whole detectors and training steps against torchvision's
    python benchmarks/gpu_acceptance.py compiled     whole detectors under torch.compile; minutes a row
    python benchmarks/gpu_acceptance.py graphs       whole detectors, captured in CUDA graphs against plain calls
    python benchmarks/gpu_acceptance.py goals        which goals the measured rows reach; needs no card
    python benchmarks/gpu_acceptance.py all          build to ceilings in this order, or those of ``--stages a,b``

Everything takes more than ten minutes. These commands take less each:

    python benchmarks/gpu_acceptance.py all
    python benchmarks/gpu_acceptance.py all --stages operators,goals
    python benchmarks/gpu_acceptance.py all --stages models,goals

Results are JSON files with the card's name under benchmarks/results (``--out``), for ``operators`` a picture too: eight
files for all stages. ``operators``, ``models``, ``compiled`` and ``graphs`` save every row at once and go on where an
earlier run of the same commit, card and versions stopped, whose files have to be in ``--out`` for that (``--again``
measures anew); ``--only`` picks rows. ``operators`` takes the ceilings from there as well.

Nothing is downloaded. Exit code: 0 all well, 1 something failed or a goal is missed, 2 no CUDA device, 3 the machine
lacks or refuses what the stage needs, or goals are not measured, 4 no row has the name of ``--only``; of ``all`` the
worst, 1 before 3, and stages without a row of that name do not count as long as another has one.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import time
from pathlib import Path

from gpu import goals, report
from gpu.stages import (
    FAILED,
    NO_CARD,
    NOTHING_OF_THAT_NAME,
    OK,
    PATIENCE,
    STAGES,
    UNAVAILABLE,
    Settings,
    end,
    end_when_asked,
)

STAGE_LIMIT, TOTAL_LIMIT = 470.0, 570.0  # seconds, where none are given
BY_DEFAULT = ("build", "tests", "sanitizer", "ceilings")  # of ``all``
WITH_ROWS = ("operators", "models", "compiled", "graphs")
# How ``all`` shares out its time: a stage gets this part of what is left for it and those after it.
SHARES = {
    "build": 8,
    "tests": 3,
    "sanitizer": 4,
    "ceilings": 1,
    "operators": 8,
    "models": 10,
    "compiled": 10,
    "graphs": 2,
    "goals": 0.2,
}
GRACE = 10.0  # seconds a stage has beyond its limit to write down what it found


def card_name() -> tuple[str | None, str]:
    """The device's name, or None and why there is none."""
    try:
        import torch
    except ImportError:
        return None, f"no torch beside {sys.executable}"
    if not torch.cuda.is_available():
        return None, f"torch {torch.__version__} sees no CUDA device"
    return torch.cuda.get_device_name(), ""


def stage_list(names: str) -> list[str]:
    """``a,b`` → these stages in the order they are to run."""
    asked = [name.strip() for name in names.split(",")]
    unknown = sorted(set(asked) - set(STAGES))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown stages {', '.join(map(repr, unknown))}; known: {', '.join(STAGES)}")
    return [stage for stage in STAGES if stage in asked]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "all"])
    names = ",".join(BY_DEFAULT)
    parser.add_argument("--stages", type=stage_list, help=f"all: these, separated by commas (default {names})")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of results")
    limit = f"seconds a stage may take (default {STAGE_LIMIT:g}); all: seconds for them together ({TOTAL_LIMIT:g})"
    parser.add_argument("--limit", type=float, help=limit)
    parser.add_argument("--commit", help="commit to record where git cannot tell")
    parser.add_argument("--only", default="", help="of stages with rows: those whose name contains this")
    parser.add_argument("--again", action="store_true", help="of stages with rows: also those measured already")
    parser.add_argument("--seconds", type=float, default=5.0, help="operators, models, compiled: sampling of a row (5)")
    parser.add_argument("--seed", type=int, help="operators: of the inputs; drawn and recorded by default")
    options = parser.parse_args(arguments)
    if options.stages and options.stage != "all":
        parser.error("--stages goes with all")
    if options.limit is None:
        options.limit = TOTAL_LIMIT if options.stage == "all" else STAGE_LIMIT
    return options


def main(arguments: list[str] | None = None) -> int:
    began = time.monotonic()  # before torch is imported
    options = parse(arguments)
    card, why_not = card_name()
    if card is None and options.stage != "goals":
        print(f"{options.stage}: no CUDA device: {why_not}; nothing was run", file=sys.stderr)
        return NO_CARD
    if options.stage == "all":
        return run_all(options)
    if card is None:
        return goals_without_card(options)
    return run_one(options.stage, card, options, began)


def run_one(stage: str, card: str, options: argparse.Namespace, began: float) -> int:
    """Runs a stage in this process, saves what it found, returns its exit code; ``began`` is when the process did."""
    settings = Settings(
        out=options.out.resolve(),
        card=card,
        limit=options.limit,
        only=options.only,
        seconds=options.seconds,
        seed=secrets.randbelow(2**31) if options.seed is None else options.seed,
        commit=options.commit,
        again=options.again,
        began=began,
    )
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    clock = time.monotonic()
    code, content = STAGES[stage](settings)
    if code == NOTHING_OF_THAT_NAME:  # an earlier result stays
        print(f"{stage}: {content['error']}", flush=True)
        return code
    file = report.result_file(settings.out, stage, card)
    took = round(time.monotonic() - clock, 1)
    head = {"stage": stage, "exit": code, "started": started, "seconds": took, "seed": settings.seed}
    facts = report.facts(card, settings.commit)
    report.save_stage(file, stage, {**head, "complete": True, "facts": facts, **content})
    said = content.get("unavailable") or {OK: "all well", FAILED: "FAILED", UNAVAILABLE: "not possible here"}[code]
    print(f"{stage} on {card}: {said} ({took} s), see {file}", flush=True)
    return code


def goals_without_card(options: argparse.Namespace) -> int:
    """The goals of every card the results know; of none, where they know none."""
    known = goals.cards(options.out)
    if known:
        return worst([run_one("goals", card, options, time.monotonic()) for card in known])
    print(goals.table(goals.judge(goals.GOALS, {})))
    print(f"goals: {len(goals.GOALS)} goals are not measured: no results of any card in {options.out}")
    return UNAVAILABLE


def run_all(options: argparse.Namespace) -> int:
    """Runs one stage after another, each in a process of its own that cannot take the others with it."""
    stages = options.stages or list(BY_DEFAULT)
    deadline = time.monotonic() + options.limit
    codes = {}
    for place, stage in enumerate(stages):
        left = max(0.0, deadline - time.monotonic())
        limit = left * SHARES[stage] / sum(SHARES[name] for name in stages[place:])
        print(f"=== {stage}: at most {limit:.0f} of {left:.0f} s left", flush=True)
        codes[stage] = run_apart(command(stage, limit, options), limit + GRACE)
    print("all: " + ", ".join(f"{stage} {code}" for stage, code in codes.items()))
    if {codes[stage] for stage in WITH_ROWS if stage in codes} == {NOTHING_OF_THAT_NAME}:
        return FAILED
    return worst(list(codes.values()))


def command(stage: str, limit: float, options: argparse.Namespace) -> list[str]:
    """What runs a stage alone, with the options given to ``all``."""
    words = [sys.executable, __file__, stage, "--limit", f"{limit:.1f}", "--out", str(options.out)]
    words += ["--only", options.only, "--seconds", str(options.seconds)]
    words += ["--again"] if options.again else []
    words += ["--commit", options.commit] if options.commit else []
    return words + (["--seed", str(options.seed)] if options.seed is not None else [])


def run_apart(words: list[str], limit: float) -> int:
    """Exit code of a program that shares this one's output; FAILED if it dies or has to be ended."""
    process = subprocess.Popen(words, start_new_session=True)
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        end(process, PATIENCE)
        print(f"stopped after {limit:.0f} s", flush=True)
        return FAILED
    except BaseException:
        end(process, PATIENCE)
        raise
    return code if code in (OK, FAILED, NO_CARD, UNAVAILABLE, NOTHING_OF_THAT_NAME) else FAILED


def worst(codes: list[int]) -> int:
    """A failure outweighs what could not be done."""
    return next((code for code in (FAILED, NO_CARD, UNAVAILABLE) if code in codes), OK)


if __name__ == "__main__":
    end_when_asked()
    sys.exit(main())
