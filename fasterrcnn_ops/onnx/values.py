"""Small pieces that the translations share: numbers, comparisons that respect NaN, and gathering by rows.

Everything here is called while a graph is being recorded: arguments and results are values of that graph, and each
``op.X`` adds one standard ONNX node. B stands for images, N for candidates, P for slots of the result.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import opset18 as op

Value = Any  # a value of the graph being recorded; exporters have classes of their own for it

FLOAT, DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE
INT32, INT64, BOOL = ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL


def floats(numbers: float | Sequence[float], dtype: ir.DataType = FLOAT) -> Value:
    """A constant of floating-point numbers."""
    return op.Constant(value=ir.tensor(np.asarray(numbers, dtype=dtype.numpy())))


def integers(numbers: int | Sequence[int]) -> Value:
    """An int64 constant."""
    return op.Constant(value=ir.tensor(np.asarray(numbers, dtype=np.int64)))


def filled(shape: Value, number: float, dtype: ir.DataType) -> Value:
    """A tensor of one number; ``shape`` is int64 [n]."""
    return op.ConstantOfShape(shape, value=ir.tensor(np.full(1, number, dtype=dtype.numpy())))


def as_vector(size: int | Value) -> Value:
    """A size, known or not, as int64 [1]."""
    return integers([size]) if isinstance(size, int) else op.Reshape(size, integers([-1]))


def size_of(value: Value, axis: int) -> Value:
    """int64 [1]."""
    return op.Shape(value, start=axis, end=axis + 1)


def to_float(value: Value) -> Value:
    """In float32, in which everything but RoI pooling of float64 maps is computed."""
    return value if value.dtype == FLOAT else op.Cast(value, to=FLOAT)


def cast_like(value: Value, *arguments: Value) -> Value:
    """In float64 if one of the arguments is, as the operators return it; in float32 otherwise."""
    return op.Cast(value, to=DOUBLE) if any(argument.dtype == DOUBLE for argument in arguments) else value


def columns(boxes: Value, axis: int = -1) -> tuple[Value, Value, Value, Value]:
    """x1, y1, x2, y2 (or dx, dy, dw, dh), without their axis."""
    return tuple(op.Gather(boxes, integers(i), axis=axis) for i in range(4))


def stack(*parts: Value) -> Value:
    """Side by side along a new last axis."""
    return op.Concat(*(op.Unsqueeze(part, integers([-1])) for part in parts), axis=-1)


def at_least(value: Value, least: Value) -> Value:
    """Clamped; NaN stays NaN, which the operators Max and Clip leave open."""
    return op.Where(op.Less(value, least), least, value)


def at_most(value: Value, most: Value) -> Value:
    """Clamped; NaN stays NaN."""
    return op.Where(op.Greater(value, most), most, value)


def is_finite(value: Value) -> Value:
    """bool of the same shape."""
    return op.Not(op.Or(op.IsNaN(value), op.IsInf(value)))


def all_of(flags: Value, width: int) -> Value:
    """bool [...] of bool [..., width]. Not a reduction: runtimes disagree about those of nothing."""
    parts = [op.Gather(flags, integers(i), axis=-1) for i in range(width)]
    return functools.reduce(op.And, parts)


def any_of(flags: Value, *axes: int) -> Value:
    """bool without these axes: whether one flag is set."""
    return op.Cast(op.ReduceMax(op.Cast(flags, to=INT32), integers(axes), keepdims=0), to=BOOL)


def positions(size: Value, dtype: ir.DataType = INT64) -> Value:
    """0, 1, … of int64 size [1]: [size]."""
    numbers = op.Range(integers(0), op.Squeeze(size), integers(1))
    return numbers if dtype == INT64 else op.Cast(numbers, to=dtype)


def rows_at(table: Value, index: Value) -> Value:
    """[B, P, …] of a table [B, N, …], by index [B, P]."""
    return op.GatherND(table, op.Unsqueeze(index, integers([-1])), batch_dims=1)


def top(values: Value, count: int | Value) -> tuple[Value, Value]:
    """The greatest along the last axis, descending, and where they are; of equal ones the first (so ONNX has it)."""
    return op.TopK(values, as_vector(count), axis=-1, largest=1, sorted=1)
