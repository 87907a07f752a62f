"""match_boxes on the CPU against the reference and torchvision (box_iou, then Matcher)."""

from __future__ import annotations

import cases
import pytest
import torch

from fasterrcnn_ops import cell_anchors, grid_anchors
from fasterrcnn_ops import matching as ours
from fasterrcnn_ops.reference import matching as reference

try:
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou
except ImportError:  # the `rival` fixture skips these runs and says so
    Matcher = box_iou = None

RATIOS = (0.5, 1.0, 2.0)
PYRAMID = tuple(zip((32, 64, 128, 256, 512), ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21)), strict=True))
RPN = {"high_threshold": 0.7, "low_threshold": 0.3, "allow_low_quality": True}
HEAD = {"high_threshold": 0.5, "low_threshold": 0.5, "allow_low_quality": False}


def equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(found, expected)


def anchors(order: str) -> torch.Tensor:
    """268,569 anchors of five levels, as an RPN has them or in no order."""
    levels = [grid_anchors(cell_anchors(s, RATIOS, rule="torchvision"), shape, s / 8) for s, shape in PYRAMID]
    grid = torch.cat(levels)
    return grid if order == "grid" else grid[torch.randperm(len(grid), generator=torch.Generator().manual_seed(0))]


def objects(count: int) -> torch.Tensor:
    """Ground truth with an area, 24 … 384 pixels a side."""
    boxes = cases.rpn_like(4 * count, seed=3)[0]
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes[(sides >= 24).all(dim=1)][:count]


CASES = {
    "20_objects_268569_grid_anchors": lambda: (objects(20), anchors("grid"), RPN),
    "20_objects_268569_scattered_anchors": lambda: (objects(20), anchors("scattered"), RPN),
    "20_objects_2000_proposals": lambda: (objects(20), cases.rpn_like(2000, seed=4)[0], HEAD),
}


@pytest.mark.parametrize("case", CASES)
def test_match_boxes(race, case):
    targets, boxes, rule = CASES[case]()
    assert len(targets) == 20

    def theirs():
        return Matcher(rule["high_threshold"], rule["low_threshold"], rule["allow_low_quality"])(
            box_iou(targets, boxes)
        )

    race(
        f"match_boxes/{case}",
        {
            "ours": lambda: ours.match_boxes(targets, boxes, **rule),
            "reference": lambda: reference.match_boxes(targets, boxes, **rule),
            "torchvision": theirs,
        },
        equal,
    )
