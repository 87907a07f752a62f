"""Boxes as NumPy arrays, and bitwise comparison, for the tests of fasterrcnn_ops.numpy."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

RNG = np.random.default_rng(0)


def boxes_like(n: int, dtype=np.float32) -> np.ndarray:
    """``[n, 4]`` valid xyxy boxes in pixels."""
    corner = RNG.uniform(0, 400, (n, 2))
    return np.hstack([corner, corner + RNG.uniform(1, 200, (n, 2))]).astype(dtype)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    """Same dtype and shape and, NaN and signed zeros included, the same bytes."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert_array_equal(np.ascontiguousarray(found).view(np.uint8), np.ascontiguousarray(expected).view(np.uint8))
