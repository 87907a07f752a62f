"""Translations of ``grid_anchors``, ``decode_boxes`` and ``box_iou``, in the order of arithmetic of the kernels."""

from __future__ import annotations

from collections.abc import Sequence

from onnxscript import opset18 as op

from fasterrcnn_ops.onnx.values import (
    DOUBLE,
    FLOAT,
    Value,
    as_vector,
    at_least,
    at_most,
    cast_like,
    columns,
    floats,
    integers,
    positions,
    size_of,
    stack,
    to_float,
)


def grid_anchors(
    cell_anchors: Value, height: int | Value, width: int | Value, stride_h: float, stride_w: float, offset: float
) -> Value:
    """[A, 4] → [H·W·A, 4]; see :func:`fasterrcnn_ops.grid_anchors`."""
    exact = DOUBLE if cell_anchors.dtype == DOUBLE else FLOAT
    axes = [
        op.Add(op.Mul(positions(as_vector(size), exact), floats(stride, exact)), floats(offset, exact))
        for size, stride in ((height, stride_h), (width, stride_w))
    ]
    grid = op.Concat(as_vector(height), as_vector(width), axis=0)
    y, x = op.Expand(op.Unsqueeze(axes[0], integers([1])), grid), op.Expand(axes[1], grid)  # [H, W]
    shifts = op.Unsqueeze(stack(x, y, x, y), integers([2]))  # [H, W, 1, 4]
    anchors = op.Reshape(op.Add(shifts, op.Cast(cell_anchors, to=exact)), integers([-1, 4]))
    return anchors if exact == cell_anchors.dtype else op.CastLike(anchors, cell_anchors)


def decode(deltas: Value, anchors: Value, weights: Sequence[float], clip: float, inclusive: bool) -> Value:
    """Boxes [..., 4] of float32 deltas and anchors that broadcast; NaN stays NaN."""
    x1, y1, x2, y2 = columns(anchors)
    last = floats(float(inclusive))
    two = floats(2.0)
    found = []
    delta = columns(deltas)
    for axis, (low, high) in enumerate(((x1, x2), (y1, y2))):
        side = op.Add(op.Sub(high, low), last)
        centre = op.Add(low, op.Div(side, two))
        shift, scale = (op.Div(delta[axis + i], floats(weights[axis + i])) for i in (0, 2))
        # Exp of NaN is left open by runtimes that compute it by tables.
        growth = op.Where(op.IsNaN(scale), scale, op.Exp(at_most(scale, floats(clip))))
        middle = op.Add(op.Mul(shift, side), centre)
        half = op.Div(op.Mul(growth, side), two)
        found.append((op.Sub(middle, half), op.Sub(op.Add(middle, half), last)))
    (left, right), (above, below) = found
    return stack(left, above, right, below)


def clip_to(boxes: Value, limits: Value) -> Value:
    """Boxes [..., 4] between 0 and limits (x, y, x, y), which broadcast; NaN stays NaN."""
    return at_most(at_least(boxes, floats(0.0)), limits)


def limits_of(image_sizes: Value, inclusive: bool) -> Value:
    """Largest coordinates [B, 4] as (x, y, x, y) of sizes [B, 2] as (height, width)."""
    limits = op.Gather(to_float(image_sizes), integers([1, 0, 1, 0]), axis=1)
    return op.Sub(limits, floats(1.0)) if inclusive else limits


def decode_boxes(
    deltas: Value,
    anchors: Value,
    weights: Sequence[float],
    clip: float,
    image_size: Sequence[float] | None,
    inclusive: bool,
) -> Value:
    """[N, 4K], [N, 4] → [N, 4K]; see :func:`fasterrcnn_ops.decode_boxes`."""
    shape = op.Shape(deltas)
    per_anchor = op.Reshape(to_float(deltas), op.Concat(size_of(anchors, 0), integers([-1, 4]), axis=0))
    boxes = decode(per_anchor, op.Unsqueeze(to_float(anchors), integers([1])), weights, clip, inclusive)
    if image_size is not None:
        height, width = (side - inclusive for side in image_size)
        boxes = clip_to(boxes, floats([width, height, width, height]))
    boxes = op.Reshape(boxes, shape)
    if deltas.dtype == anchors.dtype and deltas.dtype not in (FLOAT, DOUBLE):
        return op.CastLike(boxes, deltas)
    return cast_like(boxes, deltas, anchors)


def box_iou(boxes1: Value, boxes2: Value) -> Value:
    """[N, 4], [M, 4] → [N, M]; see :func:`fasterrcnn_ops.box_iou`."""
    one = columns(op.Unsqueeze(to_float(boxes1), integers([1])))  # [N, 1]
    two = columns(op.Unsqueeze(to_float(boxes2), integers([0])))  # [1, M]
    area1, area2 = (op.Mul(op.Sub(x2, x1), op.Sub(y2, y1)) for x1, y1, x2, y2 in (one, two))
    width, height = (
        at_least(op.Sub(op.Min(one[axis + 2], two[axis + 2]), op.Max(one[axis], two[axis])), floats(0.0))
        for axis in (0, 1)
    )
    overlap = op.Mul(width, height)
    iou = op.Div(overlap, op.Sub(op.Add(area1, area2), overlap))
    return cast_like(iou, boxes1, boxes2)
