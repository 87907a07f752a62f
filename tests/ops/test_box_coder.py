"""encode_boxes and decode_boxes."""

from __future__ import annotations

import math

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from fasterrcnn_ops.box_coder import decode_boxes, encode_boxes
from fasterrcnn_ops.reference import box_coder as ref

RCNN_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
CONVENTIONS = {
    "plain": {"weights": (1.0, 1.0, 1.0, 1.0), "inclusive": False},
    "weighted": {"weights": RCNN_WEIGHTS, "inclusive": False},
    "inclusive": {"weights": RCNN_WEIGHTS, "inclusive": True},
    "uneven": {"weights": (10.0, 4.0, 5.0, 0.5), "inclusive": False},
}
over_conventions = pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=CONVENTIONS)
over_dtypes = pytest.mark.parametrize("dtype", support.FLOAT_DTYPES, ids=support.dtype_id)


def case(count: int, per_anchor: int = 1, dtype=torch.float32, device="cpu", generator=None):
    """Boxes, anchors and deltas ``[N, 4K]`` of a size that a trained head gives."""
    boxes = support.random_boxes(count, dtype=dtype, device=device, generator=generator)
    anchors = support.random_boxes(count, dtype=dtype, device=device, generator=generator)
    deltas = torch.randn(count, 4 * per_anchor, dtype=torch.float64, generator=generator) * 0.5
    return boxes, anchors, deltas.to(device=device, dtype=dtype)


def assert_boxes_close(actual, expected):
    """To a thousandth of a pixel in float32: boxes here reach some 10⁴ pixels, and edges cancel to about zero."""
    support.assert_close(actual, expected, atol={torch.float32: 2e-3, torch.float64: 1e-9}.get(actual.dtype, 1e-2))


# ---------------------------------------------------------------------------------------------------------------------
# Hand-computed


def test_encode_by_hand(device):
    # anchor 5 × 5 with centre (2.5, 2.5); box 10 × 2.5 with centre (7.5, 3.75)
    anchors = torch.tensor([[0.0, 0.0, 5.0, 5.0]], device=device)
    boxes = torch.tensor([[2.5, 2.5, 12.5, 5.0]], device=device)
    expected = torch.tensor([[1.0, 0.25, math.log(2), -math.log(2)]], device=device)
    support.assert_close(encode_boxes(boxes, anchors), expected)
    scale = torch.tensor(RCNN_WEIGHTS, device=device)
    support.assert_close(encode_boxes(boxes, anchors, RCNN_WEIGHTS), expected * scale)


def test_decode_by_hand(device):
    anchors = torch.tensor([[0.0, 0.0, 5.0, 5.0]], device=device)
    deltas = torch.tensor([[1.0, 0.25, math.log(2), -math.log(2)]], device=device)
    expected = torch.tensor([[2.5, 2.5, 12.5, 5.0]], device=device)
    support.assert_close(decode_boxes(deltas, anchors), expected)
    support.assert_close(decode_boxes(deltas * 4, anchors, (4, 4, 4, 4)), expected)


def test_inclusive_by_hand(device):
    # pixels 0 … 4: width 5, centre at 2.5; doubled: 10 pixels from -2.5, so x2 = 7.5 - 1
    anchors = torch.tensor([[0.0, 0.0, 4.0, 4.0]], device=device)
    deltas = torch.tensor([[0.0, 0.2, math.log(2), 0.0]], device=device)
    boxes = torch.tensor([[-2.5, 1.0, 6.5, 5.0]], device=device)
    support.assert_close(decode_boxes(deltas, anchors, inclusive=True), boxes)
    support.assert_close(encode_boxes(boxes, anchors, inclusive=True), deltas)


def test_growth_is_bounded_by_clip(device):
    anchors = torch.tensor([[0.0, 0.0, 16.0, 16.0]], device=device)
    deltas = torch.tensor([[0.0, 0.0, 100.0, math.log(4)]], device=device)
    # 16 · 1000 / 16 = 1000 wide
    support.assert_close(decode_boxes(deltas, anchors), torch.tensor([[-492.0, -24.0, 508.0, 40.0]], device=device))
    clipped = decode_boxes(deltas, anchors, clip=math.log(2))
    support.assert_close(clipped, torch.tensor([[-8.0, -8.0, 24.0, 24.0]], device=device))


def test_clip_bounds_the_unweighted_delta(device):
    anchors = torch.tensor([[0.0, 0.0, 16.0, 16.0]], device=device)
    deltas = torch.tensor([[0.0, 0.0, 5 * math.log(4), 5 * math.log(4)]], device=device)
    support.assert_close(
        decode_boxes(deltas, anchors, RCNN_WEIGHTS, clip=math.log(4)),
        torch.tensor([[-24.0, -24.0, 40.0, 40.0]], device=device),
    )


def test_image_size_by_hand(device):
    """Height comes first; an inclusive box ends at the last pixel, as maskrcnn-benchmark clips."""
    anchors = torch.tensor([[-10.0, -10.0, 90.0, 90.0]], device=device)
    deltas = torch.zeros(1, 4, device=device)
    assert decode_boxes(deltas, anchors, image_size=(40, 60)).tolist() == [[0, 0, 60, 40]]
    assert decode_boxes(deltas, anchors, image_size=(40, 60), inclusive=True).tolist() == [[0, 0, 59, 39]]


def test_each_anchor_serves_its_k_deltas(device):
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [100.0, 100.0, 120.0, 120.0]], device=device)
    deltas = torch.tensor([[0.0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0]], device=device)
    assert decode_boxes(deltas, anchors).tolist() == [
        [0, 0, 10, 10, 10, 0, 20, 10],
        [100, 100, 120, 120, 100, 120, 120, 140],
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Against the reference


@over_conventions
@over_dtypes
@pytest.mark.parametrize("layout", support.LAYOUTS)
@pytest.mark.parametrize("count", [1, 3, 257])
def test_encode_equals_reference(device, dtype, layout, count, convention):
    boxes, anchors, _ = case(count, dtype=dtype, device=device)
    boxes, anchors = support.LAYOUTS[layout](boxes), support.LAYOUTS[layout](anchors)
    actual = encode_boxes(boxes, anchors, **convention)
    assert actual.is_contiguous()
    support.assert_close(actual, ref.encode_boxes(boxes, anchors, **convention))


@over_conventions
@over_dtypes
@pytest.mark.parametrize("layout", support.LAYOUTS)
@pytest.mark.parametrize(("count", "per_anchor"), [(1, 1), (3, 21), (257, 2), (2048, 1)])
@pytest.mark.parametrize("image_size", [None, (600, 800)])
def test_decode_equals_reference(device, dtype, layout, count, per_anchor, image_size, convention):
    _, anchors, deltas = case(count, per_anchor, dtype, device)
    deltas, anchors = support.LAYOUTS[layout](deltas), support.LAYOUTS[layout](anchors)
    actual = decode_boxes(deltas, anchors, image_size=image_size, **convention)
    assert actual.is_contiguous()
    assert_boxes_close(actual, ref.decode_boxes(deltas, anchors, image_size=image_size, **convention))


def test_mixed_dtypes_promote(device):
    """Half-precision deltas on float32 anchors keep float32 coordinates."""
    boxes, anchors, deltas = case(33, device=device)
    for low in support.HALF_DTYPES:
        decoded = decode_boxes(deltas.to(low), anchors)
        assert decoded.dtype == torch.float32
        assert_boxes_close(decoded, ref.decode_boxes(deltas.to(low), anchors))
        assert encode_boxes(boxes.to(low), anchors).dtype == torch.float32
    assert decode_boxes(deltas, anchors.double()).dtype == torch.float64
    assert decode_boxes(deltas.half(), anchors.bfloat16()).dtype == torch.float32


# ---------------------------------------------------------------------------------------------------------------------
# Invariants


@settings(deadline=None)
@given(
    count=st.integers(0, 40),
    weights=st.tuples(*[st.floats(0.1, 20)] * 4),
    inclusive=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_decode_inverts_encode(count, weights, inclusive, seed):
    boxes, anchors, _ = case(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    deltas = encode_boxes(boxes, anchors, weights, inclusive=inclusive)
    again = decode_boxes(deltas, anchors, weights, inclusive=inclusive, clip=math.inf)
    torch.testing.assert_close(again, boxes, rtol=1e-10, atol=1e-8)


@settings(deadline=None)
@given(count=st.integers(0, 40), seed=st.integers(0, 2**31), inclusive=st.booleans())
def test_encode_inverts_decode(count, seed, inclusive):
    _, anchors, deltas = case(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    boxes = decode_boxes(deltas, anchors, RCNN_WEIGHTS, inclusive=inclusive)
    again = encode_boxes(boxes, anchors, RCNN_WEIGHTS, inclusive=inclusive)
    torch.testing.assert_close(again, deltas, rtol=1e-9, atol=1e-9)


@over_conventions
def test_zero_deltas_give_the_anchors(device, convention):
    _, anchors, deltas = case(100, 3, device=device)
    boxes = decode_boxes(torch.zeros_like(deltas), anchors, **convention)
    assert_boxes_close(boxes, anchors.repeat(1, 3))
    support.assert_close(encode_boxes(anchors, anchors, **convention), torch.zeros_like(anchors))


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), size=st.tuples(st.integers(1, 900), st.integers(1, 900)), inclusive=st.booleans())
def test_boxes_stay_inside_the_image(seed, size, inclusive):
    _, anchors, deltas = case(50, 2, generator=torch.Generator().manual_seed(seed))
    boxes = decode_boxes(deltas * 4, anchors, image_size=size, inclusive=inclusive).view(-1, 2, 2)
    height, width = (side - inclusive for side in size)
    assert (boxes >= 0).all()
    assert (boxes[..., 0] <= width).all()
    assert (boxes[..., 1] <= height).all()


# ---------------------------------------------------------------------------------------------------------------------
# Edges


@pytest.mark.parametrize("per_anchor", [0, 1, 21])
def test_no_anchors(device, per_anchor):
    anchors = torch.zeros(0, 4, device=device)
    assert decode_boxes(torch.zeros(0, 4 * per_anchor, device=device), anchors).shape == (0, 4 * per_anchor)
    assert encode_boxes(anchors, anchors).shape == (0, 4)


def test_no_deltas_per_anchor(device):
    assert decode_boxes(torch.zeros(3, 0, device=device), torch.zeros(3, 4, device=device)).shape == (3, 0)


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("image_size", [None, (600, 800)])
def test_nan_and_inf_follow_the_formula(device, image_size, inclusive):
    values = [math.nan, math.inf, -math.inf, 0.0, 1e38, -1e38]
    deltas = torch.tensor([[a, b, c, d] for a in values for b in values for c in values for d in values], device=device)
    anchors = torch.tensor([[3.0, 4.0, 30.0, 40.0]], device=device).expand(len(deltas), 4)
    actual = decode_boxes(deltas, anchors, image_size=image_size, inclusive=inclusive)
    assert_boxes_close(actual, ref.decode_boxes(deltas, anchors, image_size=image_size, inclusive=inclusive))
    swapped = decode_boxes(torch.zeros_like(deltas), deltas, image_size=image_size, inclusive=inclusive)
    assert_boxes_close(
        swapped, ref.decode_boxes(torch.zeros_like(deltas), deltas, image_size=image_size, inclusive=inclusive)
    )
    support.assert_close(
        encode_boxes(deltas, anchors, inclusive=inclusive), ref.encode_boxes(deltas, anchors, inclusive=inclusive)
    )
    support.assert_close(
        encode_boxes(anchors, deltas, inclusive=inclusive), ref.encode_boxes(anchors, deltas, inclusive=inclusive)
    )


def test_nan_survives_the_image_border(device):
    anchors = torch.tensor([[0.0, 0.0, 8.0, 8.0]], device=device)
    deltas = torch.tensor([[math.nan, 0.0, 0.0, 0.0]], device=device)
    assert decode_boxes(deltas, anchors, image_size=(5, 5)).isnan().tolist() == [[True, False, True, False]]


def test_boxes_without_area_and_inverted(device):
    boxes = torch.tensor([[5.0, 5, 5, 9], [9, 9, 5, 5], [5, 5, 9, 9]], device=device)
    anchors = torch.tensor([[1.0, 1, 9, 9], [1, 1, 9, 9], [4, 4, 4, 4]], device=device)
    deltas = encode_boxes(boxes, anchors)
    support.assert_close(deltas, ref.encode_boxes(boxes, anchors))
    assert deltas[0, 2] == -math.inf  # log 0
    assert deltas[1, 2:].isnan().all()  # log of a negative side
    assert deltas[2].isinf().all()  # division by a side of 0


# ---------------------------------------------------------------------------------------------------------------------
# Gradient


@over_conventions
def test_encode_gradcheck(device, convention):
    boxes, anchors, _ = case(5, dtype=torch.float64, device=device)
    inputs = (boxes.requires_grad_(), anchors.requires_grad_())
    assert torch.autograd.gradcheck(lambda b, a: encode_boxes(b, a, **convention), inputs)
    assert torch.autograd.gradgradcheck(lambda b, a: encode_boxes(b, a, **convention), inputs)


@over_conventions
@pytest.mark.parametrize("image_size", [None, (500, 600)])
@pytest.mark.parametrize("clip", [0.3, 4.0])
def test_decode_gradcheck(device, convention, image_size, clip):
    _, anchors, deltas = case(6, 3, torch.float64, device)
    inputs = (deltas.requires_grad_(), anchors.requires_grad_())

    def run(d, a):
        return decode_boxes(d, a, clip=clip, image_size=image_size, **convention)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@over_conventions
@over_dtypes
def test_gradients_equal_those_of_the_reference(device, dtype, convention):
    boxes, anchors, deltas = case(40, 2, dtype, device)
    boxes, anchors, deltas = (support.transposed_copy(t).requires_grad_() for t in (boxes, anchors, deltas))
    grad_deltas, grad_boxes = torch.randn_like(boxes), torch.randn_like(deltas)
    options = {"image_size": (500, 600), "clip": 0.5}
    for ours, theirs, inputs, grad in (
        (
            encode_boxes(boxes, anchors, **convention),
            ref.encode_boxes(boxes, anchors, **convention),
            (boxes, anchors),
            grad_deltas,
        ),
        (
            decode_boxes(deltas, anchors, **options, **convention),
            ref.decode_boxes(deltas, anchors, **options, **convention),
            (deltas, anchors),
            grad_boxes,
        ),
    ):
        actual, expected = torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad)
        for a, b in zip(actual, expected, strict=True):
            support.assert_close(a, b, atol=1e-2 if dtype in support.HALF_DTYPES else 1e-4)


def test_only_the_gradients_asked_for(device):
    boxes, anchors, deltas = case(3, device=device)
    assert torch.autograd.grad(decode_boxes(deltas.requires_grad_(), anchors).sum(), deltas)[0].shape == (3, 4)
    assert torch.autograd.grad(encode_boxes(boxes.requires_grad_(), anchors).sum(), boxes)[0].shape == (3, 4)


# ---------------------------------------------------------------------------------------------------------------------
# Operator contract, determinism


@over_dtypes
@pytest.mark.parametrize("count", [0, 5])
def test_opcheck(device, dtype, count):
    boxes, anchors, deltas = case(count, 2, dtype, device)
    for inputs in ((boxes, anchors), (boxes.requires_grad_(), anchors.requires_grad_())):
        opcheck(torch.ops.fasterrcnn_ops.encode_boxes.default, (*inputs, list(RCNN_WEIGHTS), True))
    for inputs in ((deltas, anchors.detach()), (deltas.detach().requires_grad_(), anchors)):
        for image_size in (None, [600.0, 800.0]):
            arguments = (*inputs, list(RCNN_WEIGHTS), 4.0, image_size, False)
            opcheck(torch.ops.fasterrcnn_ops.decode_boxes.default, arguments)


def test_same_bits_for_any_number_of_threads():
    boxes, anchors, deltas = case(20_000, 3)

    def run():
        leaves = [t.clone().requires_grad_() for t in (boxes, anchors, deltas)]
        encoded = encode_boxes(leaves[0], leaves[1], RCNN_WEIGHTS)
        decoded = decode_boxes(leaves[2], leaves[1], RCNN_WEIGHTS, image_size=(600, 800))
        (encoded.sin().sum() + decoded.sin().sum()).backward()
        return [encoded.detach(), decoded.detach(), *(leaf.grad for leaf in leaves)]

    for one, two in zip(*support.at_thread_counts(run), strict=True):
        support.assert_bitwise_equal(one, two)


# ---------------------------------------------------------------------------------------------------------------------
# Errors

FOUR = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("boxes", "anchors", "message"),
    [
        (torch.zeros(3, 5), FOUR, r"boxes: expected shape \[N, 4\], got \[3, 5\]"),
        (torch.zeros(4), FOUR, r"boxes: expected shape \[N, 4\], got \[4\]"),
        (FOUR, torch.zeros(3, 3), r"anchors: expected shape \[N, 4\], got \[3, 3\]"),
        (FOUR, torch.zeros(2, 4), r"anchors: expected as many rows as boxes \(3\), got 2"),
        (FOUR.int(), FOUR, "boxes: expected dtype float16, bfloat16, float32 or float64, got Int"),
        (FOUR, FOUR.long(), "anchors: expected dtype float16, bfloat16, float32 or float64, got Long"),
    ],
)
def test_bad_encode_arguments_raise(device, boxes, anchors, message):
    with pytest.raises(RuntimeError, match=message):
        encode_boxes(boxes.to(device), anchors.to(device))


@pytest.mark.parametrize(
    ("deltas", "anchors", "options", "message"),
    [
        (torch.zeros(3, 6), FOUR, {}, r"deltas: expected shape \[N, 4 \* K\], got \[3, 6\]"),
        (torch.zeros(3, 2, 4), FOUR, {}, r"deltas: expected shape \[N, 4 \* K\], got \[3, 2, 4\]"),
        (FOUR.int(), FOUR, {}, "deltas: expected dtype .*got Int"),
        (FOUR, torch.zeros(5, 4), {}, r"anchors: expected as many rows as deltas \(3\), got 5"),
        (FOUR, FOUR, {"weights": (1, 1, 0, 1)}, "weights: expected positive finite values, got 0"),
        (FOUR, FOUR, {"weights": (1, 1, math.nan, 1)}, "weights: expected positive finite values, got nan"),
        (FOUR, FOUR, {"clip": math.nan}, "clip: expected a number, got NaN"),
        (FOUR, FOUR, {"image_size": (-1, 5)}, "image_size: expected height and width >= 0, got -1"),
    ],
)
def test_bad_decode_arguments_raise(device, deltas, anchors, options, message):
    with pytest.raises(RuntimeError, match=message):
        decode_boxes(deltas.to(device), anchors.to(device), **options)


def test_wrong_counts_raise_value_error():
    with pytest.raises(ValueError, match="weights: expected 4 numbers, got 3"):
        encode_boxes(FOUR, FOUR, (1, 1, 1))
    with pytest.raises(ValueError, match="image_size: expected 2 numbers, got 3"):
        decode_boxes(FOUR, FOUR, image_size=(3, 600, 800))


def test_devices_must_agree():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with pytest.raises(RuntimeError, match="anchors: expected the device of boxes"):
        encode_boxes(FOUR, FOUR.cuda())
