"""NMS against torchvision's CPU kernel: identical indices on thousands of random and hostile inputs.

Its batched_nms is no oracle for ours (it shifts the boxes of each class, which goes wrong with negative coordinates),
so ours is compared with torchvision's nms run once per id.
"""

from __future__ import annotations

import pytest
import support
import torch
from nms_scenes import (
    INF,
    NAN,
    SCENES,
    THRESHOLDS,
    assert_same,
    clustered,
    of_all_sizes,
    random_ids,
    seeded,
    staircase,
)
from support import FULL_DTYPES, dtype_id

from fasterrcnn_ops.nms import batched_nms, nms, nms_padded

torchvision = support.require_torchvision()

ROUNDS = 400  # per scene and dtype: 2400 inputs, each for nms, batched_nms and nms_padded


def per_id_nms(boxes, scores, ids, threshold):
    """torchvision's nms within each id, all survivors by descending score."""
    survives = torch.zeros(len(boxes), dtype=torch.bool)
    for identity in ids.unique():
        members = (ids == identity).nonzero()[:, 0]
        survives[members[torchvision.ops.nms(boxes[members], scores[members], threshold)]] = True
    ranked = torch.sort(scores, stable=True, descending=True).indices
    return ranked[survives[ranked]]


@pytest.mark.parametrize("dtype", FULL_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("scene", SCENES)
def test_random_scenes(scene, dtype):
    for round_ in range(ROUNDS):
        generator = seeded(round_)
        n = int(torch.randint(200, (), generator=generator))
        boxes, scores = SCENES[scene](n, generator, dtype)
        ids = random_ids(n, generator, 1 + round_ % 12)
        # Every other round a threshold of the list, else a random one.
        threshold = (
            THRESHOLDS[round_ // 2 % len(THRESHOLDS)] if round_ % 2 else float(torch.rand((), generator=generator))
        )
        expected = torchvision.ops.nms(boxes, scores, threshold)
        assert_same(nms(boxes, scores, threshold), expected)
        assert_same(batched_nms(boxes, scores, ids, threshold), per_id_nms(boxes, scores, ids, threshold))
        keep, count = nms_padded(boxes, scores, iou_threshold=threshold, max_output=n // 3)
        assert_same(keep[: int(count)], expected[: n // 3])


@pytest.mark.parametrize("dtype", FULL_DTYPES, ids=dtype_id)
def test_iou_at_the_threshold(dtype):
    """IoU = k/m exactly, against the threshold k/m as a double and its two neighbours, at several scales."""
    for m in range(2, 41):
        for k in range(1, m):
            scale = 2.0 ** (k % 5 - 2) * (1 if m % 2 else 3)
            boxes = torch.tensor([[0, 0, m, 1], [0, 0, k, 1]], dtype=dtype) * scale
            scores = torch.tensor([0.9, 0.8], dtype=dtype)
            exact = torch.tensor(k / m, dtype=torch.float64)
            for towards in (exact, torch.tensor(2.0).double(), torch.tensor(-2.0).double()):
                threshold = float(torch.nextafter(exact, towards))
                assert_same(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("dtype", FULL_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("step", [1.0, 3.0, 4.0, 7 / 3])
def test_staircases(dtype, step):
    for n in (63, 64, 65, 500):
        boxes, scores = staircase(n, dtype, step)
        for threshold in (0.3, 0.5, 0.7, 1 / 3):
            assert_same(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("dtype", FULL_DTYPES, ids=dtype_id)
def test_scales_down_to_denormal_areas(dtype):
    """Areas and intersections that are denormal, zero or infinite."""
    info = torch.finfo(dtype)
    for exponent in range(0, 300 if dtype == torch.float64 else 38):
        for scale in (10.0**-exponent, 10.0 ** (exponent / 2), info.tiny**0.5 * 2.0 ** (exponent / 4 - 10)):
            boxes, scores = clustered(40, seeded(exponent), torch.float64)
            boxes = ((boxes / 16).round() * scale).to(dtype)
            assert_same(nms(boxes, scores.to(dtype), 0.3), torchvision.ops.nms(boxes, scores.to(dtype), 0.3))


@pytest.mark.parametrize("n", [2000, 6000])
def test_proposal_sizes(n):
    boxes, scores = clustered(n, seeded(n))
    ids = random_ids(n, seeded(n), 80)
    for threshold in (0.3, 0.5, 0.7):
        assert_same(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))
        assert_same(batched_nms(boxes, scores, ids, threshold), per_id_nms(boxes, scores, ids, threshold))


@pytest.mark.parametrize("dtype", FULL_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 2.0**-33, 2.0**25])
@pytest.mark.parametrize("offset", [0.0, -500.0, 3e6])
def test_all_sizes_near_the_threshold(dtype, scale, offset):
    """Inputs large enough to be searched by size and place, at scales where that works and where it cannot."""
    for round_, threshold in enumerate((0.1, 0.2, 0.21, 0.3, 0.35, 0.5, 0.6, 0.7, 0.9, 0.99, 1 / 3)):
        n = 513 + 150 * round_
        generator = seeded(round_)
        boxes, scores = of_all_sizes(n, generator, dtype, threshold=threshold, scale=scale, offset=offset)
        if round_ % 2:
            poison = torch.rand(boxes.shape, generator=generator) < 0.01
            boxes[poison] = torch.tensor([NAN, INF, -INF, 0.0])[torch.randint(4, (int(poison.sum()),))].to(dtype)
        expected = torchvision.ops.nms(boxes, scores, threshold)
        assert_same(nms(boxes, scores, threshold), expected)
        keep, count = nms_padded(boxes, scores, iou_threshold=threshold, max_output=n // 3)
        assert_same(keep[: int(count)], expected[: n // 3])
        ids = random_ids(n, generator, 2, torch.int64)
        assert_same(batched_nms(boxes, scores, ids, threshold), per_id_nms(boxes, scores, ids, threshold))


def test_score_ties_and_nan():
    boxes, _ = clustered(2000, seeded(0))
    values = torch.tensor([0.5, 0.0, -0.0, NAN, -NAN, INF, -INF, 0.5])
    scores = values[torch.randint(len(values), (2000,), generator=seeded(1))]
    for threshold in (0.5, 1.0):
        assert_same(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


def test_half_types_are_float32_after_widening():
    """torchvision has no half kernel on the CPU; ours decides as its float32 kernel does on the widened values."""
    for dtype in support.HALF_DTYPES:
        boxes, scores = clustered(500, seeded(0), dtype)
        expected = torchvision.ops.nms(boxes.float(), scores.float(), 0.5)
        assert_same(nms(boxes, scores, 0.5), expected)


def test_calls_look_the_same():
    """Argument names, and the shapes and dtypes of empty results."""
    import inspect

    for ours, theirs in ((nms, torchvision.ops.nms), (batched_nms, torchvision.ops.batched_nms)):
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    empty = torch.empty(0, 4)
    for found, expected in (
        (nms(empty, empty[:, 0], 0.5), torchvision.ops.nms(empty, empty[:, 0], 0.5)),
        (batched_nms(empty, None, None, None), torchvision.ops.batched_nms(empty, None, None, None)),
    ):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
