"""fasterrcnn_ops.numpy computes what references in NumPy compute, and bit for bit what the torch operators do.

What it accepts and refuses: test_numpy_arrays.py. Without torch: tests/packaging/test_numpy_module.py. On every CPU
level: test_cpu_levels.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nms_scenes import SCENES, random_ids, seeded
from numpy.testing import assert_array_equal
from numpy_scenes import assert_same_bits, boxes_like

import fasterrcnn_ops
import fasterrcnn_ops.numpy as ops
from fasterrcnn_ops.box_coder import DELTA_CLIP

# --- golden, computed by hand -----------------------------------------------------------------------------------------


def test_golden():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [0, 0, 10, 10]]
    scores = [0.8, 0.9, 0.5, 0.1]
    assert ops.nms(boxes, scores, 0.5).tolist() == [1, 2]
    assert ops.nms(boxes, scores, 0.9).tolist() == [1, 0, 2]  # 0.9 is not above 0.9
    assert ops.nms(boxes, scores, 0.5, max_output=1).tolist() == [1]
    assert ops.batched_nms(boxes, scores, [7, 7, 7, -7], 0.5).tolist() == [1, 2, 3]
    keep, softened = ops.soft_nms(boxes, scores, 0.5, method="linear", max_output=3)
    assert keep.tolist() == [1, 2, 0]
    np.testing.assert_allclose(softened, [0.9, 0.5, 0.8 * 0.1])
    assert ops.soft_nms(boxes, scores, 0.5, method="naive")[0].tolist() == [1, 2]
    _, softened = ops.soft_nms(boxes[:2], scores[:2], sigma=0.3, method="gaussian")
    np.testing.assert_allclose(softened, [0.9, 0.8 * math.exp(-2.7)])
    assert ops.box_iou(boxes[:1], boxes[1:]).tolist() == [[0.9, 0.0, 1.0]]
    assert ops.encode_boxes([[2, 0, 10, 4]], [[0, 0, 4, 8]], (1, 2, 1, 1)).tolist() == [
        [1.0, -0.5, math.log(2), math.log(0.5)]
    ]
    assert ops.decode_boxes([[1, -0.25, 0, 0, 0, 0, 0, 0]], [[0, 0, 4, 8]]).tolist() == [[4, -2, 8, 6, 0, 0, 4, 8]]
    assert ops.decode_boxes([[1, -0.25, 0, 0]], [[0, 0, 4, 8]], image_size=(5, 6)).tolist() == [[4, 0, 6, 5]]
    assert ops.grid_anchors([[-1, -2, 1, 2]], (2, 1), (8, 4), offset=3).tolist() == [[2, 1, 4, 5], [2, 9, 4, 13]]
    assert ops.cell_anchors(128, (0.5, 1.0), rule="rounded").tolist() == [[-84, -40, 99, 55], [-56, -56, 71, 71]]


# --- references in NumPy ----------------------------------------------------------------------------------------------


def iou_by_numpy(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    first, second = boxes1[:, None], boxes2[None]
    with np.errstate(all="ignore"):
        sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
        sides = np.where(sides < 0, 0, sides).astype(boxes1.dtype)
        overlap = sides[..., 0] * sides[..., 1]
        area1, area2 = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (first, second))
        return overlap / (area1 + area2 - overlap)


def nms_by_numpy(boxes, scores, threshold, idxs=None, max_output=None) -> list[int]:
    above = iou_by_numpy(boxes, boxes).astype(np.float64) > threshold
    if idxs is not None:
        above &= idxs[:, None] == idxs
    # NaN first, then descending; lexsort is stable.
    order = np.lexsort((-np.nan_to_num(scores, nan=0, posinf=np.inf, neginf=-np.inf), ~np.isnan(scores)))
    kept: list[int] = []
    for index in order.tolist():
        if not above[index, kept].any():
            kept.append(index)
    return kept[:max_output]


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("n", [0, 1, 17, 400])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nms_by_numpy(scene, n, dtype):
    boxes, scores = (tensor.numpy() for tensor in SCENES[scene](n, seeded(n), dtype))
    ids = random_ids(n, seeded(n), 5).numpy()
    for threshold in (0.5, 0.3, 0.0, 1.0):
        assert ops.nms(boxes, scores, threshold).tolist() == nms_by_numpy(boxes, scores, threshold)
        assert ops.nms(boxes, scores, threshold, max_output=9).tolist() == nms_by_numpy(
            boxes, scores, threshold, max_output=9
        )
        found = ops.batched_nms(boxes, scores, ids, threshold)
        assert found.dtype == np.int64
        assert found.tolist() == nms_by_numpy(boxes, scores, threshold, ids)


def soft_nms_by_numpy(boxes, scores, threshold, sigma, min_score, method):
    iou, left = iou_by_numpy(boxes, boxes), scores.copy()
    weights = {
        "linear": np.where(iou >= threshold, 1 - iou, 1),
        "naive": np.where(iou >= threshold, 0.0, 1),
        "gaussian": np.exp(-(iou**2) / sigma),
    }[method]
    remaining, kept = list(range(len(boxes))), []
    while remaining:
        best = max(remaining, key=lambda index: (left[index], -index))
        kept.append((best, left[best]))
        remaining.remove(best)
        left[remaining] *= weights[best, remaining]
        remaining = [index for index in remaining if left[index] >= min_score]
    return kept


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_by_numpy(method):
    boxes, scores = (tensor.numpy() for tensor in SCENES["clustered"](300, seeded(0), torch.float64))
    keep, softened = ops.soft_nms(boxes, scores, 0.4, 0.6, 0.01, method)
    expected = soft_nms_by_numpy(boxes, scores, 0.4, 0.6, 0.01, method)
    assert len(expected) > 30
    assert keep.tolist() == [index for index, _ in expected]
    np.testing.assert_allclose(softened, [score for _, score in expected], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "m"), [(0, 0), (3, 0), (0, 3), (1, 1), (5, 2100), (300, 7)])
def test_box_iou_by_numpy(dtype, n, m):
    boxes1, boxes2 = boxes_like(n, dtype), boxes_like(m, dtype)
    boxes1[:1] = np.nan
    assert_array_equal(ops.box_iou(boxes1, boxes2), iou_by_numpy(boxes1, boxes2))


@pytest.mark.parametrize("inclusive", [False, True])
def test_box_coder_by_numpy(inclusive):
    boxes, anchors, extent = boxes_like(50, np.float64), boxes_like(50, np.float64), float(inclusive)
    weights = np.array([10, 10, 5, 5])
    (size, centre), (anchor_size, anchor_centre) = (
        (side, b[:, :2] + side / 2) for b in (boxes, anchors) for side in [b[:, 2:] - b[:, :2] + extent]
    )
    expected = np.hstack([(centre - anchor_centre) / anchor_size, np.log(size / anchor_size)]) * weights
    deltas = ops.encode_boxes(boxes, anchors, weights, inclusive=inclusive)
    np.testing.assert_allclose(deltas, expected, rtol=1e-12, atol=1e-12)
    twice = np.hstack([deltas, deltas])
    decoded = ops.decode_boxes(twice, anchors, weights, inclusive=inclusive, clip=math.inf)
    np.testing.assert_allclose(decoded, np.hstack([boxes, boxes]), rtol=1e-12)


def test_grid_anchors_by_numpy():
    cells = ops.cell_anchors((32, 64), (0.5, 1, 2), rule="classic", dtype=np.float64)
    y, x = np.mgrid[:3, :5]
    shifts = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4) * [16, 8, 16, 8] + 4
    assert_array_equal(ops.grid_anchors(cells, (3, 5), (8, 16), offset=4), (shifts + cells).reshape(-1, 4))


# --- the torch operators, bit for bit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scene", SCENES)
def test_nms_as_torch(scene, dtype):
    for n in (0, 2, 64, 1500):
        boxes, scores = SCENES[scene](n, seeded(n), dtype)
        for id_dtype in (torch.int64, torch.uint8, torch.float16, torch.bool):
            ids = random_ids(n, seeded(n), 7, id_dtype)
            found = ops.batched_nms(boxes.numpy(), scores.double().numpy(), ids.numpy(), 0.4)
            assert_same_bits(found, fasterrcnn_ops.batched_nms(boxes, scores.double(), ids, 0.4).numpy())
        for threshold in (0.7, 1 / 3, -0.5, math.nan):
            expected = fasterrcnn_ops.nms(boxes, scores, threshold).numpy()
            assert_same_bits(ops.nms(boxes.numpy(), scores.numpy(), threshold), expected)
            assert_same_bits(ops.nms(boxes.numpy(), scores.numpy(), threshold, max_output=20), expected[:20])


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scene", SCENES)
def test_soft_nms_as_torch(scene, dtype, method):
    for n in (0, 1, 300):
        boxes, scores = SCENES[scene](n, seeded(n), dtype)
        for score_dtype in (torch.float16, torch.float32, torch.float64):
            arguments = (scores.to(score_dtype), 0.3, 0.7, 0.01, method)
            for limit in (None, 7):
                expected = fasterrcnn_ops.soft_nms(boxes, *arguments, max_output=limit)
                found = ops.soft_nms(boxes.numpy(), arguments[0].numpy(), *arguments[1:], max_output=limit)
                for array, tensor in zip(found, expected, strict=True):
                    assert_same_bits(array, tensor.numpy())


@pytest.mark.parametrize("first", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("second", [np.float16, np.float32, np.float64])
def test_box_coder_as_torch(first, second):
    boxes, anchors = boxes_like(301, first), boxes_like(301, second)
    boxes[0, 0], boxes[1], anchors[2, 1] = np.nan, np.inf, -np.inf
    weights, size = (10.0, 10.0, 5.0, 5.0), (300.0, 350.5)
    for inclusive in (False, True):
        deltas = ops.encode_boxes(boxes, anchors, weights, inclusive=inclusive)
        expected = fasterrcnn_ops.encode_boxes(torch.tensor(boxes), torch.tensor(anchors), weights, inclusive=inclusive)
        assert_same_bits(deltas, expected.numpy())
        options = {"clip": 1.5, "image_size": size, "inclusive": inclusive}
        many = np.hstack([deltas, deltas * 0.5, deltas * 4])
        decoded = fasterrcnn_ops.decode_boxes(torch.tensor(many), torch.tensor(anchors), weights, **options)
        assert_same_bits(ops.decode_boxes(many, anchors, weights, **options), decoded.numpy())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_boxes_and_anchors_as_torch(dtype):
    boxes1, boxes2 = boxes_like(120, dtype), boxes_like(2300, dtype)
    boxes1[3], boxes2[5, 2] = np.inf, np.nan
    expected = fasterrcnn_ops.box_iou(torch.tensor(boxes1), torch.tensor(boxes2)).numpy()
    assert_same_bits(ops.box_iou(boxes1, boxes2), expected)
    for rule in ("centered", "torchvision", "stepwise", "classic", "rounded"):
        torch_dtype = torch.tensor(boxes1).dtype
        cells = fasterrcnn_ops.cell_anchors((32, 100.5), (0.5, 1, 2), rule=rule, dtype=torch_dtype)
        assert_same_bits(ops.cell_anchors((32, 100.5), (0.5, 1, 2), rule=rule, dtype=dtype), cells.numpy())
        expected = fasterrcnn_ops.grid_anchors(cells, (7, 9), (16, 12.5), offset=0.3).numpy()
        assert_same_bits(ops.grid_anchors(cells.numpy(), (7, 9), (16, 12.5), offset=0.3), expected)
    assert ops.grid_anchors(boxes1, (1, 1), 8, dtype=np.float32).dtype == np.float32
    assert ops.DELTA_CLIP == DELTA_CLIP
