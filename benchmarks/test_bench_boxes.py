"""box_iou, forward and with its gradient, on the CPU against the reference and torchvision."""

from __future__ import annotations

import cases
import pytest
import torch

from fasterrcnn_ops import boxes as ours
from fasterrcnn_ops.reference import boxes as reference

try:
    import torchvision.ops as torchvision_ops
except ImportError:  # the `rival` fixture skips these runs and says so
    torchvision_ops = None


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(20, 20), (20, 2000), (20, 268_569), (1000, 1000)],
    ids=["20_objects_20_boxes", "20_objects_2000_proposals", "20_objects_268569_anchors", "1000x1000"],
)
def test_box_iou(race, rows, columns):
    boxes1, boxes2 = cases.rpn_like(rows, seed=1)[0], cases.rpn_like(columns, seed=2)[0]
    race(
        f"box_iou/{rows}x{columns}",
        {
            "ours": lambda: ours.box_iou(boxes1, boxes2),
            "reference": lambda: reference.box_iou(boxes1, boxes2),
            "torchvision": lambda: torchvision_ops.box_iou(boxes1, boxes2),
        },
        close,
    )


def test_box_iou_with_gradient(race):
    boxes1 = cases.rpn_like(500, seed=1)[0]
    boxes2 = cases.rpn_like(500, seed=2)[0] + 0.3  # no edges shared, where conventions of the gradient differ
    boxes1 = torch.cat((boxes1[:, :2], boxes1[:, 2:] + 1), dim=1).requires_grad_()

    def gradient(box_iou):
        return lambda: torch.autograd.grad(box_iou(boxes1, boxes2).sum(), boxes1)[0]

    race(
        "box_iou_with_gradient/500x500",
        {
            "ours": gradient(ours.box_iou),
            "reference": gradient(reference.box_iou),
            "torchvision": gradient(torchvision_ops.box_iou if torchvision_ops else None),
        },
        close,
    )
