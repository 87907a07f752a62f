"""Times every operator against its rivals, in turns, results compared first; prints a table, saves JSON and a chart.

    python benchmarks/report.py                  all operators, one thread
    python benchmarks/report.py --threads 2 -k roi_align
    python benchmarks/report.py --show benchmarks/results/cpu_1_thread.json

Ratios are a rival's median divided by ours: 3.0 means ours takes a third of the time. Run it where torchvision is
installed; without it that column is empty.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import chart
import pytest

FOLDER = Path(__file__).parent
ALWAYS = ("torchvision", "reference")
RIVALS = (*ALWAYS, "powerboxes", "powerboxes_rtree", "opencv")  # the last three on NumPy arrays


def duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def table(groups: dict[str, dict[str, float]]) -> str:
    rivals = [name for name in RIVALS if name in ALWAYS or any(name in medians for medians in groups.values())]
    lines = [f"| case | ours | {' | '.join(rivals)} |", "|---|---:|" + "---:|" * len(rivals)]
    for group, medians in sorted(groups.items()):
        ratios = [f"{medians[rival] / medians['ours']:.1f}×" if rival in medians else "–" for rival in rivals]
        lines.append(f"| `{group}` | {duration(medians['ours'])} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each case is timed (default 3)")
    parser.add_argument("-k", default="", help="only benchmarks whose names match, as pytest's -k")
    parser.add_argument("--out", type=Path, help="JSON file (default benchmarks/results/cpu_<threads>_thread.json)")
    parser.add_argument("--show", type=Path, help="print the table of a saved file and time nothing")
    options = parser.parse_args()

    file = options.show or options.out or FOLDER / "results" / f"cpu_{options.threads}_thread.json"
    if options.show is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        arguments = [
            str(FOLDER),
            "-q",
            f"--threads={options.threads}",
            f"--seconds={options.seconds}",
            f"--interleaved={file}",
            "-k",
            options.k,
        ]
        code = pytest.main([*arguments, "--benchmark-disable-gc", "--benchmark-quiet", "-p", "no:cacheprovider"])
        if code != 0:
            return int(code)
    saved = json.loads(file.read_text())
    print(", ".join(f"{name} {value}" for name, value in saved["machine"].items()))
    print(table(saved["median_seconds"]))
    if options.show is None:
        rivals = [rival for rival in chart.RIVALS if chart.ratios(saved["median_seconds"], rival)]
        if rivals:
            print(f"saved {file} and {chart.draw_file(file, rivals[0])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
