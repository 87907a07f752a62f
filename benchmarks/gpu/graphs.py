"""The graphs stage: full-size detectors, random weights, plain calls of forward_padded against CudaGraphed.

One image at the size each system works at, padded to a multiple of the stride. Results are compared first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch

import fasterrcnn
from fasterrcnn import CudaGraphed

from .case import DTYPES
from .rows import Task, measure_all
from .stages import Result, Settings

NUM_CLASSES = 20
SHAPES = {
    "classic_vgg16": (1, 608, 800),
    "resnet50_c4_sigmoid": (1, 608, 800),
    "resnet50_c4": (1, 800, 1072),
    "stepwise_vgg16": (1, 800, 800),
}
PRECISIONS = ("float32", "bfloat16")
LEAST_ROUNDS = 5
NEEDS = 20.0  # seconds a row may take; a guess until it is measured


def measure(
    model: fasterrcnn.model.TwoStageDetector,
    shape: tuple[int, int, int],
    wall: Callable[[Callable[[], Any]], float],
    rounds: int = 20,
) -> dict[str, Any]:
    """One row: seconds from the call until the results are there, both ways in turns.

    Args:
        model: In evaluation mode.
        shape: (B, H, W) of the batch and of the graph.
        wall: Seconds that a call takes until the device is idle.
        rounds: Samples of each.

    Raises:
        AssertionError: The results differ.
    """
    batch, height, width = shape
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0)).to(model.device)
    sizes = torch.tensor([[height, width]] * batch, device=model.device)
    graphed = CudaGraphed(model, [shape])
    calls = {
        "plain": torch.no_grad()(lambda: model.forward_padded(images, sizes)),
        "graph": lambda: graphed(images, sizes),
    }
    plain, graph = (call() for call in calls.values())
    torch.testing.assert_close(graph.count, plain.count)
    torch.testing.assert_close(graph.scores, plain.scores, rtol=1e-3, atol=1e-4)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(max(rounds, LEAST_ROUNDS)):
        for name, call in calls.items():
            samples[name].append(wall(call))
    medians = {f"{name}_ms": round(median(taken) * 1e3, 4) for name, taken in samples.items()}
    return {"match": "same counts, scores close", "detections": int(plain.count.sum()), **medians}


@functools.lru_cache(maxsize=1)  # rows of one system follow one another
def built(system: str, device: torch.device, **options: Any) -> fasterrcnn.model.TwoStageDetector:
    torch.manual_seed(0)
    return fasterrcnn.build(system, num_classes=NUM_CLASSES, **options).eval().to(device)


def run_rows(settings: Settings) -> Result:
    """All systems, in float32 and bfloat16."""
    from .timing import Meter

    return measure_systems(SHAPES, Meter(torch.device("cuda")), settings)


def measure_systems(
    shapes: Mapping[str, tuple[int, int, int]], meter: Any, settings: Settings, **options: Any
) -> Result:
    """``run_rows`` of these systems and shapes (B, H, W), built with ``options``."""

    def row(system: str, dtype: str) -> dict[str, Any]:
        fast = built(system, meter.device, **options).optimize_for_inference(dtype=DTYPES[dtype])
        return measure(fast, shapes[system], meter.wall)

    tasks = [
        Task(
            f"{system} {'x'.join(map(str, shape))} {dtype}",
            {"system": system, "shape": list(shape), "dtype": dtype},
            lambda _, system=system, dtype=dtype: row(system, dtype),
            NEEDS,
        )
        for system, shape in shapes.items()
        for dtype in PRECISIONS
    ]
    return measure_all("graphs", tasks, settings, {})
