"""match_boxes."""

from __future__ import annotations

import math

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from fasterrcnn_ops.anchors import grid_anchors
from fasterrcnn_ops.boxes import box_iou
from fasterrcnn_ops.cell_anchors import cell_anchors
from fasterrcnn_ops.matching import match_boxes
from fasterrcnn_ops.reference import matching as ref

over_dtypes = pytest.mark.parametrize("dtype", support.FLOAT_DTYPES, ids=support.dtype_id)
over_rules = pytest.mark.parametrize(
    "rule",
    [
        {"high_threshold": 0.7, "low_threshold": 0.3},
        {"high_threshold": 0.7, "low_threshold": 0.3, "allow_low_quality": True},
        {"high_threshold": 0.7, "low_threshold": 0.3, "allow_low_quality": True, "min_low_quality": 1e-9},
        {"high_threshold": 0.5, "low_threshold": 0.5},
        {"high_threshold": 0.6, "low_threshold": 0.0, "allow_low_quality": True, "min_low_quality": 0.2},
    ],
    ids=["rpn_without_low_quality", "rpn", "rpn_overlapping", "head", "at_least_0.2"],
)
RPN = {"high_threshold": 0.7, "low_threshold": 0.3}


def crowd(count: int, dtype=torch.float32, device="cpu", generator=None):
    """Whole-pixel boxes in a small image: most overlap, and equal IoUs are common."""
    boxes = support.random_boxes(count, image=60, max_side=40, dtype=torch.float64, generator=generator)
    return boxes.round().to(device=device, dtype=dtype)


def level_of_anchors(device="cpu"):
    cells = cell_anchors((32,), (0.5, 1.0, 2.0), rule="torchvision", device=device)
    return grid_anchors(cells, (50, 84), 16)


# ---------------------------------------------------------------------------------------------------------------------
# Hand-computed

# IoU with the only target: 1, 0.9, 0.5, 0.1, 0
TARGET = [[0.0, 0.0, 10.0, 10.0]]
BOXES = [[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [0, 0, 10, 1], [20, 20, 30, 30]]


def test_thresholds_by_hand(device):
    targets, boxes = torch.tensor(TARGET, device=device), torch.tensor(BOXES, device=device)
    assert match_boxes(targets, boxes, **RPN).tolist() == [0, 0, -2, -1, -1]
    assert match_boxes(targets, boxes, high_threshold=0.5, low_threshold=0.5).tolist() == [0, 0, 0, -1, -1]
    assert match_boxes(targets, boxes, high_threshold=1.0, low_threshold=0.0).tolist() == [0, -2, -2, -2, -2]


def test_equal_ious_go_to_the_first_target(device):
    targets = torch.tensor([[90.0, 0, 99, 9], [0, 0, 10, 10], [0, 0, 10, 10], [5, 0, 15, 10]], device=device)
    boxes = torch.tensor([[0.0, 0, 10, 10], [2.5, 0, 12.5, 10], [5, 0, 15, 10]], device=device)
    assert match_boxes(targets, boxes, high_threshold=0.1, low_threshold=0.1).tolist() == [1, 1, 3]


def test_low_quality_takes_all_that_tie_and_keeps_their_own_best(device):
    # Target 1's best IoU, 0.2, is reached by boxes 0 and 2; box 0 overlaps target 0 better, with 1.
    targets = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 50]], device=device)
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 40, 10, 50]], device=device)
    iou = box_iou(targets, boxes)
    assert iou.tolist() == [[1, 0.5, 0], [pytest.approx(0.2), pytest.approx(0.1), pytest.approx(0.2)]]
    assert match_boxes(targets, boxes, **RPN).tolist() == [0, -2, -1]
    assert match_boxes(targets, boxes, **RPN, allow_low_quality=True).tolist() == [0, -2, 1]
    targets = torch.tensor([[0.0, 0, 10, 10]], device=device)
    boxes = torch.tensor([[0.0, 0, 10, 5], [0, 5, 10, 10], [0, 0, 10, 2]], device=device)
    assert match_boxes(targets, boxes, **RPN, allow_low_quality=True).tolist() == [0, 0, -1]


def test_a_target_that_nothing_overlaps(device):
    """Its best IoU, 0, is that of every box: torchvision's rule. A positive least IoU leaves it out."""
    targets, boxes = torch.tensor([*TARGET, [500.0, 500, 510, 510]], device=device), torch.tensor(BOXES, device=device)
    assert match_boxes(targets, boxes, **RPN, allow_low_quality=True).tolist() == [0, 0, 0, 0, 0]
    few = match_boxes(targets, boxes, **RPN, allow_low_quality=True, min_low_quality=math.ulp(0.0))
    assert few.tolist() == [0, 0, -2, -1, -1]


def test_min_low_quality_by_hand(device):
    targets = torch.tensor([[0.0, 0, 10, 10], [100, 0, 110, 10]], device=device)
    boxes = torch.tensor([[0.0, 0, 10, 2.5], [100, 0, 110, 5]], device=device)  # IoU 0.25 and 0.5
    for least, expected in ((0.0, [0, 1]), (0.25, [0, 1]), (0.26, [-1, 1]), (0.5, [-1, 1]), (0.51, [-1, -2])):
        found = match_boxes(targets, boxes, **RPN, allow_low_quality=True, min_low_quality=least)
        assert found.tolist() == expected


# ---------------------------------------------------------------------------------------------------------------------
# Against the reference


@over_dtypes
@over_rules
@pytest.mark.parametrize("layout", support.LAYOUTS)
@pytest.mark.parametrize(("targets", "boxes"), [(1, 1), (4, 30), (20, 769), (70, 1536), (300, 50)])
def test_equals_reference(device, dtype, layout, rule, targets, boxes):
    targets, boxes = crowd(targets, dtype, device), crowd(boxes, dtype, device)
    targets, boxes = support.LAYOUTS[layout](targets), support.LAYOUTS[layout](boxes)
    actual = match_boxes(targets, boxes, **rule)
    assert actual.dtype == torch.int64
    assert torch.equal(actual, ref.match_boxes(targets, boxes, **rule))


@over_rules
def test_grid_anchors_equal_reference(device, rule):
    """In a grid most blocks of neighbours meet few targets; scattered, each block meets all of them."""
    anchors = level_of_anchors(device)
    targets = support.random_boxes(25, min_side=8, max_side=200, device=device)
    order = torch.randperm(len(anchors), device=device)
    for boxes in (anchors, anchors[order]):
        found = match_boxes(targets, boxes, **rule)
        assert torch.equal(found, ref.match_boxes(targets, boxes, **rule))
        if boxes is anchors:
            in_order = found
        else:
            assert torch.equal(found, in_order[order])


def test_mixed_dtypes(device):
    targets, boxes = crowd(5, torch.float64, device) + 0.1, crowd(40, torch.float32, device)
    for first, second in ((targets, boxes), (boxes, targets), (targets.half(), boxes), (targets.half(), targets)):
        rule = {**RPN, "allow_low_quality": True}
        assert torch.equal(match_boxes(first, second, **rule), ref.match_boxes(first, second, **rule))


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), targets=st.integers(0, 8), boxes=st.integers(0, 40), low_quality=st.booleans())
def test_equals_reference_everywhere(seed, targets, boxes, low_quality):
    generator = torch.Generator().manual_seed(seed)
    targets, boxes = crowd(targets, generator=generator), crowd(boxes, generator=generator)
    low, high = torch.rand(2, generator=generator).sort().values.tolist()
    rule = {"high_threshold": high, "low_threshold": low, "allow_low_quality": low_quality}
    assert torch.equal(match_boxes(targets, boxes, **rule), ref.match_boxes(targets, boxes, **rule))


# ---------------------------------------------------------------------------------------------------------------------
# Invariants


@over_rules
def test_what_a_match_means(device, rule):
    targets, boxes = crowd(12, device=device), crowd(900, device=device)
    found, iou = match_boxes(targets, boxes, **rule), box_iou(targets, boxes)
    best, nearest = iou.max(dim=0)
    assert (found[best >= rule["high_threshold"]] >= 0).all()
    assert torch.equal(found[found >= 0], nearest[found >= 0])
    low = (found >= 0) & (best < rule["high_threshold"])
    if not rule.get("allow_low_quality"):
        assert not low.any()
    reaches_a_best = (iou == iou.max(dim=1, keepdim=True).values).any(dim=0)
    assert reaches_a_best[low].all()
    assert (best[found == -1] < rule["low_threshold"]).all()
    assert (best[found == -2] >= rule["low_threshold"]).all()


def test_a_box_equal_to_a_target_is_its_match(device):
    targets = support.random_boxes(50, device=device)
    assert match_boxes(targets, targets, high_threshold=1.0, low_threshold=1.0).tolist() == list(range(50))


# ---------------------------------------------------------------------------------------------------------------------
# Edges


def test_without_targets_all_is_background(device):
    boxes = crowd(5, device=device)
    for targets in (boxes[:0], boxes[:0].double()):
        for allow_low_quality in (False, True):
            found = match_boxes(targets, boxes, **RPN, allow_low_quality=allow_low_quality)
            assert found.tolist() == [-1] * 5


def test_without_boxes(device):
    found = match_boxes(crowd(5, device=device), torch.zeros(0, 4, device=device), **RPN, allow_low_quality=True)
    assert found.shape == (0,)
    assert found.dtype == torch.int64


def test_thresholds_are_rounded_to_the_type_of_the_iou(device):
    """0.1 and 0.7 in float32 lie above and below the decimal; an IoU equal to them is at the threshold, not off it."""
    targets = torch.tensor([[0.0, 0, 10, 10]], device=device)
    for part in (0.1, 0.3, 0.7):
        boxes = torch.tensor([[0.0, 0, 10, 10 * part]], device=device)
        assert box_iou(targets, boxes).item() == torch.tensor(part).item()
        assert match_boxes(targets, boxes, high_threshold=part, low_threshold=part).tolist() == [0]


def test_nan_counts_as_no_overlap(device):
    nan = math.nan
    point = torch.tensor([[3.0, 3, 3, 3]], device=device)
    assert match_boxes(point, point, high_threshold=0.5, low_threshold=0.5).tolist() == [-1]  # 0 / 0
    targets = torch.tensor([[nan, 0, 9, 9], [0, 0, 9, 9], [0, 0, nan, 9]], device=device)
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, nan, 9, 9], [nan, nan, nan, nan]], device=device)
    assert match_boxes(targets, boxes, **RPN).tolist() == [1, -1, -1]
    low = match_boxes(targets, boxes, **RPN, allow_low_quality=True, min_low_quality=0.1)
    assert low.tolist() == [1, -1, -1]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(width=32), min_size=4, max_size=4), min_size=1, max_size=5),
    st.lists(st.lists(st.floats(width=32), min_size=4, max_size=4), min_size=1, max_size=5),
    st.booleans(),
)
def test_any_floats(targets, boxes, low_quality):
    """Overflow, denormals, NaN, infinity and inverted boxes included."""
    targets, boxes = torch.tensor(targets), torch.tensor(boxes)
    rule = {"high_threshold": 0.5, "low_threshold": 0.2, "allow_low_quality": low_quality, "min_low_quality": 1e-30}
    assert torch.equal(match_boxes(targets, boxes, **rule), ref.match_boxes(targets, boxes, **rule))


@pytest.mark.xdist_group("memory")
@pytest.mark.slow
def test_needs_no_matrix():
    """A matrix of all pairs would have 40 GB."""
    support.require_memory(2)
    targets = torch.cat((support.random_boxes(9_999) + 5000, torch.tensor([[0.0, 0, 50, 50]])))
    boxes = torch.tensor([[0.0, 0, 50, 50]]).repeat(1_000_000, 1)
    assert (match_boxes(targets, boxes, **RPN, allow_low_quality=True, min_low_quality=0.1) == 9_999).all()


# ---------------------------------------------------------------------------------------------------------------------
# Batches


def batch_of_targets(counts, device="cpu", dtype=torch.float32):
    """[B, M, 4] with ``counts`` targets; the rest, here and there, is NaN."""
    batch = torch.full((len(counts), max(counts) + 3, 4), math.nan, dtype=dtype, device=device)
    for image, count in enumerate(counts):
        places = torch.randperm(batch.shape[1])[:count].sort().values.to(device)
        batch[image, places] = crowd(count, dtype, device)
    return batch


@over_dtypes
@over_rules
@pytest.mark.parametrize("shared", [True, False], ids=["shared_boxes", "own_boxes"])
def test_a_batch_is_its_images(device, dtype, rule, shared):
    """Each image gets what it gets without its NaN targets, in numbers of its own rows."""
    targets = batch_of_targets((5, 0, 1, 12), device, dtype)
    boxes = torch.stack([crowd(900, dtype, device) for _ in targets])
    boxes = boxes[0] if shared else boxes
    found = match_boxes(targets, boxes, **rule)
    assert found.shape == (4, 900)
    assert torch.equal(found, ref.match_boxes(targets, boxes, **rule))
    for image, of_image in enumerate(targets):
        rows = (~of_image.isnan().any(dim=1)).nonzero()[:, 0]
        alone = match_boxes(of_image[rows], boxes if shared else boxes[image], **rule)
        expected = torch.where(alone >= 0, rows[alone.clamp(min=0)], alone) if len(rows) else alone
        assert torch.equal(found[image], expected)


def test_nan_targets_by_hand(device):
    """Neither ties with a box's best nor a box at IoU 0 nor low quality go to a target of NaN; one NaN is enough."""
    nan = [math.nan] * 4
    good, far = [0.0, 0, 10, 10], [500.0, 500, 510, 510]
    targets = torch.tensor([[nan, good, good], [good, [0, 0, math.nan, 10], nan], [nan, nan, nan]], device=device)
    boxes = torch.tensor([good, far], device=device)
    low_quality = {**RPN, "allow_low_quality": True}
    for rule in (RPN, low_quality):
        assert match_boxes(targets, boxes, **rule).tolist() == [[1, -1], [0, -1], [-1, -1]]
    # At thresholds of 0 an IoU of 0 is a match: with the first target that is one.
    assert match_boxes(targets, boxes, high_threshold=0.0, low_threshold=0.0).tolist() == [[1, 1], [0, 0], [-1, -1]]
    # A target that nothing overlaps has every box for its best, a NaN has none.
    assert match_boxes(torch.tensor([nan, far], device=device), boxes[:1], **low_quality).tolist() == [1]


@pytest.mark.parametrize(("images", "targets", "boxes"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty_batches(device, images, targets, boxes):
    targets = torch.ones(images, targets, 4, device=device)
    for shape in ((boxes, 4), (images, boxes, 4)):
        found = match_boxes(targets, torch.zeros(shape, device=device), **RPN, allow_low_quality=True)
        assert found.shape == (images, boxes)
        assert (found == -1).all()


# ---------------------------------------------------------------------------------------------------------------------
# Operator contract, determinism


@over_dtypes
@pytest.mark.parametrize(("targets", "boxes"), [(0, 3), (3, 0), (4, 9)])
def test_opcheck(device, dtype, targets, boxes):
    inputs = crowd(targets, dtype, device), crowd(boxes, dtype, device)
    opcheck(torch.ops.fasterrcnn_ops.match_boxes.default, (*inputs, 0.7, 0.3, True))
    opcheck(torch.ops.fasterrcnn_ops.match_boxes.default, (*inputs, 0.7, 0.3, False, 0.5))
    batch = inputs[0].expand(2, -1, -1)
    opcheck(torch.ops.fasterrcnn_ops.match_boxes.default, (batch, inputs[1], 0.7, 0.3, True))
    opcheck(torch.ops.fasterrcnn_ops.match_boxes.default, (batch, inputs[1].expand(2, -1, -1), 0.7, 0.3, True))


def test_matches_are_constants(device):
    targets, boxes = crowd(3, device=device).requires_grad_(), crowd(5, device=device).requires_grad_()
    assert not match_boxes(targets, boxes, **RPN).requires_grad


def test_same_result_for_any_number_of_threads():
    targets, boxes = support.random_boxes(30), support.random_boxes(100_000)
    one, two = support.at_thread_counts(lambda: match_boxes(targets, boxes, **RPN, allow_low_quality=True))
    assert torch.equal(one, two)


# ---------------------------------------------------------------------------------------------------------------------
# Errors

FOUR = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("targets", "boxes", "options", "message"),
    [
        (torch.zeros(3, 5), FOUR, {}, r"targets: expected shape \[M, 4\] or \[B, M, 4\], got \[3, 5\]"),
        (torch.zeros(1, 2, 3, 4), FOUR, {}, r"targets: expected shape .*got \[1, 2, 3, 4\]"),
        (torch.zeros(2, 3, 4), torch.zeros(3, 5, 4), {}, r"boxes: expected shape \[N, 4\] or \[2, N, 4\] with these"),
        (torch.zeros(2, 3, 4), torch.zeros(5), {}, r"boxes: expected shape \[N, 4\], got \[5\]"),
        (FOUR, torch.zeros(2, 5, 4), {}, r"boxes: expected shape \[N, 4\], got \[2, 5, 4\]"),
        (FOUR, torch.zeros(4), {}, r"boxes: expected shape \[N, 4\], got \[4\]"),
        (FOUR.int(), FOUR, {}, "targets: expected dtype float16, bfloat16, float32 or float64, got Int"),
        (FOUR, FOUR.long(), {}, "boxes: expected dtype .*got Long"),
        (FOUR, FOUR, {"low_threshold": 0.8}, r"low_threshold: expected at most high_threshold \(0.7\), got 0.8"),
        (FOUR, FOUR, {"low_threshold": math.nan}, r"low_threshold: expected at most high_threshold .*nan"),
        (FOUR, FOUR, {"min_low_quality": math.nan}, "min_low_quality: expected a number, got NaN"),
    ],
)
def test_bad_arguments_raise(targets, boxes, options, message):
    with pytest.raises(RuntimeError, match=message):
        match_boxes(targets, boxes, **{**RPN, **options})


def test_devices_must_agree():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with pytest.raises(RuntimeError):
        match_boxes(FOUR, FOUR.cuda(), **RPN)
