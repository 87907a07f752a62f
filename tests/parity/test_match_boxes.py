"""match_boxes against torchvision's Matcher on torchvision's box_iou."""

from __future__ import annotations

import pytest
import support
import torch

from fasterrcnn_ops.anchors import grid_anchors
from fasterrcnn_ops.cell_anchors import cell_anchors
from fasterrcnn_ops.matching import match_boxes

torchvision = support.require_torchvision()
from torchvision.models.detection._utils import Matcher  # noqa: E402
from torchvision.ops import box_iou  # noqa: E402

THRESHOLDS = [(0.7, 0.3), (0.5, 0.5), (0.5, 0.0), (0.3, 0.1), (1.0, 1.0)]


def theirs(targets, boxes, high, low, low_quality):
    return Matcher(high, low, low_quality)(box_iou(targets, boxes))


@pytest.mark.parametrize("dtype", support.FULL_DTYPES, ids=support.dtype_id)
@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize(("high", "low"), THRESHOLDS)
@pytest.mark.parametrize("whole", [False, True], ids=["any_coordinates", "whole_pixels"])
def test_random_boxes(dtype, low_quality, high, low, whole):
    """Whole pixels in a small image tie often; of targets far away some overlap nothing, and so take every box."""
    for image, count in ((60, 5), (200, 40), (3000, 40)):
        targets = support.random_boxes(count, image=image, max_side=60, dtype=dtype)
        boxes = support.random_boxes(2000, image=image, max_side=60, dtype=dtype)
        if whole:
            targets, boxes = targets.round(), boxes.round()
        found = match_boxes(targets, boxes, high_threshold=high, low_threshold=low, allow_low_quality=low_quality)
        assert torch.equal(found, theirs(targets, boxes, high, low, low_quality))


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_anchors_of_a_pyramid(low_quality, seed):
    levels = zip((32, 64, 128, 256, 512), ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21)), strict=True)
    anchors = torch.cat(
        [
            grid_anchors(cell_anchors((size,), (0.5, 1.0, 2.0), rule="torchvision"), shape, size // 8)
            for size, shape in levels
        ]
    )
    targets = support.random_boxes(20, max_side=500, generator=torch.Generator().manual_seed(seed))
    found = match_boxes(targets, anchors, high_threshold=0.7, low_threshold=0.3, allow_low_quality=low_quality)
    assert torch.equal(found, theirs(targets, anchors, 0.7, 0.3, low_quality))


def test_boxes_without_area_and_inverted():
    """Where no pair is 0 / 0: neither a target nor a box without area meets another."""
    targets = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20]])
    boxes = torch.tensor([[3.0, 3, 3, 3], [9, 9, 1, 1], [9, 0, 1, 8], [0, 0, 10, 10], [6, 6, 19, 20]])
    for low_quality in (False, True):
        found = match_boxes(targets, boxes, high_threshold=0.5, low_threshold=0.2, allow_low_quality=low_quality)
        assert torch.equal(found, theirs(targets, boxes, 0.5, 0.2, low_quality))


def test_where_we_differ():
    """No targets: they raise. 0 / 0: they match the box to that target."""
    point, box = torch.tensor([[3.0, 3, 3, 3]]), torch.tensor([[0.0, 0, 10, 10]])
    with pytest.raises(ValueError, match="No ground-truth boxes"):
        theirs(box[:0], box, 0.5, 0.5, False)
    assert match_boxes(box[:0], box, high_threshold=0.5, low_threshold=0.5).tolist() == [-1]
    assert theirs(point, point, 0.5, 0.5, False).tolist() == [0]
    assert match_boxes(point, point, high_threshold=0.5, low_threshold=0.5).tolist() == [-1]
