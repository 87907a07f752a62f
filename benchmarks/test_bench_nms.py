"""NMS on the CPU against the reference and torchvision (which has no padded form; there its full nms is cut)."""

from __future__ import annotations

import cases
import pytest
import torch

import fasterrcnn_ops
from fasterrcnn_ops.reference import nms as reference

try:
    import torchvision.ops as torchvision_ops
except ImportError:  # the `rival` fixture skips these runs and says so
    torchvision_ops = None


def same_indices(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("scene", "n", "threshold"),
    [("rpn", n, 0.7) for n in (200, 1000, 2000, 6000, 12000, 30000)] + [("rpn", 1000, 0.5), ("scattered", 6000, 0.5)],
    ids=lambda value: str(value),
)
def test_nms(race, scene, n, threshold):
    boxes, scores = {"rpn": cases.rpn_like, "scattered": cases.scattered}[scene](n)
    race(
        f"nms/{scene}_{n}_at_{threshold}",
        {
            "ours": lambda: fasterrcnn_ops.nms(boxes, scores, threshold),
            "reference": lambda: reference.nms(boxes, scores, threshold),
            "torchvision": lambda: torchvision_ops.nms(boxes, scores, threshold),
        },
        same_indices,
    )


@pytest.mark.parametrize(("n", "classes"), [(1000, 80), (4000, 80), (8000, 80), (1000, 5)])
def test_batched_nms(race, n, classes):
    """Coordinates are positive and ids small, where torchvision's shifted boxes still decide as exact ids do."""
    boxes, scores, labels = cases.detections_like(n, classes)
    race(
        f"batched_nms/{n}_boxes_{classes}_classes",
        {
            "ours": lambda: fasterrcnn_ops.batched_nms(boxes, scores, labels, 0.5),
            "reference": lambda: reference.batched_nms(boxes, scores, labels, 0.5),
            "torchvision": lambda: torchvision_ops.batched_nms(boxes, scores, labels, 0.5),
        },
        same_indices,
    )


@pytest.mark.parametrize(("n", "max_output"), [(6000, 300), (6000, 1000), (12000, 2000)])
def test_nms_padded(race, n, max_output):
    """The RPN's use, stopping at the best `max_output` proposals."""
    boxes, scores = cases.rpn_like(n)

    def first(padded: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        keep, count = padded
        return keep[: int(count)]

    race(
        f"nms_padded/rpn_{n}_to_{max_output}",
        {
            "ours": lambda: first(fasterrcnn_ops.nms_padded(boxes, scores, iou_threshold=0.7, max_output=max_output)),
            "reference": lambda: first(reference.nms_padded(boxes, scores, iou_threshold=0.7, max_output=max_output)),
            "torchvision": lambda: torchvision_ops.nms(boxes, scores, 0.7)[:max_output],
        },
        same_indices,
    )
