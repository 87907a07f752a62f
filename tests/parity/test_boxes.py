"""Box geometry against torchvision.ops."""

from __future__ import annotations

import math

import pytest
import support
import torch

from fasterrcnn_ops import boxes as ours

torchvision = support.require_torchvision()
theirs = torchvision.ops

FORMATS = ("xyxy", "xywh", "cxcywh")
MEASURES = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
DTYPES = (torch.float16, torch.float32, torch.float64, torch.int32, torch.int64)
over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=support.dtype_id)
over_measures = pytest.mark.parametrize("measure", MEASURES)

AWKWARD = torch.tensor(
    [
        [1.0, 1, 1, 1],
        [1, 1, 1, 5],
        [5, 5, 1, 1],
        [5, 1, 1, 5],
        [0, 0, 4, 4],
        [0, 0, 4, 4],
        [math.nan, 0, 4, 4],
        [0, 0, 4, math.nan],
        [0, 0, math.inf, 4],
        [-math.inf, -math.inf, math.inf, math.inf],
        [-1e30, -1e30, 1e30, 1e30],
        [-0.0, 0.0, -0.0, 0.0],
        [0, 0, 1e-30, 1e-30],
    ]
)


def boxes_of(count: int, dtype: torch.dtype):
    """Many overlapping pairs; whole coordinates, which float16 holds and differences keep."""
    return support.random_boxes(count, image=100, max_side=200, dtype=torch.float64).round().to(dtype)


@over_dtypes
@over_measures
def test_measures(measure, dtype):
    boxes1, boxes2 = boxes_of(300, dtype), boxes_of(500, dtype)
    support.assert_close(getattr(ours, measure)(boxes1, boxes2), getattr(theirs, measure)(boxes1, boxes2))


@pytest.mark.parametrize("dtype", support.FULL_DTYPES, ids=support.dtype_id)
@pytest.mark.parametrize("seed", range(20))
def test_iou_has_the_same_bits(dtype, seed):
    torch.manual_seed(seed)
    boxes1 = torch.cat((support.random_boxes(100, dtype=dtype), AWKWARD.to(dtype)))
    boxes2 = torch.cat((support.random_boxes(100, dtype=dtype), AWKWARD.to(dtype)))
    actual, expected = ours.box_iou(boxes1, boxes2), theirs.box_iou(boxes1, boxes2)
    support.assert_close(actual, expected, rtol=0, atol=0)


@over_measures
def test_measures_of_awkward_boxes(measure):
    support.assert_close(getattr(ours, measure)(AWKWARD, AWKWARD), getattr(theirs, measure)(AWKWARD, AWKWARD))


@over_measures
def test_gradients(measure):
    boxes1, boxes2 = boxes_of(60, torch.float64), boxes_of(50, torch.float64)
    boxes2 = torch.cat((boxes2, boxes1[:10])).requires_grad_()  # edges that coincide
    boxes1.requires_grad_()
    grad = torch.randn(60, 60, dtype=torch.float64)
    inner = torch.minimum(boxes1[:, None, 2:], boxes2[:, 2:]) - torch.maximum(boxes1[:, None, :2], boxes2[:, :2])
    grad[(inner == 0).any(-1)] = 0  # boxes that only touch: torchvision's gradient changed with torch 2.14's clamp
    actual = torch.autograd.grad(getattr(ours, measure)(boxes1, boxes2), (boxes1, boxes2), grad)
    expected = torch.autograd.grad(getattr(theirs, measure)(boxes1, boxes2), (boxes1, boxes2), grad)
    for a, b in zip(actual, expected, strict=True):
        support.assert_close(a, b)


@over_dtypes
@pytest.mark.parametrize("fmt", FORMATS)
def test_formats(fmt, dtype):
    boxes1, boxes2 = boxes_of(40, dtype), boxes_of(50, dtype)
    support.assert_close(ours.box_area(boxes1, fmt), theirs.box_area(boxes1, fmt), rtol=0, atol=0)
    support.assert_close(ours.box_iou(boxes1, boxes2, fmt), theirs.box_iou(boxes1, boxes2, fmt))
    for out_fmt in FORMATS:
        actual, expected = ours.box_convert(boxes1, fmt, out_fmt), theirs.box_convert(boxes1, fmt, out_fmt)
        support.assert_close(actual, expected, rtol=0, atol=0)


@over_dtypes
def test_clip_and_remove_small(dtype):
    boxes = boxes_of(400, dtype) - 50
    support.assert_close(
        ours.clip_boxes_to_image(boxes, (60, 80)), theirs.clip_boxes_to_image(boxes, (60, 80)), rtol=0, atol=0
    )
    for min_size in (0, 1, 40, 40.5):
        assert torch.equal(ours.remove_small_boxes(boxes, min_size), theirs.remove_small_boxes(boxes, min_size))


def test_clip_and_remove_small_of_awkward_boxes():
    actual, expected = ours.clip_boxes_to_image(AWKWARD, (3, 2)), theirs.clip_boxes_to_image(AWKWARD, (3, 2))
    support.assert_close(actual, expected, rtol=0, atol=0)
    assert torch.equal(ours.remove_small_boxes(AWKWARD, 1.0), theirs.remove_small_boxes(AWKWARD, 1.0))


def test_leading_dimensions():
    boxes1, boxes2 = boxes_of(24, torch.float32).reshape(2, 3, 4, 4), boxes_of(15, torch.float32).reshape(3, 5, 4)
    for measure in MEASURES:
        support.assert_close(getattr(ours, measure)(boxes1, boxes2), getattr(theirs, measure)(boxes1, boxes2))
