"""Box geometry, defined: pure PyTorch in float64, one pair at a time where that reads best.

Same signatures as :mod:`fasterrcnn_ops.boxes`. Values are computed in float64 and rounded once to the dtype the public
function returns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """Width times height of boxes ``[..., 4]``."""
    x1, y1, x2, y2 = _corners(boxes, fmt)
    return ((x2 - x1) * (y2 - y1)).to(_upcast_dtype(boxes.dtype))


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Boxes ``[..., 4]`` in another format; integers stay integers unless a centre is involved."""
    x1, y1, x2, y2 = _corners(boxes, in_fmt)
    columns = {
        "xyxy": (x1, y1, x2, y2),
        "xywh": (x1, y1, x2 - x1, y2 - y1),
        "cxcywh": ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
    }
    if out_fmt not in columns:
        raise ValueError(f"unknown box format {out_fmt!r}")
    halves = in_fmt != out_fmt and "cxcywh" in (in_fmt, out_fmt)
    dtype = torch.float32 if halves and not boxes.is_floating_point() else boxes.dtype
    return boxes.clone() if in_fmt == out_fmt else torch.stack(columns[out_fmt], dim=-1).to(dtype)


def clip_boxes_to_image(boxes: Tensor, size: tuple[float, float]) -> Tensor:
    """x clamped to [0, width], y to [0, height]; NaN stays NaN."""
    height, width = size
    low = boxes.new_zeros(())
    high = boxes.new_tensor([width, height, width, height])
    return torch.where(boxes < low, low, torch.where(boxes > high, high, boxes))


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Indices of the boxes ``[N, 4]`` whose sides are both at least ``min_size``."""
    kept = [i for i, (x1, y1, x2, y2) in enumerate(boxes) if x2 - x1 >= min_size and y2 - y1 >= min_size]
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union of every pair: ``[..., N, 4]``, ``[..., M, 4]`` → ``[..., N, M]``."""
    p, g = _pairs(boxes1, boxes2, fmt)
    return (_intersection(p, g) / _union(p, g)).to(_ratio_dtype(boxes1, boxes2))


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU − (hull − union) / hull, hull the smallest box around both (Rezatofighi et al. 2019, algorithm 1)."""
    p, g = _pairs(boxes1, boxes2)
    hull_w, hull_h = _hull(p, g)
    hull, union = hull_w * hull_h, _union(p, g)
    return (_intersection(p, g) / union - (hull - union) / hull).to(_ratio_dtype(boxes1, boxes2))


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """IoU − (distance of centres)² / (diagonal of the hull)² (Zheng et al. 2020, equation 7)."""
    return _distance_iou(*_pairs(boxes1, boxes2), eps).to(_ratio_dtype(boxes1, boxes2))


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Distance IoU − α v, v the difference of aspect angles (Zheng et al. 2020, equations 8 to 11)."""
    p, g = _pairs(boxes1, boxes2)
    angle = torch.atan((p[2] - p[0]) / (p[3] - p[1])) - torch.atan((g[2] - g[0]) / (g[3] - g[1]))
    v = 4 / math.pi**2 * angle**2
    alpha = v / (1 - _intersection(p, g) / _union(p, g) + v + eps)
    alpha = alpha.detach()  # a weight, not something to learn through
    return (_distance_iou(p, g, eps) - alpha * v).to(_ratio_dtype(boxes1, boxes2))


# ----------------------------------------------------------------------------------------------------------------------

Corners = tuple[Tensor, ...]  # x1, y1, x2, y2, float64


def _corners(boxes: Tensor, fmt: str) -> Corners:
    a, b, c, d = boxes.to(torch.float64).unbind(-1)
    if fmt == "xyxy":
        return a, b, c, d
    if fmt == "xywh":
        return a, b, a + c, b + d
    if fmt == "cxcywh":
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    raise ValueError(f"unknown box format {fmt!r}")


def _pairs(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> tuple[Corners, Corners]:
    """Coordinates shaped ``[..., N, 1]`` and ``[..., 1, M]``, so that any arithmetic between them is pairwise."""
    return (
        tuple(value[..., :, None] for value in _corners(boxes1, fmt)),
        tuple(value[..., None, :] for value in _corners(boxes2, fmt)),
    )


def _intersection(p: Corners, g: Corners) -> Tensor:
    width = torch.minimum(p[2], g[2]) - torch.maximum(p[0], g[0])
    height = torch.minimum(p[3], g[3]) - torch.maximum(p[1], g[1])
    return torch.relu(width) * torch.relu(height)  # relu: clamp's gradient at 0 depends on torch's version


def _union(p: Corners, g: Corners) -> Tensor:
    return (p[2] - p[0]) * (p[3] - p[1]) + (g[2] - g[0]) * (g[3] - g[1]) - _intersection(p, g)


def _hull(p: Corners, g: Corners) -> tuple[Tensor, Tensor]:
    width = torch.maximum(p[2], g[2]) - torch.minimum(p[0], g[0])
    height = torch.maximum(p[3], g[3]) - torch.minimum(p[1], g[1])
    return torch.relu(width), torch.relu(height)


def _distance_iou(p: Corners, g: Corners, eps: float) -> Tensor:
    hull_w, hull_h = _hull(p, g)
    dx = (p[0] + p[2]) / 2 - (g[0] + g[2]) / 2
    dy = (p[1] + p[3]) / 2 - (g[1] + g[3]) / 2
    return _intersection(p, g) / _union(p, g) - (dx**2 + dy**2) / (hull_w**2 + hull_h**2 + eps)


def _upcast_dtype(dtype: torch.dtype) -> torch.dtype:
    """Areas are returned in at least float32 or int32, where the product of two sides has room."""
    if dtype.is_floating_point:
        return dtype if dtype == torch.float64 else torch.float32
    return dtype if dtype == torch.int64 else torch.int32


def _ratio_dtype(boxes1: Tensor, boxes2: Tensor) -> torch.dtype:
    """Quotients are float64 where a float64 tensor takes part, else float32."""
    return torch.float64 if torch.float64 in (boxes1.dtype, boxes2.dtype) else torch.float32
