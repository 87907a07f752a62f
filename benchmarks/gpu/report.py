"""Result files: JSON, a table to read, a picture. The card's name is part of every file name."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .arithmetic import CONTENDERS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = "benchmarks/results"
NOT_AVAILABLE = "n/a"
STATES = ("cold", "warm")


def slug(name: str) -> str:
    """``NVIDIA H200`` → ``nvidia_h200``: fit for a file name anywhere."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "unknown"


# Stages that share a file, each under its name, so that a whole run leaves few.
TOGETHER = {"build": "checks", "tests": "checks", "sanitizer": "checks"}


def result_file(folder: Path, stage: str, card: str) -> Path:
    return folder / f"gpu_{slug(card)}_{TOGETHER.get(stage, stage)}.json"


def save_stage(file: Path, stage: str, content: Mapping[str, Any]) -> None:
    """Saves a stage's result: alone, or beside those of the stages it shares the file with."""
    save(file, {**(load(file) or {}), stage: content} if stage in TOGETHER else content)


def said(*command: str, cwd: Path | None = None) -> str | None:
    """What a command prints, or None if it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else None


def commit() -> str:
    """The commit measured, ``-dirty`` if files other than results differ from it; ``unknown`` outside a checkout."""
    name = said("git", "rev-parse", "HEAD", cwd=ROOT)
    # Results are tracked, and change with every row that is saved.
    differing = said("git", "status", "--porcelain", "--untracked-files=no", ".", f":!{RESULTS}", cwd=ROOT)
    if not name or differing is None:
        return "unknown"
    return f"{name}-dirty" if differing else name


def facts(card: str, commit_given: str | None = None) -> dict[str, Any]:
    """What every number depends on."""
    found: dict[str, Any] = {"card": card, "commit": commit_given or commit(), "python": platform.python_version()}
    for package in ("torch", "torchvision", "fasterrcnn-ops"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = NOT_AVAILABLE
    if importlib.util.find_spec("torch"):
        import torch

        found["torch CUDA"] = torch.version.cuda or NOT_AVAILABLE
    driver = said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    found["driver"] = driver.splitlines()[0] if driver else NOT_AVAILABLE
    nvcc = re.search(r"release (\S+),", said("nvcc", "--version") or "")
    found["nvcc"] = nvcc[1] if nvcc else NOT_AVAILABLE
    return found


def save(file: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON so that an interrupted write leaves the old file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(file)


def load(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


# --- the operator table ----------------------------------------------------------------------------------------------


def time_cell(times: Mapping[str, Any], name: str) -> str:
    """``12.3 (11.9–14)``: median and p10–p90 in microseconds."""
    if name not in times:
        return NOT_AVAILABLE
    cell = times[name]
    return f"{cell['median']:.3g} ({cell['p10']:.3g}–{cell['p90']:.3g})"


def ratio_cell(ratio: float | None) -> str:
    return NOT_AVAILABLE if ratio is None else f"{ratio:.1f}×"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: two lines a measured row, cold and warm; one line, with the reason, for a row that was not measured."""
    names = [name.replace("_", " ") for name in CONTENDERS]
    head = ["op", "shape", "dtype", "layout", "state", *(f"{name} µs" for name in names)]
    head += ["GPU ratio", "busy ratio", "wall ratio", "graph ratio", "MB", "floor µs", "% of floor", "match"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        labels = [row["op"], row["shape"], row["dtype"], row["layout"]]
        if "error" in row:
            reason = row["error"].splitlines()[0].replace("|", "/")
            lines.append(f"| {' | '.join([*labels, 'failed', *[NOT_AVAILABLE] * (len(head) - 6), reason])} |")
            continue
        for state in STATES:
            times = row[state]
            cells = [*labels, state, *(time_cell(times, name) for name in CONTENDERS)]
            cells += [ratio_cell(times["ratios"][kind]) for kind in ("gpu", "busy", "wall", "graph")]
            share = row["percent_of_floor"] if state == "cold" else None
            cells += [f"{row['bytes'] / 1e6:.3g}", f"{row['floor_us']:.3g}"]
            cells += [NOT_AVAILABLE if share is None else f"{share:.0f}", row["match"]]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(content: Mapping[str, Any], file: Path) -> str | None:
    """Draws the cold GPU times of all rows, log scale; why not, if it could not."""
    if importlib.util.find_spec("matplotlib") is None:
        return "no picture: matplotlib is not installed"
    rows = [row for row in content["rows"] if "error" not in row]
    if not rows:
        return "no picture: no row was measured"
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Of rivals that wait for the card, the time it was busy.
    bars = {
        "torchvision": ("theirs_busy", "theirs_gpu"),
        "ours": ("ours_gpu",),
        "ours, graph replay": ("ours_graph",),
    }
    figure, axes = pyplot.subplots(figsize=(10, 1.5 + 0.5 * len(rows)), layout="constrained")
    for i, (label, names) in enumerate(bars.items()):
        cells = [next((row["cold"][name] for name in names if name in row["cold"]), None) for row in rows]
        known = [(y, cell) for y, cell in enumerate(cells) if cell is not None]
        medians = [cell["median"] for _, cell in known]
        spread = [
            [cell["median"] - cell["p10"] for _, cell in known],
            [cell["p90"] - cell["median"] for _, cell in known],
        ]
        axes.barh([y + 0.27 * (i - 1) for y, _ in known], medians, 0.25, xerr=spread, label=label)
    axes.scatter([row["floor_us"] for row in rows], range(len(rows)), marker="|", s=250, color="black", label="floor")
    names = [f"{row['op']} {row['shape']}\n{row['dtype']} {row['layout']}" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("GPU time of one call, cold caches, µs: median, p10 to p90")
    known = content["facts"]
    axes.set_title(
        f"{known['card']}, torch {known['torch']}, torchvision {known['torchvision']}, {known['commit'][:12]}"
    )
    axes.legend(loc="best")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return None
