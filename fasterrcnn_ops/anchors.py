"""Anchors: ``cell_anchors`` (one location, by each family's rule), ``grid_anchors`` (every location of a map)."""

from __future__ import annotations

import torch
from torch import Tensor

from fasterrcnn_ops import _library
from fasterrcnn_ops._transforms import register_vmap
from fasterrcnn_ops.cell_anchors import cell_anchors

__all__ = ["cell_anchors", "grid_anchors"]

_library.load()


def grid_anchors(
    cell_anchors: Tensor,
    feature_size: tuple[int, int],
    stride: float | tuple[float, float],
    *,
    offset: float = 0.0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Places every cell anchor at every location of a feature map.

    H, W are the feature map's height and width, A the number of cell anchors. Location (y, x) lies at input pixel
    ``(x * stride + offset, y * stride + offset)``.

    Args:
        cell_anchors: ``[A, 4]`` boxes (x1, y1, x2, y2) about the origin, in input pixels; floating point.
        feature_size: ``(H, W)``, each >= 0.
        stride: input pixels between neighbouring locations, one number or ``(stride_y, stride_x)``.
        offset: input pixels from the image corner to location (0, 0), the same on both axes. The classic Faster R-CNN
            family uses 0, detectors that centre anchors on the stride cell use ``stride / 2``.
        dtype: dtype of the result; that of ``cell_anchors`` by default.
        device: device of the result; that of ``cell_anchors`` by default.

    Returns:
        ``[H * W * A, 4]`` anchors in input pixels; anchor ``a`` of location ``(y, x)`` is row ``(y * W + x) * A + a``.
        An empty map or no cell anchors give ``[0, 4]``.

    Raises:
        RuntimeError: ``cell_anchors`` is not ``[A, 4]`` floating point, or a size is negative.
        ValueError: ``feature_size`` or ``stride`` is not a pair.

    Note:
        Coordinates are computed in float32 (float64 for float64) and rounded once. Not differentiable: anchors are
        constants of the architecture.

    Source:
        Ren et al., "Faster R-CNN", 2015, section 3.1.1.

    Example:
        >>> cells = torch.tensor([[-8.0, -8.0, 8.0, 8.0]])
        >>> grid_anchors(cells, (1, 2), stride=16)
        tensor([[-8., -8.,  8.,  8.],
                [ 8., -8., 24.,  8.]])
    """
    stride_h, stride_w = (stride, stride) if isinstance(stride, int | float) else _pair(stride, "stride")
    height, width = _pair(feature_size, "feature_size")
    if dtype is not None or device is not None:
        cell_anchors = cell_anchors.to(device=device, dtype=dtype)
    return torch.ops.fasterrcnn_ops.grid_anchors(
        cell_anchors.detach(), height, width, float(stride_h), float(stride_w), float(offset)
    )


def _pair(value, name: str):
    if not isinstance(value, tuple | list | torch.Size) or len(value) != 2:
        raise ValueError(f"{name}: expected a pair (y, x), got {value!r}")
    return value


@torch.library.register_fake("fasterrcnn_ops::grid_anchors")
def _grid_anchors_fake(cell_anchors, height, width, stride_h, stride_w, offset):
    return cell_anchors.new_empty((height * width * cell_anchors.shape[0], 4))


register_vmap("grid_anchors")
