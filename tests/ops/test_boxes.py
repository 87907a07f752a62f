"""Box geometry composed of torch operations; box_iou, which has a kernel, is in test_box_iou.py."""

from __future__ import annotations

import math

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasterrcnn_ops import boxes as ours
from fasterrcnn_ops.boxes import (
    box_area,
    box_convert,
    box_iou,
    clip_boxes_to_image,
    complete_box_iou,
    distance_box_iou,
    generalized_box_iou,
    remove_small_boxes,
)
from fasterrcnn_ops.reference import boxes as ref

FORMATS = ("xyxy", "xywh", "cxcywh")
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
ALL_DTYPES = support.FLOAT_DTYPES + INTEGERS
MEASURES = ("generalized_box_iou", "distance_box_iou", "complete_box_iou")
over_dtypes = pytest.mark.parametrize("dtype", ALL_DTYPES, ids=support.dtype_id)
over_layouts = pytest.mark.parametrize("layout", support.LAYOUTS)
over_measures = pytest.mark.parametrize("measure", MEASURES)


def whole_boxes(count: int, dtype=torch.float32, device="cpu", generator=None):
    """Boxes with whole coordinates up to 60, so that every dtype holds them and their sums exactly."""
    return (
        support.random_boxes(count, image=30, min_side=1, max_side=30, dtype=torch.float64, generator=generator)
        .round()
        .to(device=device, dtype=dtype)
    )


# ---------------------------------------------------------------------------------------------------------------------
# Hand-computed


@pytest.mark.parametrize(("fmt", "area"), [("xyxy", 6.0), ("xywh", 20.0), ("cxcywh", 20.0)])
def test_area_by_hand(device, fmt, area):
    assert box_area(torch.tensor([[1.0, 3.0, 4.0, 5.0]], device=device), fmt).tolist() == [area]


SAME_BOX = {"xyxy": [10.0, 20, 30, 60], "xywh": [10.0, 20, 20, 40], "cxcywh": [20.0, 40, 20, 40]}


@pytest.mark.parametrize("in_fmt", FORMATS)
@pytest.mark.parametrize("out_fmt", FORMATS)
def test_convert_by_hand(device, in_fmt, out_fmt):
    box = torch.tensor([SAME_BOX[in_fmt]], device=device)
    converted = box_convert(box, in_fmt, out_fmt)
    assert converted.tolist() == [SAME_BOX[out_fmt]]
    assert converted.data_ptr() != box.data_ptr()


def test_clip_by_hand(device):
    boxes = torch.tensor([[-5.0, 10, 50, 90], [1, 2, 3, 4], [100, -9, 200, -1]], device=device)
    assert clip_boxes_to_image(boxes, (60, 40)).tolist() == [[0, 10, 40, 60], [1, 2, 3, 4], [40, 0, 40, 0]]
    assert boxes[0, 0] == -5  # a new tensor


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int64])
def test_clip_of_integers_keeps_the_dtype(dtype):
    boxes = torch.tensor([[10, 20, 120, 100]], dtype=dtype)
    clipped = clip_boxes_to_image(boxes, (60.5, 300))  # 300 is beyond the narrow dtypes
    assert clipped.dtype == dtype
    assert clipped.tolist() == [[10, 20, 120, 60]]


def test_remove_small_by_hand(device):
    boxes = torch.tensor([[0.0, 0, 2, 9], [0, 0, 1.5, 9], [0, 0, 9, 2], [0, 0, 9, 1], [5, 5, 1, 1]], device=device)
    assert remove_small_boxes(boxes, 2.0).tolist() == [0, 2]  # a side of exactly 2 stays


def test_measures_by_hand(device):
    # 4 × 4 and 4 × 2 boxes side by side: hull 8 × 4, union 24, centres (2, 2) and (6, 1)
    first = torch.tensor([[0.0, 0, 4, 4]], device=device)
    second = torch.tensor([[4.0, 0, 8, 2]], device=device)
    generalized, distance = -(32 - 24) / 32, -(16 + 1) / (64 + 16)
    v = 4 / math.pi**2 * (math.atan(1) - math.atan(2)) ** 2
    for measure, expected in zip(MEASURES, (generalized, distance, distance - v * v / (1 + v)), strict=True):
        iou = getattr(ours, measure)(first, second)
        support.assert_close(iou, torch.tensor([[expected]], device=device))


# ---------------------------------------------------------------------------------------------------------------------
# Against the reference


@over_layouts
@over_dtypes
@pytest.mark.parametrize("leading", [(1,), (50,), (2, 3)])
def test_rowwise_functions_equal_reference(device, dtype, layout, leading):
    values = whole_boxes(math.prod(leading), dtype, device).reshape(*leading, 4)
    values = support.LAYOUTS[layout](values)
    for fmt in FORMATS:
        support.assert_close(box_area(values, fmt), ref.box_area(values, fmt))
        for out_fmt in FORMATS:
            support.assert_close(box_convert(values, fmt, out_fmt), ref.box_convert(values, fmt, out_fmt))
    clipped = clip_boxes_to_image(values, (40, 25))
    support.assert_close(clipped, ref.clip_boxes_to_image(values, (40, 25)), rtol=0, atol=0)
    if len(leading) == 1:
        assert torch.equal(remove_small_boxes(values, 10), ref.remove_small_boxes(values, 10))


@over_measures
@over_layouts
@over_dtypes
def test_measures_equal_reference(device, dtype, layout, measure):
    boxes1 = support.LAYOUTS[layout](whole_boxes(20, dtype, device))
    boxes2 = support.LAYOUTS[layout](whole_boxes(30, dtype, device))
    actual, expected = getattr(ours, measure)(boxes1, boxes2), getattr(ref, measure)(boxes1, boxes2)
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    support.assert_close(actual, expected)
    batched = getattr(ours, measure)(boxes1.reshape(4, 5, 4), boxes2.reshape(1, 30, 4))
    support.assert_close(batched.reshape(20, 30), expected)


# ---------------------------------------------------------------------------------------------------------------------
# Invariants

boxes_of_floats = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4), max_size=8).map(
    lambda rows: torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
)


@given(boxes_of_floats, st.sampled_from(FORMATS), st.sampled_from(FORMATS))
def test_convert_and_back(boxes, in_fmt, out_fmt):
    again = box_convert(box_convert(boxes, in_fmt, out_fmt), out_fmt, in_fmt)
    torch.testing.assert_close(again, boxes, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        box_area(box_convert(boxes, in_fmt, "xywh"), "xywh"), box_area(boxes, in_fmt), rtol=1e-9, atol=1e-6
    )


@given(boxes_of_floats, st.integers(0, 1000), st.integers(0, 1000))
def test_clip_is_inside_and_idempotent(boxes, height, width):
    clipped = clip_boxes_to_image(boxes, (height, width))
    limit = torch.tensor([width, height, width, height])
    assert ((clipped >= 0) & (clipped <= limit)).all()
    assert torch.equal(clip_boxes_to_image(clipped, (height, width)), clipped)
    inside = (boxes >= 0) & (boxes <= limit)
    assert torch.equal(clipped[inside], boxes[inside])


@given(boxes_of_floats, st.floats(0, 100))
def test_remove_small_keeps_exactly_the_large(boxes, min_size):
    keep = set(remove_small_boxes(boxes, min_size).tolist())
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        assert (i in keep) == (x2 - x1 >= min_size and y2 - y1 >= min_size)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(0, 10))
def test_measures_are_ordered_and_bounded(seed, count):
    generator = torch.Generator().manual_seed(seed)
    boxes1, boxes2 = (whole_boxes(count, torch.float64, generator=generator) for _ in range(2))
    iou = box_iou(boxes1, boxes2)
    generalized, distance, complete = (getattr(ours, measure)(boxes1, boxes2) for measure in MEASURES)
    for penalised in (generalized, distance, complete):
        assert (penalised <= iou + 1e-12).all()
    assert (complete <= distance + 1e-12).all()
    assert (generalized >= -1).all()
    assert (distance >= -1).all()
    for measure in MEASURES:
        own = getattr(ours, measure)(boxes1, boxes1).diagonal()
        torch.testing.assert_close(own, torch.ones_like(own))
        mirrored = getattr(ours, measure)(boxes2, boxes1).T
        torch.testing.assert_close(mirrored, getattr(ours, measure)(boxes1, boxes2))


# ---------------------------------------------------------------------------------------------------------------------
# Edges


def test_empty(device):
    none = torch.zeros(0, 4, device=device)
    some = torch.ones(3, 4, device=device)
    assert box_area(none).shape == (0,)
    assert box_convert(none, "xyxy", "cxcywh").shape == (0, 4)
    assert clip_boxes_to_image(none, (5, 5)).shape == (0, 4)
    keep = remove_small_boxes(none, 1.0)
    assert keep.shape == (0,)
    assert keep.dtype == torch.int64
    for measure in MEASURES:
        assert getattr(ours, measure)(none, some).shape == (0, 3)
        assert getattr(ours, measure)(some, none).shape == (3, 0)


def test_nan_and_inf(device):
    boxes = torch.tensor([[math.nan, 5, 70, 80], [-math.inf, -math.inf, math.inf, math.inf]], device=device)
    clipped = clip_boxes_to_image(boxes, (60, 40))
    assert clipped[0].isnan().tolist() == [True, False, False, False]
    assert clipped[:, 1:].tolist() == [[5, 40, 60], [0, 40, 60]]
    assert remove_small_boxes(boxes, 1.0).tolist() == [1]
    support.assert_close(box_area(boxes), torch.tensor([math.nan, math.inf], device=device))
    for measure in MEASURES:
        assert getattr(ours, measure)(boxes, boxes)[0].isnan().all()


def test_boxes_without_area_and_inverted(device):
    boxes = torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 9], [9, 9, 3, 3], [9, 3, 3, 9]], device=device)
    assert box_area(boxes).tolist() == [0, 0, 36, -36]
    for measure in MEASURES:
        actual, expected = getattr(ours, measure)(boxes, boxes), getattr(ref, measure)(boxes, boxes)
        support.assert_close(actual, expected, rtol=1e-4)
        assert actual[0, 0].isnan()  # 0 / 0


@pytest.mark.parametrize("dtype", INTEGERS, ids=support.dtype_id)
def test_integers_stay_integers(device, dtype):
    boxes = torch.tensor([[1, 2, 100, 90]], dtype=dtype, device=device)
    clipped = clip_boxes_to_image(boxes, (60, 40))
    assert clipped.dtype == dtype
    assert clipped.tolist() == [[1, 2, 40, 60]]
    assert box_convert(boxes, "xyxy", "xywh").dtype == dtype
    assert box_convert(boxes, "xyxy", "cxcywh").tolist() == [[50.5, 46, 99, 88]]  # a centre needs its half
    assert box_area(boxes).tolist() == [99 * 88]  # more than int8 holds


def test_half_areas_have_room(device):
    """300 × 300 pixels are more than float16 counts."""
    boxes = torch.tensor([[0.0, 0, 300, 300]], dtype=torch.float16, device=device)
    area = box_area(boxes)
    assert area.dtype == torch.float32
    assert area.tolist() == [90_000]


# ---------------------------------------------------------------------------------------------------------------------
# Gradient, tracing


@over_measures
def test_measures_gradcheck(device, measure):
    boxes1, boxes2 = (
        support.random_boxes(3, image=30, max_side=50, dtype=torch.float64, device=device).requires_grad_()
        for _ in range(2)
    )
    function = getattr(ours, measure)
    if measure == "complete_box_iou":  # α is a constant to the gradient but not to finite differences
        grad = torch.randn(3, 3, dtype=torch.float64, device=device)
        for a, b in zip(
            torch.autograd.grad(function(boxes1, boxes2), (boxes1, boxes2), grad),
            torch.autograd.grad(ref.complete_box_iou(boxes1, boxes2), (boxes1, boxes2), grad),
            strict=True,
        ):
            torch.testing.assert_close(a, b)
    else:
        assert torch.autograd.gradcheck(function, (boxes1, boxes2))


def test_rowwise_gradcheck(device):
    boxes = support.random_boxes(4, image=40, max_side=60, dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(box_area, boxes)
    assert torch.autograd.gradcheck(lambda b: clip_boxes_to_image(b, (45, 35)), boxes)
    assert torch.autograd.gradcheck(lambda b: box_convert(b, "xyxy", "cxcywh"), boxes)


def test_everything_with_a_fixed_shape_exports(device):
    class Everything(torch.nn.Module):
        def forward(self, boxes):
            inside = clip_boxes_to_image(boxes, (50, 50))
            again = box_convert(box_convert(inside, "xyxy", "cxcywh"), "cxcywh", "xyxy")
            return box_iou(inside, again), complete_box_iou(inside, again), generalized_box_iou(inside, again)

    boxes = whole_boxes(6, device=device)
    program = torch.export.export(Everything(), (boxes,))
    for actual, expected in zip(program.module()(boxes), Everything()(boxes), strict=True):
        support.assert_close(actual, expected)


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def test_unknown_formats_raise():
    boxes = torch.zeros(1, 4)
    with pytest.raises(ValueError, match="in_fmt must be one of 'xyxy', 'xywh', 'cxcywh'; got 'yxyx'"):
        box_convert(boxes, "yxyx", "xyxy")
    with pytest.raises(ValueError, match=r"out_fmt must be one of .*; got 'xyxyxyxy'"):
        box_convert(boxes, "xyxy", "xyxyxyxy")
    with pytest.raises(ValueError, match=r"fmt must be one of .*; got 'XYXY'"):
        box_area(boxes, "XYXY")


@over_measures
def test_bad_shapes_raise(measure):
    with pytest.raises(RuntimeError, match=r"boxes2: expected shape \[(\.\.\., )?N, 4\], got \[3, 5\]"):
        getattr(ours, measure)(torch.zeros(2, 4), torch.zeros(3, 5))


def test_distance_iou_takes_eps(device):
    point = torch.tensor([[1.0, 1, 2, 2]], device=device)
    assert distance_box_iou(point, point + 1, eps=1e6).item() == pytest.approx(0, abs=1e-5)
