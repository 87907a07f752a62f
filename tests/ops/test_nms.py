"""nms, batched_nms and nms_padded: what they compute. How they behave inside torch: test_nms_torch.py."""

from __future__ import annotations

import itertools

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nms_scenes import (
    INF,
    NAN,
    SCENES,
    THRESHOLDS,
    assert_same,
    clustered,
    iou_matrix,
    of_all_sizes,
    on_a_grid,
    random_ids,
    seeded,
    staircase,
)
from support import FLOAT_DTYPES, LAYOUTS, dtype_id

from fasterrcnn_ops.nms import batched_nms, nms, nms_padded
from fasterrcnn_ops.reference import nms as reference


@pytest.fixture(autouse=True)
def _kernel_there(request: pytest.FixtureRequest) -> None:
    device = request.getfixturevalue("device").type if "device" in request.fixturenames else "cpu"
    if not torch._C._dispatch_has_kernel_for_dispatch_key("fasterrcnn_ops::nms", device.upper()):
        pytest.skip(f"nms has no {device} kernel in this build")


# --- hand-computed ---------------------------------------------------------------------------------------------------


def test_golden(device):
    """IoUs: (0, 1) 90/100, (0, 2) 50/150 = 1/3, (1, 2) 40/150, (3, others) 0."""
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [0, 5, 10, 15], [20, 20, 30, 30.0]], device=device)
    scores = torch.tensor([0.8, 0.9, 0.5, 0.1], device=device)
    ids = torch.tensor([7, 7, -2, 7], device=device)
    assert nms(boxes, scores, 0.95).tolist() == [1, 0, 2, 3]
    assert nms(boxes, scores, 0.9).tolist() == [1, 0, 2, 3]  # 90/100 rounds to the float32 below 0.9
    assert nms(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert nms(boxes, scores, 0.2).tolist() == [1, 3]
    assert batched_nms(boxes, scores, ids, 0.2).tolist() == [1, 2, 3]
    keep, count = nms_padded(boxes, scores, iou_threshold=0.5, max_output=5)
    assert (keep.tolist(), count.item()) == ([1, 2, 3, -1, -1], 3)
    keep, count = nms_padded(boxes, scores, ids, iou_threshold=0.2, max_output=2)
    assert (keep.tolist(), count.item()) == ([1, 2], 2)


def test_a_suppressed_box_suppresses_nothing(device):
    boxes, scores = (values.to(device) for values in staircase(4, step=3.0))  # neighbours 7/13, second neighbours 4/16
    assert nms(boxes, scores, 0.5).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("dtype", "threshold", "kept"),
    [
        (torch.float64, 0.3, 2),  # the double 3/10 is the double 0.3
        (torch.float32, 0.3, 1),  # the float32 3/10 lies above the double 0.3, and the threshold is not rounded
        (torch.float16, 0.3, 1),  # widened to float32
        (torch.bfloat16, 0.3, 1),
        (torch.float32, 0.7, 2),  # the float32 7/10 lies below
        (torch.float32, 0.5, 2),
    ],
)
def test_threshold_precision(device, dtype, threshold, kept):
    """IoU of exactly 3/10, 7/10, 1/2 before rounding: strictly above suppresses."""
    height = {0.3: 3, 0.7: 7, 0.5: 5}[threshold]
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, height]], dtype=dtype, device=device)
    assert len(nms(boxes, torch.tensor([1.0, 0.5], dtype=dtype, device=device), threshold)) == kept


# --- against the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("scene", SCENES)
def test_equals_reference(device, dtype, scene):
    for seed, n in enumerate((0, 1, 2, 3, 31, 32, 33, 63, 64, 65, 100, 300)):
        boxes, scores = (values.to(device) for values in SCENES[scene](n, seeded(seed), dtype))
        ids = random_ids(n, seeded(seed), 5).to(device)
        for threshold in THRESHOLDS if n <= 65 else (0.3, 0.5):
            assert_same(nms(boxes, scores, threshold), reference.nms(boxes, scores, threshold))
            assert_same(
                batched_nms(boxes, scores, ids, threshold), reference.batched_nms(boxes, scores, ids, threshold)
            )


@pytest.mark.parametrize("scene", SCENES)
def test_padded_equals_reference(device, scene):
    for n, max_output in itertools.product((0, 1, 40, 150), (0, 1, 7, 150, 200)):
        boxes, scores = (values.to(device) for values in SCENES[scene](n, seeded(n)))
        for ids in (None, random_ids(n, seeded(n), 4).to(device)):
            found = nms_padded(boxes, scores, ids, iou_threshold=0.4, max_output=max_output)
            expected = reference.nms_padded(boxes, scores, ids, iou_threshold=0.4, max_output=max_output)
            assert_same(found[0], expected[0])
            assert found[1].shape == ()
            assert_same(found[1], expected[1])


@pytest.mark.parametrize("scale", [1.0, 1e-3, 2.0**-33])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_large_equals_reference(device, threshold, scale):
    """Enough boxes to be searched by size and place."""
    boxes, scores = of_all_sizes(1500, seeded(7), threshold=threshold, scale=scale, offset=-300.0)
    boxes, scores = boxes.to(device), scores.to(device)
    ids = random_ids(1500, seeded(8), 2).to(device)
    assert_same(nms(boxes, scores, threshold), reference.nms(boxes, scores, threshold))
    assert_same(batched_nms(boxes, scores, ids, threshold), reference.batched_nms(boxes, scores, ids, threshold))


@pytest.mark.parametrize(("box_dtype", "score_dtype"), list(itertools.permutations(FLOAT_DTYPES, 2)), ids=dtype_id)
def test_mixed_dtypes(device, box_dtype, score_dtype):
    boxes, scores = clustered(200, seeded(0), torch.float64)
    boxes, scores = boxes.to(device, box_dtype), scores.to(device, score_dtype)
    assert_same(nms(boxes, scores, 0.5), reference.nms(boxes, scores, 0.5))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_are_free(device, layout):
    boxes, scores = (values.to(device) for values in clustered(100, seeded(0)))
    ids = random_ids(100, seeded(0), 3).to(device)
    found = batched_nms(LAYOUTS[layout](boxes), support.strided_copy(scores), support.strided_copy(ids), 0.5)
    assert_same(found, reference.batched_nms(boxes, scores, ids, 0.5))


def test_columns_of_a_table_and_expanded_boxes(device):
    boxes, scores = (values.to(device) for values in clustered(100, seeded(0)))
    detections = torch.cat([boxes, scores[:, None]], dim=1)  # [N, 5]
    assert_same(nms(detections[:, :4], detections[:, 4], 0.5), nms(boxes, scores, 0.5))
    assert nms(boxes[:1].expand(50, 4), torch.ones(1, device=device).expand(50), 0.5).tolist() == [0]


# --- invariants ------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 80),
    scene=st.sampled_from([clustered, on_a_grid]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    threshold=st.one_of(st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.floats(0, 1)),
    classes=st.integers(1, 6),
    data=st.data(),
)
def test_invariants(device, seed, n, scene, dtype, threshold, classes, data):
    """What defines greedy NMS: ranked order, no kept pair above the threshold, a kept suppressor per dropped box."""
    generator = seeded(seed)
    boxes, scores = (values.to(device) for values in scene(n, generator, dtype))
    ids = random_ids(n, generator, classes).to(device)
    keep = batched_nms(boxes, scores, ids, threshold)
    ranked = torch.sort(scores, stable=True, descending=True).indices
    rank = torch.empty_like(ranked)
    rank[ranked] = torch.arange(n, device=device)
    assert (rank[keep].diff() > 0).all()  # descending scores, ties by index, no repetition

    above = (iou_matrix(boxes).double() > threshold) & (ids[:, None] == ids)
    assert not (above[keep][:, keep] & ~torch.eye(len(keep), dtype=torch.bool, device=device)).any()
    dropped = torch.ones(n, dtype=torch.bool, device=device)
    dropped[keep] = False
    better = rank[keep][:, None] < rank[None]
    assert (above[keep] & better).any(dim=0)[dropped].all()

    # All ids equal: plain NMS. A limit only cuts the list. Kept boxes survive a second run.
    assert_same(batched_nms(boxes, scores, torch.full_like(ids, -7), threshold), nms(boxes, scores, threshold))
    limit = data.draw(st.integers(0, n + 3))
    padded, count = nms_padded(boxes, scores, ids, iou_threshold=threshold, max_output=limit)
    assert count == min(limit, len(keep))
    assert padded.tolist() == keep[:limit].tolist() + [-1] * (limit - int(count))
    assert_same(batched_nms(boxes[keep], scores[keep], ids[keep], threshold), torch.arange(len(keep)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), threshold=st.floats(allow_nan=True, allow_infinity=True))
def test_any_threshold_and_hostile_values(device, seed, n, threshold):
    boxes, scores = (values.to(device) for values in SCENES["hostile"](n, seeded(seed)))
    assert_same(nms(boxes, scores, threshold), reference.nms(boxes, scores, threshold))


def test_permuting_boxes_permutes_the_result(device):
    boxes, scores = (values.to(device) for values in clustered(300, seeded(0)))
    order = torch.randperm(300, generator=seeded(1)).to(device)
    assert_same(order[nms(boxes[order], scores[order], 0.5)], nms(boxes, scores, 0.5))


# --- edges -----------------------------------------------------------------------------------------------------------

SAME = torch.tensor([[0.0, 0.0, 10.0, 10.0]])


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
def test_empty(device, dtype):
    boxes, scores = torch.empty(0, 4, dtype=dtype, device=device), torch.empty(0, dtype=dtype, device=device)
    ids = torch.empty(0, dtype=torch.int64, device=device)
    assert_same(nms(boxes, scores, 0.5), ids)
    assert_same(batched_nms(boxes, scores, ids, 0.5), ids)
    assert_same(batched_nms(boxes, None, None, None), ids)
    keep, count = nms_padded(boxes, scores, iou_threshold=0.5, max_output=3)
    assert (keep.tolist(), count.item()) == ([-1, -1, -1], 0)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
def test_order_of_scores(device, dtype):
    """NaN of any sign first, then inf … -inf; 0.0 and -0.0 tie; ties by index. At threshold 1 everything stays."""
    scores = torch.tensor([0.0, 1.0, -0.0, NAN, -INF, -1.0, INF, -NAN, 0.0, 1.0], dtype=dtype)
    scores[7] = torch.copysign(scores[7], torch.tensor(-1.0, dtype=dtype))
    assert nms(SAME.repeat(10, 1).to(device, dtype), scores.to(device), 1.0).tolist() == [3, 7, 6, 1, 9, 0, 2, 8, 5, 4]


def test_every_float16_score_in_order(device):
    scores = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)
    apart = torch.arange(2**16, dtype=torch.float32)[:, None] * 2 + torch.tensor([0.0, 0.0, 1.0, 1.0])
    ids = torch.arange(2**16)
    found = batched_nms(apart.to(device), scores.to(device), ids.to(device), 0.5)
    assert_same(found, torch.sort(scores.float(), stable=True, descending=True).indices)


@pytest.mark.parametrize(
    "box",
    [
        [3.0, 3.0, 3.0, 9.0],  # no area: 0/0
        [3.0, 3.0, 3.0, 3.0],
        [10.0, 10.0, 0.0, 0.0],  # inverted on both axes: positive area, no intersection
        [10.0, 0.0, 0.0, 10.0],  # inverted on one
        [0.0, 0.0, NAN, 10.0],
        [0.0, 0.0, INF, 10.0],
        [-INF, -INF, INF, INF],
        [INF, INF, INF, INF],
        [-3e38, -3e38, 3e38, 3e38],  # the area overflows
        [0.0, 0.0, 1e-30, 1e-30],  # the area underflows to zero
    ],
)
def test_duplicates_that_both_stay(device, box):
    boxes, scores = torch.tensor([box, box], device=device), torch.tensor([0.1, 0.2], device=device)
    assert nms(boxes, scores, 0.0).tolist() == [1, 0]
    assert batched_nms(boxes, scores, torch.zeros(2, device=device), 0.0).tolist() == [1, 0]


def test_thresholds_beyond_the_unit_interval(device):
    boxes, scores = (values.to(device) for values in on_a_grid(40, seeded(0)))
    boxes[:, 2:] += 1  # every box has an area, so every IoU is a number
    best = [int(torch.sort(scores, stable=True, descending=True).indices[0])]
    assert nms(boxes, scores, -0.1).tolist() == best
    assert nms(boxes, scores, -INF).tolist() == best
    for threshold in (1.0, 2.0, INF, NAN):
        assert len(nms(boxes, scores, threshold)) == 40


def test_a_nan_score_survives_and_suppresses(device):
    boxes = SAME.repeat(3, 1).to(device)
    scores = torch.tensor([INF, NAN, 1.0], device=device)
    assert nms(boxes, scores, 0.5).tolist() == [1]
    assert batched_nms(boxes, scores, torch.tensor([0, 1, 0], device=device), 0.5).tolist() == [1, 0]


@pytest.mark.parametrize(
    "dtype",
    [
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.bool,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    ]
    + list(FLOAT_DTYPES),
    ids=dtype_id,
)
def test_id_dtypes(device, dtype):
    boxes, scores = (values.to(device) for values in clustered(200, seeded(0)))
    wide = random_ids(200, seeded(1), 2 if dtype == torch.bool else 6, torch.uint8).to(device)
    expected = reference.batched_nms(boxes, scores, wide, 0.3)
    assert_same(batched_nms(boxes, scores, wide.to(dtype), 0.3), expected)


def test_ids_are_compared_exactly(device):
    boxes, scores = SAME.repeat(4, 1).to(device), torch.tensor([0.9, 0.8, 0.7, 0.6], device=device)

    def kept(*ids, dtype=None):
        return batched_nms(boxes, scores, torch.tensor(ids, dtype=dtype, device=device), 0.5).tolist()

    huge = 2**53  # as doubles, huge and huge + 1 are one number
    assert kept(huge, huge + 1, huge, -huge) == [0, 1, 3]
    assert kept(2**63 - 1, -(2**63), 2**63 - 1, 0) == [0, 1, 3]
    assert kept(0.1, 0.1 + 2**-53, 0.1, 0.5, dtype=torch.float64) == [0, 1, 3]
    assert kept(0.0, -0.0, INF, INF) == [0, 2]
    for dtype in FLOAT_DTYPES:
        smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # denormal
        assert kept(NAN, NAN, 0.0, NAN, dtype=dtype) == [0, 1, 2, 3]
        assert kept(INF, NAN, INF, -INF, dtype=dtype) == [0, 1, 3]
        assert kept(1.0, 1.0 + torch.finfo(dtype).eps, 1.0, -1.0, dtype=dtype) == [0, 1, 3]
        assert kept(smallest, 2 * smallest, smallest, 3 * smallest, dtype=dtype) == [0, 1, 3]
    for dtype in (torch.int8, torch.int16, torch.int32):
        assert kept(-1, 1, -1, torch.iinfo(dtype).min, dtype=dtype) == [0, 1, 3]


@pytest.mark.parametrize("shift", [0.0, -1000.0, 1e6])
def test_classes_never_meet(device, shift):
    """Negative coordinates and large ids, where shifting boxes by class goes wrong."""
    boxes, scores = clustered(400, seeded(0))
    boxes, scores = (boxes + shift).to(device), scores.to(device)
    ids = random_ids(400, seeded(1), 80).to(device) * 12_345_678_901
    expected = torch.zeros(400, dtype=torch.bool, device=device)
    for identity in ids.unique():
        members = (ids == identity).nonzero()[:, 0]
        expected[members[nms(boxes[members], scores[members], 0.5)]] = True
    ranked = torch.sort(scores, stable=True, descending=True).indices
    assert_same(batched_nms(boxes, scores, ids, 0.5), ranked[expected[ranked]])


def test_many_boxes(device):
    """Long kept lists and a full hash table; every box is its own class, then none overlaps, then all are one."""
    n = 100_000
    boxes, scores = staircase(n, torch.float64, step=11.0)
    boxes, scores, ids = boxes[:20_000].to(device), scores.to(device), torch.arange(n, device=device)
    assert_same(nms(boxes, scores[:20_000], 0.0), ids[:20_000])
    same = SAME.to(device).expand(n, 4)
    assert_same(batched_nms(same, scores, ids * 2**40, 0.5), ids)
    assert nms(same, scores, 0.5).tolist() == [0]
