"""Soft-NMS on the CPU against the reference; torchvision has no such operator."""

from __future__ import annotations

import cases
import pytest
import torch

import fasterrcnn_ops
from fasterrcnn_ops.reference import soft_nms as reference


def same_selection(found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert found[0].tolist() == expected[0].tolist()
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("n", [200, 1000, 4000])
def test_soft_nms(race, n, method):
    """The detections of one class."""
    boxes, scores = cases.rpn_like(n)
    race(
        f"soft_nms/{method}_{n}",
        {
            "ours": lambda: fasterrcnn_ops.soft_nms(boxes, scores, method=method),
            "reference": lambda: reference.soft_nms(boxes, scores, method=method),
        },
        same_selection,
    )
