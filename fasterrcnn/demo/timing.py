"""Operators against their references: the same calls, checked for equal results, timed side by side."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import fasterrcnn_ops

# operator -> module of fasterrcnn_ops.reference that defines it
REFERENCES = {
    "nms": "nms",
    "batched_nms": "nms",
    "nms_padded": "nms",
    "roi_pool": "roi_pool",
    "roi_align": "roi_align",
    "grid_anchors": "anchors",
    "encode_boxes": "box_coder",
    "decode_boxes": "box_coder",
    "box_iou": "boxes",
}


@dataclass(frozen=True)
class Timing:
    """An operator beside its reference.

    Attributes:
        operator: name.
        case: sizes in words.
        ours_ms, reference_ms: medians in milliseconds.
        difference: largest difference of their results; infinite where they disagree by more than rounding.
    """

    operator: str
    case: str
    ours_ms: float
    reference_ms: float
    difference: float


def time_operators(seed: int = 0) -> list[Timing]:
    """Time every operator on one realistic case; a few seconds in all."""
    generator = torch.Generator().manual_seed(seed)
    boxes = _boxes(generator, 1000, 800.0)
    scores = torch.rand(1000, generator=generator)
    classes = torch.randint(1, 21, (1000,), generator=generator)
    features = torch.randn(1, 128, 38, 50, generator=generator)
    rois = torch.cat((torch.zeros(16, 1), _boxes(generator, 16, 600.0)), dim=1)
    cells = fasterrcnn_ops.cell_anchors((128, 256, 512), (0.5, 1, 2))
    anchors = fasterrcnn_ops.grid_anchors(cells, (38, 50), 16)
    deltas = 0.2 * torch.randn(len(anchors), 4, generator=generator)
    cases: list[tuple[str, str, tuple[Any, ...], dict[str, Any]]] = [
        ("nms", "1,000 boxes", (boxes, scores, 0.7), {}),
        ("batched_nms", "1,000 boxes, 20 classes", (boxes, scores, classes, 0.5), {}),
        ("nms_padded", "1,000 boxes, at most 300", (boxes, scores), {"iou_threshold": 0.7, "max_output": 300}),
        ("roi_pool", "16 RoIs, 128×38×50, 7×7", (features, rois, 7, 1 / 16), {}),
        ("roi_align", "16 RoIs, 128×38×50, 7×7", (features, rois, 7, 1 / 16, 2), {}),
        ("grid_anchors", "38×50, 9 each", (cells, (38, 50), 16), {}),
        ("encode_boxes", f"{len(anchors):,} boxes", (anchors + 3, anchors), {}),
        ("decode_boxes", f"{len(anchors):,} boxes", (deltas, anchors), {"image_size": (600, 800)}),
        ("box_iou", f"{len(anchors):,} × 50 boxes", (anchors, boxes[:50]), {}),
    ]
    return [_time(*case) for case in cases if case[0] in REFERENCES]


def reference(name: str) -> Callable[..., Any]:
    """The plain PyTorch definition of an operator."""
    return getattr(importlib.import_module(f"fasterrcnn_ops.reference.{REFERENCES[name]}"), name)


def _time(name: str, case: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Timing:
    ours, theirs = getattr(fasterrcnn_ops, name), reference(name)
    difference = _difference(ours(*args, **kwargs), theirs(*args, **kwargs))
    # Interleaved, so that a busy machine slows both alike. A slow reference is timed once.
    ours_ms, theirs_ms, deadline = [], [], time.perf_counter() + 0.3
    while not theirs_ms or (time.perf_counter() < deadline and len(theirs_ms) < 30):
        theirs_ms.append(_milliseconds(lambda: theirs(*args, **kwargs)))
        ours_ms += [_milliseconds(lambda: ours(*args, **kwargs)) for _ in range(3)]
    return Timing(name, case, _median(ours_ms), _median(theirs_ms), difference)


def _difference(ours: Any, theirs: Any) -> float:
    """Largest difference of two results; infinite where they disagree by more than rounding."""
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
    worst = 0.0
    for mine, other in pairs:
        if mine.shape != other.shape:
            return math.inf
        if not mine.is_floating_point():
            worst = max(worst, 0.0 if torch.equal(mine, other) else math.inf)
        elif mine.numel():
            agree = torch.allclose(mine, other.to(mine.dtype), rtol=1e-4, atol=1e-4)
            worst = max(worst, float((mine - other).abs().max()) if agree else math.inf)
    return worst


def _milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _boxes(generator: torch.Generator, count: int, extent: float) -> torch.Tensor:
    corner = torch.rand(count, 2, generator=generator) * extent * 0.8
    return torch.cat((corner, corner + 16 + torch.rand(count, 2, generator=generator) * extent * 0.2), dim=1)
