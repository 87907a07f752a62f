"""Translations of ``nms``, ``batched_nms`` and ``nms_padded`` to NonMaxSuppression.

NonMaxSuppression leaves open what these operators define (ties, NaN scores, inverted boxes), so it gets neither scores
nor odd boxes to see: boxes come sorted by our own rule and compete by their *place*, which float32 holds exactly, and a
box that can neither suppress nor be suppressed is replaced by one without area. What remains is the one question that
both answer alike, whether a float32 IoU exceeds a threshold.
"""

from __future__ import annotations

import math

import numpy as np
from onnxscript import opset18 as op

from fasterrcnn_ops.onnx.values import (
    BOOL,
    FLOAT,
    INT32,
    INT64,
    Value,
    any_of,
    columns,
    filled,
    floats,
    integers,
    is_finite,
    positions,
    size_of,
    to_float,
    top,
)


def kept_of_sorted(boxes: Value, wanted: Value, iou_threshold: float, most: Value) -> Value:
    """Greedy NMS in groups of boxes that are sorted already.

    Args:
        boxes: float32 [B, N, 4], the best first.
        wanted: bool [B, L, N]: which boxes compete in which of the L groups of each image.
        iou_threshold: In 0…1 (above 1 nothing is suppressed).
        most: int64 [1], how many of a group are enough.

    Returns:
        bool [B, L, N]: those kept, at least the first ``most`` of each group.

    Raises:
        ValueError: A negative or NaN threshold, which the ONNX operator does not take.
    """
    if not iou_threshold >= 0:
        raise ValueError(f"ONNX's NonMaxSuppression takes IoU thresholds from 0 to 1, got {iou_threshold}")
    x1, y1, x2, y2 = columns(boxes)
    width, height = op.Sub(x2, x1), op.Sub(y2, y1)
    area = op.Mul(width, height)
    upright = op.And(op.Greater(width, floats(0.0)), op.Greater(height, floats(0.0)))
    sound = op.And(upright, op.And(op.Greater(area, floats(0.0)), is_finite(area)))
    boxes = op.Where(op.Unsqueeze(sound, integers([-1])), boxes, floats(0.0))

    size = size_of(boxes, 1)
    ranks = op.Cast(op.Sub(size, positions(size)), to=FLOAT)  # N, N-1, … 1
    scores = op.Where(wanted, ranks, floats(-1.0))
    chosen = op.NonMaxSuppression(boxes, scores, most, floats([_float_not_above(iou_threshold)]), floats([0.0]))
    nothing, ones = filled(op.Shape(wanted), 0, INT32), filled(size_of(chosen, 0), 1, INT32)
    return op.Cast(op.ScatterND(nothing, chosen, ones), to=BOOL)


def first_of(flags: Value, slots: int) -> tuple[Value, Value]:
    """The positions of the first ``slots`` flags that are set.

    Args:
        flags: bool [B, N].
        slots: P.

    Returns:
        index int64 [B, P], 0 in slots for which there is none, and bool [B, P], for which there is one.
    """
    size = size_of(flags, 1)
    keys = op.Where(flags, op.Sub(size, positions(size)), integers(0))
    return _taken(keys, slots)


def best_of(flags: Value, scores: Value, slots: int) -> tuple[Value, Value]:
    """Like :func:`first_of`, by descending score [B, N] ≥ 0, of equal ones the first."""
    return _taken(op.Where(flags, scores, floats(-1.0)), slots, floats(-1.0))


def _taken(keys: Value, slots: int, nothing: Value | None = None) -> tuple[Value, Value]:
    # As many empty keys as slots at the end, so that there is always something to choose.
    nothing = integers(0) if nothing is None else nothing
    empty = op.Expand(nothing, op.Concat(size_of(keys, 0), integers([slots]), axis=0))
    found, index = top(op.Concat(keys, empty, axis=1), slots)
    used = op.Greater(found, nothing)
    return op.Where(used, index, integers(0)), used


def nms_padded(
    boxes: Value, scores: Value, idxs: Value | None, iou_threshold: float, max_output: int
) -> tuple[Value, Value]:
    """[N, 4], [N], [N] → keep int64 [max_output] and count int64 []; see :func:`fasterrcnn_ops.nms_padded`."""
    order, kept = _kept(boxes, scores, idxs, iou_threshold, integers([max_output]))
    index, used = first_of(op.Unsqueeze(kept, integers([0])), max_output)
    index, used = (op.Squeeze(value, integers([0])) for value in (index, used))
    order = op.Concat(order, integers([0]), axis=0)  # something to look up where there are no boxes
    keep = op.Where(used, op.Gather(order, index), integers(-1))
    return keep, op.ReduceSum(op.Cast(used, to=INT64), keepdims=0)


def nms(boxes: Value, scores: Value, iou_threshold: float) -> Value:
    """[N, 4], [N] → int64 [K]; see :func:`fasterrcnn_ops.nms`."""
    return batched_nms(boxes, scores, None, iou_threshold)


def batched_nms(boxes: Value, scores: Value, idxs: Value | None, iou_threshold: float) -> Value:
    """[N, 4], [N], [N] → int64 [K]; see :func:`fasterrcnn_ops.batched_nms`."""
    order, kept = _kept(boxes, scores, idxs, iou_threshold, size_of(boxes, 0))
    return op.Compress(order, kept, axis=0)


def _kept(boxes: Value, scores: Value, idxs: Value | None, iou_threshold: float, most: Value) -> tuple[Value, Value]:
    """int64 [N], the boxes in order, and bool [N], which of them are kept."""
    size = size_of(scores, 0)
    scores = to_float(scores)
    unknown = op.IsNaN(scores)  # NaN comes first
    _, order = top(op.Where(unknown, floats(math.inf), scores), size)
    _, nan_first = top(op.Cast(op.Gather(unknown, order), to=INT32), size)
    order = op.Gather(order, nan_first)
    sorted_boxes = op.Gather(to_float(boxes), order)
    if idxs is None:
        groups = filled(op.Concat(integers([1]), size, axis=0), True, BOOL)
    else:
        idxs = op.Cast(idxs, to=INT64) if idxs.dtype == BOOL else idxs
        ids, _, _, _ = op.Unique(idxs, sorted=0)
        of_box = op.Gather(idxs, order)
        groups = op.Equal(op.Unsqueeze(ids, integers([1])), op.Unsqueeze(of_box, integers([0])))  # [U, N]
    kept = kept_of_sorted(
        op.Unsqueeze(sorted_boxes, integers([0])), op.Unsqueeze(groups, integers([0])), iou_threshold, most
    )
    return order, any_of(kept, 0, 1)


def _float_not_above(threshold: float) -> float:
    """The largest float32 ≤ threshold, at most 1: float32 IoUs exceed it exactly when they exceed the double."""
    rounded = np.float32(min(threshold, 1.0))
    return float(np.nextafter(rounded, np.float32(-1)) if float(rounded) > threshold else rounded)
