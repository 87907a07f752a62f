"""Translations of RoIAlign, over one map and over a pyramid, and of RoIPool."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnxscript import opset18 as op

from fasterrcnn_ops.onnx.values import (
    DOUBLE,
    FLOAT,
    INT64,
    Value,
    all_of,
    at_most,
    filled,
    floats,
    integers,
    is_finite,
    size_of,
)


def roi_align_forward(
    input: Value,
    rois: Value,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Value:
    """[N, C, H, W], [K, 5] → [K, C, PH, PW]; see :func:`fasterrcnn_ops.roi_align`."""
    dtype = DOUBLE if input.dtype == DOUBLE else FLOAT
    pooled = _align(
        op.Cast(input, to=dtype),
        op.Cast(rois, to=dtype),
        dtype,
        spatial_scale,
        (pooled_height, pooled_width),
        sampling_ratio,
        aligned,
    )
    return op.CastLike(pooled, input)


def multi_scale_roi_align_forward(
    features: Sequence[Value],
    rois: Value,
    scales: Sequence[float],
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
    canonical_scale: int,
    canonical_level: int,
) -> Value:
    """L maps [N, C, H, W], [K, 5] → [K, C, PH, PW]; see :func:`fasterrcnn_ops.multi_scale_roi_align`.

    Each level pools its own RoIs, and their results are put where those came from.
    """
    dtype = DOUBLE if features[0].dtype == DOUBLE else FLOAT
    rois = op.Cast(rois, to=dtype)
    levels = _level_of(rois, dtype, scales, canonical_scale, canonical_level)
    channels = size_of(features[0], 1)
    shape = op.Concat(size_of(rois, 0), channels, integers([pooled_height, pooled_width]), axis=0)
    pooled = filled(shape, 0, dtype)
    for level, (map_, scale) in enumerate(zip(features, scales, strict=True)):
        members = op.Transpose(op.NonZero(op.Equal(levels, integers(level))), perm=[1, 0])  # [n, 1]
        of_level = _align(
            op.Cast(map_, to=dtype),
            op.GatherND(rois, members),
            dtype,
            scale,
            (pooled_height, pooled_width),
            sampling_ratio,
            aligned,
        )
        pooled = op.ScatterND(pooled, members, of_level)
    return op.CastLike(pooled, features[0])


def roi_pool_forward(
    input: Value, rois: Value, spatial_scale: float, pooled_height: int, pooled_width: int
) -> tuple[Value, Value]:
    """[N, C, H, W], [K, 5] → [K, C, PH, PW]; see :func:`fasterrcnn_ops.roi_pool`.

    Where the maxima were found, the operator's second result, serves gradients only and is -1 (nowhere) here.
    """
    rois = op.Cast(rois, to=FLOAT)
    index = op.Slice(rois, integers([0]), integers([1]), integers([1]))
    corners = op.Slice(rois, integers([1]), integers([5]), integers([1]))
    sound = op.Unsqueeze(all_of(is_finite(op.Mul(corners, floats(spatial_scale))), 4), integers([1]))  # [K, 1]
    corners = op.Where(sound, corners, floats(0.0))
    features = op.Cast(input, to=FLOAT)
    lowest = floats(float(np.finfo(np.float32).min))
    pooled = op.MaxRoiPool(
        op.Where(op.Greater(features, lowest), features, lowest),  # NaN never is the maximum
        op.Concat(index, corners, axis=1),
        pooled_shape=[pooled_height, pooled_width],
        spatial_scale=spatial_scale,
    )
    pooled = op.Where(op.Unsqueeze(sound, integers([2, 3])), pooled, floats(0.0))
    return op.CastLike(pooled, input), filled(op.Shape(pooled), -1, INT64)


def _align(
    features: Value,
    rois: Value,
    dtype: ir.DataType,
    scale: float,
    size: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
) -> Value:
    """RoiAlign, which may see neither NaN nor infinities nor, with an adaptive grid, a side below 0."""
    corners = op.Slice(rois, integers([1]), integers([5]), integers([1]))
    offset = floats(0.5 if aligned else 0.0, dtype)
    starts, ends = (
        op.Sub(op.Mul(op.Slice(corners, integers([i]), integers([i + 2]), integers([1])), floats(scale, dtype)), offset)
        for i in (0, 2)
    )
    sides = op.Sub(ends, starts)
    sound = op.And(is_finite(starts), is_finite(sides))
    if aligned and sampling_ratio <= 0:
        sound = op.And(sound, op.Greater(sides, floats(0.0, dtype)))
    sound = all_of(sound, 2)  # [K]
    pooled = op.RoiAlign(
        features,
        op.Where(op.Unsqueeze(sound, integers([1])), corners, floats(0.0, dtype)),
        op.Cast(op.Gather(rois, integers(0), axis=1), to=INT64),
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        mode="avg",
        output_height=size[0],
        output_width=size[1],
        sampling_ratio=max(sampling_ratio, 0),
        spatial_scale=scale,
    )
    return op.Where(op.Unsqueeze(sound, integers([1, 2, 3])), pooled, floats(0.0, dtype))


def _level_of(
    rois: Value, dtype: ir.DataType, scales: Sequence[float], canonical_scale: int, canonical_level: int
) -> Value:
    """int64 [K], the number of each RoI's level; the same rule as ``fasterrcnn_ops._rois.level_of_rois``."""
    _, x1, y1, x2, y2 = (op.Gather(rois, integers(i), axis=1) for i in range(5))
    side = op.Sqrt(op.Mul(op.Sub(x2, x1), op.Sub(y2, y1)))
    octaves = op.Div(
        op.Log(op.Cast(op.Div(side, floats(canonical_scale, dtype)), to=DOUBLE)), floats(math.log(2.0), DOUBLE)
    )
    level = op.Add(op.Add(floats(canonical_level, dtype), op.Cast(octaves, to=dtype)), floats(1e-6, dtype))
    lowest, highest = int(-math.log2(scales[0])), int(-math.log2(scales[-1]))
    level = op.Sub(op.Floor(level), floats(lowest, dtype))
    level = op.Where(op.Greater(level, floats(0.0, dtype)), level, floats(0.0, dtype))  # NaN is not above the lowest
    return op.Cast(at_most(level, floats(highest - lowest, dtype)), to=INT64)
