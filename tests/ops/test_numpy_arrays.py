"""fasterrcnn_ops.numpy takes any array-like, copies only what it must, names what is wrong, and lets go of the GIL."""

from __future__ import annotations

import math
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy_scenes import RNG, assert_same_bits, boxes_like

import fasterrcnn_ops
import fasterrcnn_ops.numpy as ops

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
    for found, expected in zip(ops.soft_nms(changed(boxes), changed(scores)), ops.soft_nms(boxes, scores), strict=True):
        assert_same_bits(found, expected)
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
    ops.soft_nms(boxes, scores)
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
    assert [array.dtype for array in ops.soft_nms(nothing, np.empty(0, np.float32))] == [np.int64, np.float32]
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
HUGE = np.broadcast_to(TWO[:1], (2**40, 4))  # one row, shown again and again
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
    (lambda: ops.soft_nms(TWO, ONE[:1]), ValueError, "scores: expected shape [2], one score per box, got [1]"),
    (lambda: ops.soft_nms(TWO > 0, ONE), TypeError, f"boxes: {FLOATING} bool"),
    (lambda: ops.soft_nms(TWO, ONE, sigma=0), ValueError, "sigma: expected a number > 0, got 0"),
    (lambda: ops.soft_nms(TWO, ONE, method="hard"), ValueError, "expected one of naive, linear, gaussian, got 'hard'"),
    (lambda: ops.soft_nms(TWO, ONE, max_output=-1), ValueError, "max_output: expected a number >= 0, got -1"),
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
    (lambda: ops.encode_boxes(HUGE, HUGE), MemoryError, "Unable to allocate"),  # a contiguous copy of it
    (lambda: ops.nms(HUGE, HUGE[:, 0], 0.5), ValueError, "boxes: expected at most 2147483647, got 1099511627776"),
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
        ("soft_nms", (np.zeros((3, 4)), np.zeros(3), 0.3, -1.0)),
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
        lambda: ops.soft_nms(boxes, scores),
        lambda: ops.encode_boxes(anchors, anchors),
        lambda: ops.decode_boxes(anchors, anchors),
        lambda: ops.grid_anchors(cells, (400, 400), 8),
    ):
        # On a busy machine "main" may get its turn too late to be first; never with the GIL kept, though.
        assert any(first_to_finish(work) == "main" for _ in range(500))
    assert all(first_to_finish(lambda: sum(range(300_000))) == "thread" for _ in range(10))


def test_calls_side_by_side():
    scenes = [(boxes_like(500), RNG.random(500)) for _ in range(8)]
    alone = [ops.nms(*scene, 0.5).tolist() for scene in scenes]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda scene: ops.nms(*scene, 0.5).tolist(), scenes * 4))
    assert together == alone * 4
