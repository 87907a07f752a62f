"""fasterrcnn_ops.numpy: equal to the torch operators bit for bit and to references in NumPy; what is accepted.

Without torch, and on every CPU level: tests/packaging/test_numpy_module.py and test_cpu_levels.py.
"""

from __future__ import annotations

import math
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from nms_scenes import SCENES, random_ids, seeded
from numpy.testing import assert_array_equal

import fasterrcnn_ops
import fasterrcnn_ops.numpy as ops
from fasterrcnn_ops.box_coder import DELTA_CLIP

RNG = np.random.default_rng(0)


def boxes_like(n: int, dtype=np.float32) -> np.ndarray:
    corner = RNG.uniform(0, 400, (n, 2))
    return np.hstack([corner, corner + RNG.uniform(1, 200, (n, 2))]).astype(dtype)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert_array_equal(np.ascontiguousarray(found).view(np.uint8), np.ascontiguousarray(expected).view(np.uint8))


# --- golden, computed by hand -----------------------------------------------------------------------------------------


def test_golden():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [0, 0, 10, 10]]
    scores = [0.8, 0.9, 0.5, 0.1]
    assert ops.nms(boxes, scores, 0.5).tolist() == [1, 2]
    assert ops.nms(boxes, scores, 0.9).tolist() == [1, 0, 2]  # 0.9 is not above 0.9
    assert ops.nms(boxes, scores, 0.5, max_output=1).tolist() == [1]
    assert ops.batched_nms(boxes, scores, [7, 7, 7, -7], 0.5).tolist() == [1, 2, 3]
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


# --- any array-like; contiguous ones are not copied -------------------------------------------------------------------


def unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert array.size == 0 or not view.flags.aligned
    return view


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "fortran": np.asfortranarray,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "unaligned": unaligned,
    "read_only": read_only,
    "other_endian": lambda a: a.astype(a.dtype.newbyteorder()),
    "list": np.ndarray.tolist,
    "subclass": lambda a: np.ma.masked_array(a),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layouts(layout, dtype):
    if layout == "list":
        dtype = np.float64  # what a list of floats becomes
    changed = LAYOUTS[layout]
    boxes, anchors = boxes_like(70, dtype), boxes_like(70, dtype)
    scores, ids = RNG.random(70).astype(dtype), RNG.integers(-2, 3, 70)
    deltas = ops.encode_boxes(boxes, anchors)
    assert_same_bits(ops.encode_boxes(changed(boxes), changed(anchors)), deltas)
    assert_same_bits(ops.decode_boxes(changed(deltas), changed(anchors)), ops.decode_boxes(deltas, anchors))
    assert_same_bits(ops.nms(changed(boxes), changed(scores), 0.4), ops.nms(boxes, scores, 0.4))
    found = ops.batched_nms(changed(boxes), changed(scores), changed(ids), 0.4)
    assert_same_bits(found, ops.batched_nms(boxes, scores, ids, 0.4))
    assert_same_bits(ops.box_iou(changed(boxes), changed(anchors)), ops.box_iou(boxes, anchors))
    assert_same_bits(ops.grid_anchors(changed(anchors), (2, 3), 4), ops.grid_anchors(anchors, (2, 3), 4))


def test_arguments_stay_as_they_are():
    boxes, scores = boxes_like(100), RNG.random(100)
    before = boxes.copy(), scores.copy()
    ops.nms(boxes, scores, 0.3)
    ops.decode_boxes(boxes, boxes, image_size=(10, 10))
    ops.box_iou(boxes, boxes)
    assert_same_bits(boxes, before[0])
    assert_same_bits(scores, before[1])


def test_integers_are_float64_and_torch_tensors_arrays():
    boxes = np.array([[0, 0, 3, 3], [0, 0, 3, 1], [2**40, 0, 2**40 + 3, 1]])
    assert_same_bits(ops.box_iou(boxes, boxes.astype(np.uint64)), ops.box_iou(boxes.astype(float), boxes.astype(float)))
    assert ops.box_iou(boxes.astype(np.float32), boxes.astype(np.float32)).dtype == np.float32
    assert ops.nms(boxes, [1, 2, 3], 0.2).tolist() == [2, 1]
    assert ops.nms(torch.tensor(boxes), torch.tensor([1.0, 2.0, 3.0]), 0.2).tolist() == [2, 1]


@pytest.mark.parametrize("nothing", [[], np.empty((0, 4), np.float32), np.array([])])
def test_no_boxes(nothing):
    assert_same_bits(ops.nms(nothing, [], 0.5), np.empty(0, np.int64))
    assert_same_bits(ops.batched_nms(nothing, [], [], 0.5), np.empty(0, np.int64))
    assert ops.box_iou(nothing, [[0, 0, 1, 1]]).shape == (0, 1)
    assert ops.encode_boxes(nothing, nothing).shape == (0, 4)
    assert ops.decode_boxes(nothing, nothing).shape == (0, 4)
    assert ops.grid_anchors(nothing, (3, 4), 16).shape == (0, 4)
    assert ops.decode_boxes(np.empty((3, 0)), boxes_like(3)).shape == (3, 0)
    assert ops.grid_anchors(boxes_like(2), (0, 4), 16).shape == (0, 4)
    assert ops.nms(boxes_like(3), np.ones(3), 0.5, max_output=0).shape == (0,)


def peak_of(call) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_contiguous_arrays_are_not_copied():
    boxes, scores = boxes_like(50_000), RNG.random(50_000)  # NumPy tells tracemalloc what it allocates
    assert peak_of(lambda: ops.nms(boxes, scores, 0.5, max_output=5)) < boxes.nbytes / 10
    strided = np.repeat(boxes, 2, axis=0)[::2]
    assert peak_of(lambda: ops.nms(strided, scores, 0.5, max_output=5)) > boxes.nbytes


# --- errors -----------------------------------------------------------------------------------------------------------

TWO, ONE = np.zeros((2, 4), np.float32), np.zeros(2, np.float32)
FLOATING = "expected dtype float16, float32 or float64, got"
WRONG = [
    (lambda: ops.nms(TWO[0], ONE, 0.5), ValueError, "boxes: expected shape [N, 4], got [4]"),
    (lambda: ops.nms(np.zeros((2, 5)), ONE, 0.5), ValueError, "boxes: expected shape [N, 4], got [2, 5]"),
    (lambda: ops.nms(TWO, 3.0, 0.5), ValueError, "scores: expected shape [2], one score per box, got []"),
    (lambda: ops.nms(TWO, ONE[:1], 0.5), ValueError, "scores: expected shape [2], one score per box, got [1]"),
    (lambda: ops.nms(TWO, ONE, 0.5, max_output=-1), ValueError, "max_output: expected a number >= 0, got -1"),
    (lambda: ops.nms(TWO, ONE, 0.5, max_output=1.5), TypeError, "'float' object cannot be interpreted as an integer"),
    (lambda: ops.nms(TWO > 0, ONE, 0.5), TypeError, f"boxes: {FLOATING} bool"),
    (lambda: ops.nms(TWO + 1j, ONE, 0.5), TypeError, f"boxes: {FLOATING} complex64"),
    (lambda: ops.nms(TWO, np.array(["a", "b"]), 0.5), TypeError, f"scores: {FLOATING} str32"),
    (lambda: ops.nms(TWO, np.array([None, 1]), 0.5), TypeError, f"scores: {FLOATING} object"),
    (lambda: ops.batched_nms(TWO, ONE, [1], 0.5), ValueError, "idxs: expected shape [2], one id per box, got [1]"),
    (lambda: ops.batched_nms(TWO, ONE, ["a", "b"], 0.5), TypeError, "idxs: expected an integer, bool or floating"),
    (lambda: ops.box_iou(TWO, TWO[:, :3]), ValueError, "boxes2: expected shape [N, 4], got [2, 3]"),
    (lambda: ops.box_iou(TWO, TWO.astype(str)), TypeError, f"boxes2: {FLOATING} str1024"),
    (lambda: ops.encode_boxes(TWO, TWO[:1]), ValueError, "anchors: expected as many rows as boxes (2), got 1"),
    (lambda: ops.encode_boxes(TWO, TWO, (1, 1, 0, 1)), ValueError, "weights: expected positive finite values, got 0"),
    (lambda: ops.encode_boxes(TWO, TWO, (1, 1, 1)), ValueError, "weights: expected 4 values (x, y, w, h), got 3"),
    (lambda: ops.decode_boxes(TWO[:, :3], TWO), ValueError, "deltas: expected shape [N, 4 * K], got [2, 3]"),
    (lambda: ops.decode_boxes(TWO, TWO, clip=math.nan), ValueError, "clip: expected a number, got NaN"),
    (lambda: ops.decode_boxes(TWO, TWO, image_size=(1,)), ValueError, "image_size: expected (height, width), got 1"),
    (lambda: ops.decode_boxes(TWO, TWO, image_size=(1, -2)), ValueError, "image_size: expected height and width >= 0"),
    (
        lambda: ops.grid_anchors(TWO, (1, -1), 8),
        ValueError,
        "feature_size: expected height and width >= 0, got (1, -1)",
    ),
    (lambda: ops.grid_anchors(TWO, 3, 8), ValueError, "feature_size: expected a pair (y, x), got 3"),
    (lambda: ops.grid_anchors(TWO, (3, 3), (1, 2, 3)), ValueError, "stride: expected a pair (y, x), got (1, 2, 3)"),
    (lambda: ops.grid_anchors(TWO, (2**31, 2**31), 8), ValueError, "are more than can be addressed"),
    (lambda: ops.grid_anchors(TWO, (2**20, 2**20), 8), MemoryError, "Unable to allocate"),
    (lambda: ops.cell_anchors([], 1), ValueError, "sizes must hold at least one number; got none"),
    (lambda: ops.cell_anchors(1, 1, dtype=int), TypeError, "dtype must be a floating-point dtype; got int64"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_errors(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nms", (np.zeros((3, 5)), np.zeros(3), 0.5)),
        ("nms", (np.zeros((3, 4)), np.zeros((3, 1)), 0.5)),
        ("nms", (np.zeros((3, 4), bool), np.zeros(3), 0.5)),
        ("batched_nms", (np.zeros((3, 4)), np.zeros(3), np.zeros(2), 0.5)),
        ("encode_boxes", (np.zeros((3, 4)), np.zeros((2, 4)))),
        ("decode_boxes", (np.zeros((3, 5)), np.zeros((3, 4)))),
        ("grid_anchors", (np.zeros((3, 4)), (-1, 2), 8)),
    ],
)
def test_errors_read_as_those_of_torch(name, arguments):
    with pytest.raises((ValueError, TypeError)) as ours:
        getattr(ops, name)(*arguments)
    tensors = [torch.tensor(value) if isinstance(value, np.ndarray) else value for value in arguments]
    with pytest.raises(RuntimeError) as theirs:
        getattr(fasterrcnn_ops, name)(*tensors)
    assert str(ours.value) == str(theirs.value).replace("bfloat16, ", "").replace("Bool", "bool")


# --- threads ----------------------------------------------------------------------------------------------------------


def first_to_finish(work) -> str:
    """ "thread" if a thread kept the GIL through ``work``, "main" if it let go of it meanwhile."""
    log: list[str] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody is asked for the GIL: who has it lets go of it on purpose only
    try:
        thread = threading.Thread(target=lambda: (work(), log.append("thread")))
        thread.start()
        log.append("main")
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    return log[0]


def test_the_gil_is_released():
    boxes, scores = boxes_like(3000), RNG.random(3000)
    cells = boxes_like(9)
    anchors = ops.grid_anchors(cells, (100, 100), 8)
    for work in (
        lambda: ops.box_iou(boxes, boxes),
        lambda: ops.nms(boxes, scores, 0.99),
        lambda: ops.batched_nms(boxes, scores, scores > 0.5, 0.99),
        lambda: ops.encode_boxes(anchors, anchors),
        lambda: ops.decode_boxes(anchors, anchors),
        lambda: ops.grid_anchors(cells, (400, 400), 8),
    ):
        # On a busy machine "main" may get its turn too late to be first; never with the GIL kept, though.
        assert any(first_to_finish(work) == "main" for _ in range(100))
    assert all(first_to_finish(lambda: sum(range(300_000))) == "thread" for _ in range(10))


def test_calls_side_by_side():
    scenes = [(boxes_like(500), RNG.random(500)) for _ in range(8)]
    alone = [ops.nms(*scene, 0.5).tolist() for scene in scenes]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda scene: ops.nms(*scene, 0.5).tolist(), scenes * 4))
    assert together == alone * 4
