"""Translation of ``select_detections``."""

from __future__ import annotations

from collections.abc import Sequence

from onnxscript import opset18 as op

from fasterrcnn_ops.box_coder import DELTA_CLIP
from fasterrcnn_ops.onnx.boxes import clip_to, decode, limits_of
from fasterrcnn_ops.onnx.nms import best_of, kept_of_sorted
from fasterrcnn_ops.onnx.values import (
    BOOL,
    INT64,
    Value,
    all_of,
    cast_like,
    filled,
    floats,
    integers,
    positions,
    rows_at,
    size_of,
    to_float,
    top,
)


def select_detections(
    class_logits: Value,
    box_deltas: Value,
    proposals: Value,
    count: Value,
    image_sizes: Value,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    weights: Sequence[float],
    inclusive: bool,
    min_size: float,
    candidates_per_class: int | None,
) -> tuple[Value, Value, Value, Value, Value]:
    """Boxes [B, D, 4], labels, scores [B, D], count [B], proposal [B, D] of K proposals and C classes.

    See :func:`fasterrcnn_ops.select_detections_with_proposal`.
    """
    slots = size_of(proposals, 1)  # K
    outer = op.Shape(proposals, end=2)  # B, K
    scores = op.Softmax(to_float(class_logits), axis=-1)
    scores = op.Slice(scores, integers([1]), integers([2**31]), integers([2]))  # [B, K, C], without background
    classes = size_of(scores, 2)

    deltas = op.Reshape(to_float(box_deltas), op.Concat(outer, integers([-1, 4]), axis=0))  # [B, K, C or C + 1, 4]
    deltas = op.Slice(deltas, op.Sub(size_of(deltas, 2), classes), integers([2**31]), integers([2]))  # [B, K, C, 4]
    anchors = op.Unsqueeze(to_float(proposals), integers([2]))
    limits = op.Unsqueeze(limits_of(image_sizes, inclusive), integers([1, 2]))
    boxes = clip_to(decode(deltas, anchors, weights, DELTA_CLIP, inclusive), limits)
    sides = op.Sub(op.Gather(boxes, integers([2, 3]), axis=3), op.Gather(boxes, integers([0, 1]), axis=3))

    in_use = op.Less(positions(slots), op.Unsqueeze(op.Cast(count, to=INT64), integers([1])))  # [B, K]
    wanted = op.And(op.Greater(scores, floats(score_threshold)), op.Unsqueeze(in_use, integers([2])))
    wanted = op.And(wanted, all_of(op.GreaterOrEqual(sides, floats(min_size)), 2))  # clipped, and so not infinite

    # NMS in B·C groups of K boxes, each group in its own order.
    grouped = op.Reshape(
        op.Transpose(op.Where(wanted, scores, floats(-1.0)), perm=[0, 2, 1]), op.Concat(integers([-1]), slots, axis=0)
    )
    group_boxes = op.Reshape(
        op.Transpose(boxes, perm=[0, 2, 1, 3]), op.Concat(integers([-1]), slots, integers([4]), axis=0)
    )
    ranked, order = top(grouped, slots)  # [B·C, K]
    candidates = op.GreaterOrEqual(ranked, floats(0.0))
    if candidates_per_class is not None:
        candidates = op.And(candidates, op.Less(positions(slots), integers([candidates_per_class])))
    kept = kept_of_sorted(
        rows_at(group_boxes, order), op.Unsqueeze(candidates, integers([1])), nms_threshold, integers([max_detections])
    )
    kept = op.Cast(op.Squeeze(kept, integers([1])), to=INT64)
    kept = op.ScatterElements(filled(op.Shape(kept), 0, INT64), order, kept, axis=1)  # back to the order of proposals
    by_class = op.Concat(size_of(proposals, 0), classes, slots, axis=0)
    kept = op.Transpose(op.Reshape(kept, by_class), perm=[0, 2, 1])  # [B, K, C]

    # Candidate k·C + c.
    flat = op.Concat(size_of(proposals, 0), integers([-1]), axis=0)
    scores = op.Reshape(scores, flat)
    index, used = best_of(op.Cast(op.Reshape(kept, flat), to=BOOL), scores, max_detections)
    boxes = rows_at(op.Reshape(boxes, op.Concat(flat, integers([4]), axis=0)), index)
    boxes = op.Where(op.Unsqueeze(used, integers([-1])), boxes, floats(0.0))
    labels = op.Where(used, op.Add(op.Mod(index, classes), integers(1)), integers(0))
    scores = op.Where(used, rows_at(scores, index), floats(0.0))
    proposal = op.Where(used, op.Div(index, classes), integers(-1))
    found = op.ReduceSum(op.Cast(used, to=INT64), integers([1]), keepdims=0)
    boxes, scores = (cast_like(value, class_logits, box_deltas, proposals) for value in (boxes, scores))
    return boxes, labels, scores, found, proposal
