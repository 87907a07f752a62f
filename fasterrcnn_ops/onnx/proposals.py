"""Translation of ``generate_proposals``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnxscript import opset18 as op

from fasterrcnn_ops.box_coder import DELTA_CLIP
from fasterrcnn_ops.onnx.boxes import clip_to, decode, grid_anchors, limits_of
from fasterrcnn_ops.onnx.nms import first_of, kept_of_sorted
from fasterrcnn_ops.onnx.values import (
    DOUBLE,
    FLOAT,
    INT64,
    Value,
    all_of,
    any_of,
    cast_like,
    floats,
    integers,
    rows_at,
    size_of,
    to_float,
    top,
)

# Stands for -inf among logits that can be chosen, so that -inf can stand for those that cannot.
LOWEST = float(np.finfo(np.float32).min)


def generate_proposals(
    objectness: Sequence[Value],
    deltas: Sequence[Value],
    cell_anchors: Sequence[Value],
    strides: Sequence[float],
    image_sizes: Value,
    min_sizes: Value | None,
    min_size: float,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_threshold: float,
    score_threshold: float,
    weights: Sequence[float],
    anchor_offset: float,
    inclusive: bool,
    filter_before_topk: bool,
) -> tuple[Value, Value, Value]:
    """Maps of L levels → boxes [B, P, 4], scores [B, P], count [B]; see :func:`fasterrcnn_ops.generate_proposals`."""
    limits = op.Unsqueeze(limits_of(image_sizes, inclusive), integers([1]))  # [B, 1, 4]
    least = floats(min_size) if min_sizes is None else op.Reshape(to_float(min_sizes), integers([-1, 1, 1]))

    def decoded(level_deltas: Value, anchors: Value) -> tuple[Value, Value]:
        """Clipped boxes [B, N, 4] and which of them are boxes of the wanted size, bool [B, N]."""
        boxes = clip_to(decode(level_deltas, anchors, weights, DELTA_CLIP, inclusive), limits)
        sides = op.Sub(op.Gather(boxes, integers([2, 3]), axis=2), op.Gather(boxes, integers([0, 1]), axis=2))
        # Clipped, a number is finite; a NaN side is not at least as long as anything.
        return boxes, all_of(op.GreaterOrEqual(sides, least), 2)

    chosen = []
    for level, (logits, maps, cells) in enumerate(zip(objectness, deltas, cell_anchors, strict=True)):
        height, width = size_of(logits, 2), size_of(logits, 3)
        anchors = grid_anchors(
            op.Cast(cells, to=FLOAT), height, width, *strides[2 * level : 2 * level + 2], anchor_offset
        )
        batch = size_of(logits, 0)
        logits = op.Transpose(to_float(logits), perm=[0, 2, 3, 1])  # [B, H, W, A]: N = (y·W + x)·A + a
        logits = op.Reshape(logits, op.Concat(batch, integers([-1]), axis=0))
        maps = op.Transpose(to_float(maps), perm=[0, 2, 3, 1])
        maps = op.Reshape(maps, op.Concat(batch, integers([-1, 4]), axis=0))  # [B, N, 4]
        usable = op.Not(op.IsNaN(logits))
        if filter_before_topk:
            usable = op.And(usable, decoded(maps, op.Unsqueeze(anchors, integers([0])))[1])
        keys = op.Where(usable, op.Where(op.Less(logits, floats(LOWEST)), floats(LOWEST), logits), floats(-np.inf))
        most = op.Min(integers([pre_nms_top_n]), size_of(logits, 1))
        _, order = top(keys, most)  # [B, n]
        chosen.append(
            (
                rows_at(logits, order),
                rows_at(maps, order),
                op.Gather(anchors, order, axis=0),
                rows_at(usable, order),
                op.Expand(integers(level), op.Shape(order)),
            )
        )
    several = len(chosen) > 1
    logits, maps, anchors, usable, levels = (
        op.Concat(*parts, axis=1) if several else parts[0] for parts in zip(*chosen, strict=True)
    )

    # In double precision, because a runtime's float sigmoid need not grow with its argument to the last bit, and the
    # order of proposals should not depend on that.
    scores = op.Cast(op.Sigmoid(op.Cast(logits, to=DOUBLE)), to=FLOAT)
    boxes, large_enough = decoded(maps, anchors)
    usable = op.And(op.And(usable, large_enough), op.GreaterOrEqual(scores, floats(score_threshold)))
    if several:  # one level is sorted already
        _, order = top(op.Where(usable, scores, floats(-1.0)), size_of(scores, 1))
        boxes, scores, usable, levels = (rows_at(value, order) for value in (boxes, scores, usable, levels))
    wanted = op.Unsqueeze(usable, integers([1]))  # [B, 1, N]
    if several:
        numbers = op.Reshape(integers(range(len(chosen))), integers([1, -1, 1]))
        wanted = op.And(wanted, op.Equal(op.Unsqueeze(levels, integers([1])), numbers))  # [B, L, N]
    kept = kept_of_sorted(boxes, wanted, nms_threshold, integers([post_nms_top_n]))
    index, used = first_of(any_of(kept, 1), post_nms_top_n)
    boxes = op.Where(op.Unsqueeze(used, integers([-1])), rows_at(boxes, index), floats(0.0))
    scores = op.Where(used, rows_at(scores, index), floats(0.0))
    count = op.ReduceSum(op.Cast(used, to=INT64), integers([1]), keepdims=0)
    return cast_like(boxes, *objectness), cast_like(scores, *objectness), count
