"""Anchors, defined: pure PyTorch, same signatures as the public functions."""

from __future__ import annotations

import torch
from torch import Tensor

# A host computation without a kernel is its own definition; tests/ops/test_anchors.py holds it to worked examples.
from fasterrcnn_ops.cell_anchors import cell_anchors

__all__ = ["cell_anchors", "grid_anchors"]


def grid_anchors(
    cell_anchors: Tensor,
    feature_size: tuple[int, int],
    stride: float | tuple[float, float],
    *,
    offset: float = 0.0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Cell anchors moved to every location of a feature map; see :func:`fasterrcnn_ops.grid_anchors`.

    Location (y, x) lies at (offset + y · stride_y, offset + x · stride_x) in input pixels; anchor a of that location is
    row (y · W + x) · A + a. Arithmetic in float32 (float64 for float64 anchors), one rounding to ``dtype``.
    """
    device = cell_anchors.device if device is None else device
    dtype = cell_anchors.dtype if dtype is None else dtype
    exact = torch.float64 if torch.float64 in (cell_anchors.dtype, dtype) else torch.float32
    height, width = feature_size
    stride_y, stride_x = stride if isinstance(stride, tuple | list) else (stride, stride)

    y = torch.arange(height, dtype=exact, device=device) * stride_y + offset  # [H]
    x = torch.arange(width, dtype=exact, device=device) * stride_x + offset  # [W]
    y, x = torch.meshgrid(y, x, indexing="ij")  # [H, W]
    shifts = torch.stack((x, y, x, y), dim=-1)  # [H, W, 4]
    anchors = shifts[:, :, None, :] + cell_anchors.to(device=device, dtype=exact)  # [H, W, A, 4]
    return anchors.reshape(-1, 4).to(dtype)
