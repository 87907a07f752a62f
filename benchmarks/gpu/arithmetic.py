"""What a row of the operator table says, computed from samples; no card, no torch.

Times are seconds inside, microseconds in rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Box pairs a card can test in a second at best: a dozen fp32 operations a pair on 132 multiprocessors. An estimate.
PAIRS_PER_SECOND = 2e12
# Device memory of an H200, read and written; used where the ceilings of the card at hand have not been measured.
NOMINAL_BYTES_PER_SECOND = 4.3e12
CONTENDERS = ("theirs_gpu", "theirs_busy", "theirs_wall", "theirs_graph", "ours_gpu", "ours_wall", "ours_graph")


def percentile(samples: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 … 1) of the samples lie, interpolated between neighbours.

    Raises:
        ValueError: no samples, or ``share`` outside [0, 1].
    """
    if not samples or not 0 <= share <= 1:
        raise ValueError(f"percentile {share} of {len(samples)} samples")
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Seconds → median, p10 and p90 in microseconds, and the number of samples."""
    return {
        "median": percentile(samples, 0.5) * 1e6,
        "p10": percentile(samples, 0.1) * 1e6,
        "p90": percentile(samples, 0.9) * 1e6,
        "samples": len(samples),
    }


def floor_us(
    least_bytes: int, pairs: int = 0, launch_us: float = 1.0, bytes_per_second: float = NOMINAL_BYTES_PER_SECOND
) -> float:
    """Microseconds nobody can beat: memory traffic, box pairs or one launch, whichever takes longest."""
    return max(least_bytes / bytes_per_second * 1e6, pairs / PAIRS_PER_SECOND * 1e6, launch_us)


def ratios(times: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """Their median over ours, for GPU time, wall time and graph replay; None where one side is missing.

    ``busy`` is the time the card worked for them over our GPU time, in which gaps count.
    """

    def ratio(theirs: str, ours: str) -> float | None:
        if theirs not in times or ours not in times:
            return None
        return times[theirs]["median"] / times[ours]["median"]

    same_kind = {kind: ratio(f"theirs_{kind}", f"ours_{kind}") for kind in ("gpu", "wall", "graph")}
    return {**same_kind, "busy": ratio("theirs_busy", "ours_gpu")}


def busy_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds during which something ran, of spans (start, end) in microseconds; where some overlap, once."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total * 1e-6


def finish_row(
    labels: Mapping[str, Any],
    samples: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    least_bytes: int,
    pairs: int,
    launch_us: float,
    bytes_per_second: float,
) -> dict[str, Any]:
    """One row of the table, ready for JSON.

    Args:
        labels: op, shape, dtype, layout, match and whatever else describes the row.
        samples: ``cold`` and ``warm`` → contender (``CONTENDERS``) → seconds of each sample; a contender that could
            not run is left out.
        least_bytes: bytes read once plus bytes written once.
        pairs: box pairs to be compared, 0 if none.
        launch_us: microseconds of an empty launch.
        bytes_per_second: device memory traffic at best.
    """
    row: dict[str, Any] = dict(labels)
    for state, contenders in samples.items():
        row[state] = {name: summary(taken) for name, taken in contenders.items() if taken}
        row[state]["ratios"] = ratios(row[state])
    row["bytes"] = least_bytes
    row["pairs"] = pairs
    row["floor_us"] = floor_us(least_bytes, pairs, launch_us, bytes_per_second)
    best = row.get("cold", {}).get("ours_gpu")
    row["percent_of_floor"] = 100 * row["floor_us"] / best["median"] if best else None
    return row
