"""Acceptance on a card, one stage a command, each within eight minutes.

    python benchmarks/gpu_acceptance.py build        installs the working tree; every operator must have a CUDA kernel
    python benchmarks/gpu_acceptance.py tests        the operator tests on the card
    python benchmarks/gpu_acceptance.py sanitizer    memcheck, racecheck, initcheck, synccheck on a short list
    python benchmarks/gpu_acceptance.py ceilings     copying, reading from L2, launching nothing
    python benchmarks/gpu_acceptance.py operators    every operator against torchvision, results compared first
    python benchmarks/gpu_acceptance.py graphs       whole detectors, captured in CUDA graphs against plain calls

Every stage writes a JSON file with the card's name under benchmarks/results (``--out``), ``operators`` a picture too.
Nothing is downloaded. Exit code: 0 all well, 1 something failed, 2 no CUDA device, 3 the machine lacks or refuses what
the stage needs.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from pathlib import Path

from gpu import report
from gpu.stages import NO_CARD, STAGES, Settings


def card_name() -> tuple[str | None, str]:
    """The device's name, or None and why there is none."""
    try:
        import torch
    except ImportError:
        return None, f"no torch beside {sys.executable}"
    if not torch.cuda.is_available():
        return None, f"torch {torch.__version__} sees no CUDA device"
    return torch.cuda.get_device_name(), ""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of results")
    parser.add_argument("--limit", type=float, default=470.0, help="seconds a stage may take (default 470)")
    parser.add_argument("--commit", help="commit to record where git cannot tell")
    parser.add_argument("--only", default="", help="operators, graphs: rows whose name contains this")
    parser.add_argument("--seconds", type=float, default=5.0, help="operators: sampling time of a row (default 5)")
    parser.add_argument("--seed", type=int, help="operators: of the inputs; drawn and recorded by default")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    card, why_not = card_name()
    if card is None:
        print(f"{options.stage}: no CUDA device: {why_not}; nothing was run", file=sys.stderr)
        return NO_CARD
    settings = Settings(
        out=options.out.resolve(),
        card=card,
        limit=options.limit,
        only=options.only,
        seconds=options.seconds,
        seed=secrets.randbelow(2**31) if options.seed is None else options.seed,
        commit=options.commit,
    )
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    clock = time.monotonic()
    code, content = STAGES[options.stage](settings)
    file = report.result_file(settings.out, options.stage, card)
    took = round(time.monotonic() - clock, 1)
    head = {"stage": options.stage, "exit": code, "started": started, "seconds": took, "seed": settings.seed}
    report.save(file, {**head, "complete": True, "facts": report.facts(card, settings.commit), **content})
    said = content.get("unavailable") or {0: "all well", 1: "FAILED", 3: "not possible here"}[code]
    print(f"{options.stage} on {card}: {said} ({took} s), see {file}")
    return code


if __name__ == "__main__":
    sys.exit(main())
