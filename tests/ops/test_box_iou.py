"""box_iou: the operator and its formula through torch operations."""

from __future__ import annotations

import math

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from fasterrcnn_ops.boxes import _box_iou_gradient, box_convert, box_iou
from fasterrcnn_ops.reference import boxes as ref

INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
over_dtypes = pytest.mark.parametrize("dtype", support.FLOAT_DTYPES, ids=support.dtype_id)


def clustered_boxes(count: int, dtype=torch.float32, device="cpu", generator=None):
    """Boxes of which most pairs overlap and some share edges or coincide (whole-pixel coordinates in a small image)."""
    return (
        support.random_boxes(count, image=60, min_side=1, max_side=90, dtype=torch.float64, generator=generator)
        .round()
        .to(device=device, dtype=dtype)
    )


# ---------------------------------------------------------------------------------------------------------------------
# Hand-computed


def test_by_hand(device):
    boxes1 = torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6]], device=device)
    boxes2 = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [4, 0, 8, 4], [1, 1, 3, 3], [9, 9, 10, 10]], device=device)
    expected = torch.tensor([[1, 8 / 24, 0, 4 / 16, 0], [4 / 28, 8 / 24, 4 / 28, 1 / 19, 0]], device=device)
    support.assert_close(box_iou(boxes1, boxes2), expected)


@pytest.mark.parametrize(
    ("fmt", "first", "second"),
    [("xywh", [0.0, 0, 4, 4], [2.0, 0, 4, 4]), ("cxcywh", [2.0, 2, 4, 4], [4.0, 2, 4, 4])],
)
def test_formats_by_hand(device, fmt, first, second):
    iou = box_iou(torch.tensor([first], device=device), torch.tensor([second], device=device), fmt)
    support.assert_close(iou, torch.tensor([[1 / 3]], device=device))


# ---------------------------------------------------------------------------------------------------------------------
# Against the reference


@over_dtypes
@pytest.mark.parametrize("layout", support.LAYOUTS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 4000), (300, 7), (33, 2048), (5, 2049)])
def test_equals_reference(device, dtype, layout, rows, columns):
    boxes1, boxes2 = clustered_boxes(rows, dtype, device), clustered_boxes(columns, dtype, device)
    boxes1, boxes2 = support.LAYOUTS[layout](boxes1), support.LAYOUTS[layout](boxes2)
    actual = box_iou(boxes1, boxes2)
    assert actual.is_contiguous()
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    support.assert_close(actual, ref.box_iou(boxes1, boxes2))


@pytest.mark.parametrize("fmt", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("dtype", support.FULL_DTYPES + INTEGERS, ids=support.dtype_id)
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_formats_dtypes_and_leading_dimensions(device, fmt, dtype, leading):
    boxes1 = torch.stack([clustered_boxes(5) for _ in range(math.prod(leading))]).reshape(*leading, 5, 4)
    boxes2 = clustered_boxes(6)
    boxes1, boxes2 = (box_convert(b, "xyxy", fmt).to(device, dtype) for b in (boxes1, boxes2))
    iou = box_iou(boxes1, boxes2, fmt)
    assert iou.shape == (*leading, 5, 6)
    support.assert_close(iou, ref.box_iou(boxes1, boxes2, fmt))


def test_mixed_dtypes(device):
    boxes1, boxes2 = clustered_boxes(5, device=device), clustered_boxes(6, device=device)
    for low in (torch.float16, torch.int32, torch.float64):
        iou = box_iou(boxes1, boxes2.to(low))
        assert iou.dtype == (torch.float64 if low == torch.float64 else torch.float32)
        support.assert_close(iou, ref.box_iou(boxes1, boxes2.to(low)))


def test_integer_areas_have_room(device):
    """100,000 pixels squared do not fit int32."""
    boxes = torch.tensor([[0, 0, 100_000, 100_000]], dtype=torch.int32, device=device)
    assert box_iou(boxes, boxes).tolist() == [[1.0]]


# ---------------------------------------------------------------------------------------------------------------------
# Invariants


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(0, 20), columns=st.integers(0, 20))
def test_symmetric_bounded_and_one_only_for_equal_boxes(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    boxes1 = clustered_boxes(rows, generator=generator)
    boxes2 = torch.cat((clustered_boxes(columns, generator=generator), boxes1))
    iou = box_iou(boxes1, boxes2)
    assert torch.equal(iou, box_iou(boxes2, boxes1).T)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert torch.equal(iou == 1, (boxes1[:, None] == boxes2).all(-1))


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.25, 2.0, 64.0]), shift=st.integers(-500, 500))
def test_moving_and_scaling_change_nothing(seed, scale, shift):
    boxes = clustered_boxes(12, generator=torch.Generator().manual_seed(seed))  # whole numbers, so that this is exact
    assert torch.equal(box_iou(boxes, boxes), box_iou((boxes + shift) * scale, (boxes + shift) * scale))


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(width=32), min_size=4, max_size=4), min_size=1, max_size=6))
def test_kernel_and_torch_formula_agree_on_any_floats(rows):
    """Two dimensions go to the kernel, three to torch operations; overflow, NaN and infinity included."""
    boxes = torch.tensor(rows)
    support.assert_close(box_iou(boxes, boxes), box_iou(boxes[None], boxes[None])[0], rtol=0, atol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Edges


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_empty(device, shape):
    iou = box_iou(torch.zeros(shape[0], 4, device=device), torch.zeros(shape[1], 4, device=device))
    assert iou.shape == shape
    assert iou.dtype == torch.float32


def test_boxes_without_area_nan_inf_and_inverted(device):
    boxes = torch.tensor(
        [
            [1.0, 1, 1, 1],  # a point
            [1, 1, 1, 5],  # a line
            [5, 5, 1, 1],  # inverted on both axes: positive area, negative sides
            [0, 0, 4, 4],
            [math.nan, 0, 4, 4],
            [0, 0, math.nan, 4],
            [0, 0, math.inf, 4],
            [-math.inf, 0, 4, 4],
            [-1e30, -1e30, 1e30, 1e30],
        ],
        device=device,
    )
    iou = box_iou(boxes, boxes)
    assert iou[0, 0].isnan()  # 0 / 0
    assert iou[0, 1].isnan()
    assert iou[0, 3] == 0  # a point inside a box
    assert iou[4].isnan().all()
    assert iou[:, 5].isnan().all()
    # the same in float64 but for the last box, whose area overflows float32 alone
    support.assert_close(iou[:8, :8], ref.box_iou(boxes[:8], boxes[:8]))
    support.assert_close(iou, box_iou(boxes[None], boxes[None])[0])


@pytest.mark.xdist_group("memory")
@pytest.mark.slow
def test_more_elements_than_32_bits_count():
    support.require_memory(10)
    boxes = support.random_boxes(46_400)
    iou = box_iou(boxes, boxes)
    assert iou.numel() > 2**31
    for row in (0, 46_399):
        support.assert_close(iou[row], ref.box_iou(boxes[row : row + 1], boxes)[0], atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Gradient


def test_gradcheck(device):
    boxes1 = support.random_boxes(4, image=40, max_side=60, dtype=torch.float64, device=device).requires_grad_()
    boxes2 = support.random_boxes(5, image=40, max_side=60, dtype=torch.float64, device=device).requires_grad_()
    assert (box_iou(boxes1, boxes2) > 0).any()
    assert torch.autograd.gradcheck(box_iou, (boxes1, boxes2))
    assert torch.autograd.gradgradcheck(box_iou, (boxes1, boxes2))


@over_dtypes
def test_gradients_equal_those_of_the_reference(device, dtype):
    """Shared edges included, where each box takes half."""
    boxes1 = clustered_boxes(20, dtype, device)
    boxes2 = torch.cat((clustered_boxes(15, dtype, device), boxes1[:5])).requires_grad_()
    boxes1.requires_grad_()
    grad = torch.randn(20, 20, device=device, dtype=box_iou(boxes1, boxes2).dtype)
    ours = torch.autograd.grad(box_iou(boxes1, boxes2), (boxes1, boxes2), grad)
    theirs = torch.autograd.grad(ref.box_iou(boxes1, boxes2), (boxes1, boxes2), grad)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        support.assert_close(a, b, atol=1e-2 if dtype in support.HALF_DTYPES else 1e-6)


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (3, 40), (50, 17), (16, 16), (65, 129), (2, 600), (0, 5), (5, 0)]
)
@pytest.mark.parametrize("dtype", support.FULL_DTYPES, ids=support.dtype_id)
def test_gradient_kernel_equals_its_torch_formula(device, dtype, rows, columns):
    """The formula serves second derivatives; NaN, infinity and boxes without area included."""
    boxes1, boxes2 = clustered_boxes(rows, dtype, device), clustered_boxes(columns, dtype, device)
    grad = torch.randn(rows, columns, dtype=dtype, device=device)
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {}
    for spoil in (None, math.nan, math.inf):
        if spoil is not None:
            boxes1[1::7, 2] = spoil
            boxes2[2::5, :2] = boxes2[2::5, 2:]
        found = torch.ops.fasterrcnn_ops.box_iou_backward(grad, boxes1, boxes2)
        for a, b in zip(found, _box_iou_gradient(grad, boxes1, boxes2), strict=True):
            support.assert_close(a, b, **close)


def test_training_on_the_diagonal_pulls_boxes_together(device):
    """What the gradient is for: boxes move onto their targets."""
    target = torch.tensor([[10.0, 10.0, 50.0, 40.0]], device=device)
    boxes = torch.tensor([[20.0, 5.0, 70.0, 35.0]], device=device, requires_grad=True)
    before = box_iou(boxes, target).item()
    for _ in range(200):
        (grad,) = torch.autograd.grad(-box_iou(boxes, target).diagonal().sum(), boxes)
        boxes = (boxes - 40 * grad).detach().requires_grad_()
    assert before < 0.5
    assert box_iou(boxes, target).item() > 0.95


# ---------------------------------------------------------------------------------------------------------------------
# Operator contract, determinism


@over_dtypes
@pytest.mark.parametrize("rows", [0, 3])
def test_opcheck(dtype, rows):
    boxes1, boxes2 = clustered_boxes(rows, dtype), clustered_boxes(4, dtype)
    opcheck(torch.ops.fasterrcnn_ops.box_iou.default, (boxes1, boxes2))
    grad = torch.randn(rows, 4, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    opcheck(torch.ops.fasterrcnn_ops.box_iou_backward.default, (grad, boxes1, boxes2))
    opcheck(torch.ops.fasterrcnn_ops.box_iou.default, (boxes1.requires_grad_(), boxes2.requires_grad_()))


@pytest.mark.parametrize(("rows", "columns"), [(7, 9001), (3000, 20)])
def test_same_bits_for_any_number_of_threads(rows, columns):
    boxes1, boxes2 = clustered_boxes(rows), clustered_boxes(columns)

    def run():
        leaves = boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()
        iou = box_iou(*leaves)
        iou.sin().sum().backward()
        return [iou.detach(), *(leaf.grad for leaf in leaves)]

    for one, two in zip(*support.at_thread_counts(run), strict=True):
        support.assert_bitwise_equal(one, two)


# ---------------------------------------------------------------------------------------------------------------------
# Errors

FOUR = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("boxes1", "boxes2", "message"),
    [
        (torch.zeros(3, 5), FOUR, r"boxes1: expected shape \[N, 4\], got \[3, 5\]"),
        (FOUR, torch.zeros(2, 3), r"boxes2: expected shape \[N, 4\], got \[2, 3\]"),
        (torch.zeros(4), FOUR, r"boxes1: expected shape \[N, 4\], got \[4\]"),
        (FOUR, FOUR.double(), r"boxes2: expected the dtype of boxes1 \(float32\), got float64"),
        (FOUR.int(), FOUR.int(), "boxes1: expected dtype float16.*got Int"),
    ],
)
def test_bad_arguments_of_the_operator_raise(boxes1, boxes2, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fasterrcnn_ops.box_iou(boxes1, boxes2)


def test_a_gradient_of_another_shape_raises():
    with pytest.raises(RuntimeError, match=r"grad: expected shape \[3, 2\], got \[2, 3\]"):
        torch.ops.fasterrcnn_ops.box_iou_backward(torch.zeros(2, 3), FOUR, FOUR[:2])


@pytest.mark.parametrize("shape", [(3, 5), (3, 3), (2, 3, 5), (4,)])
def test_bad_shapes_raise(device, shape):
    for first, second in ((shape, (3, 4)), ((3, 4), shape)):
        with pytest.raises(RuntimeError, match=r"boxes[12]: expected shape \[(\.\.\., )?N, 4\]"):
            box_iou(torch.zeros(first, device=device), torch.zeros(second, device=device))


def test_bad_format_raises():
    with pytest.raises(ValueError, match="fmt must be one of 'xyxy', 'xywh', 'cxcywh'; got 'cxcywhr'"):
        box_iou(FOUR, FOUR, "cxcywhr")
