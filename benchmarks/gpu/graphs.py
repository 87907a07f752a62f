"""Full-size detectors on a card, random weights: plain calls of forward_padded against CudaGraphed.

One image at the size each system works at, padded to a multiple of the stride. Results are compared first.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch

import fasterrcnn
from fasterrcnn import CudaGraphed

NUM_CLASSES = 20
SHAPES = {
    "classic_vgg16": (1, 608, 800),
    "resnet50_c4_sigmoid": (1, 608, 800),
    "resnet50_c4": (1, 800, 1072),
    "stepwise_vgg16": (1, 800, 800),
}
LEAST_ROUNDS = 5


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
    return {"shape": list(shape), "detections": int(plain.count.sum()), **medians}


def run(only: str = "") -> list[dict[str, Any]]:
    """The rows of all systems whose name contains ``only``, in float32 and bfloat16."""
    from .timing import Meter

    meter = Meter(torch.device("cuda"))
    rows = []
    for system, shape in SHAPES.items():
        if only not in system:
            continue
        torch.manual_seed(0)
        model = fasterrcnn.build(system, num_classes=NUM_CLASSES).eval().cuda()
        for dtype in (torch.float32, torch.bfloat16):
            fast = model.optimize_for_inference(dtype=dtype)
            name = str(dtype).removeprefix("torch.")
            rows.append({"system": system, "dtype": name, **measure(fast, shape, meter.wall)})
    return rows
