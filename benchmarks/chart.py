"""A saved comparison as a bar chart: how many times longer each rival takes than ours."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

RIVALS = ("torchvision", "reference")
COLOURS = {"torchvision": "#c44e52", "reference": "#b8b8b8"}


def ratios(median_seconds: dict[str, dict[str, float]], rival: str) -> dict[str, float]:
    """A rival's time divided by ours, for the cases it took part in, sorted by name."""
    return {case: times[rival] / times["ours"] for case, times in sorted(median_seconds.items()) if rival in times}


def draw(saved: dict[str, Any], file: Path, rival: str = "torchvision") -> None:
    """Writes the chart of one rival as PNG.

    Args:
        saved: ``machine`` (facts by name) and ``median_seconds`` (case → contestant → seconds), as the benchmarks save
            them.
        file: The PNG.
        rival: "torchvision" or "reference".

    Raises:
        ValueError: The rival took part in no case.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = ratios(saved["median_seconds"], rival)
    if not found:
        raise ValueError(f"{rival} took part in no case: is it installed where the benchmarks ran?")
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.26 * len(found)), layout="constrained")
    bars = axes.barh(list(found), list(found.values()), color=COLOURS[rival])
    axes.bar_label(bars, [f"{ratio:.3g}×" for ratio in found.values()], padding=3, fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(min(0.5, *found.values()), max(found.values()) * 10 ** (0.12 * math.log10(max(found.values()) + 10)))
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel(f"time of {rival} ÷ our time (1: equally fast)")
    axes.set_title(", ".join(f"{name} {value}" for name, value in saved["machine"].items()), fontsize=8, loc="left")
    figure.savefig(file, dpi=100)
    plt.close(figure)


def draw_file(file: Path, rival: str = "torchvision") -> Path:
    """The chart of a saved JSON file, next to it."""
    picture = file.with_suffix(".png")
    draw(json.loads(file.read_text()), picture, rival)
    return picture
