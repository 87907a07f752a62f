"""Box regression deltas, defined: pure PyTorch, same signatures as the public functions.

Girshick et al., "Rich feature hierarchies …", appendix C; Ren et al., "Faster R-CNN", section 3.1.2, equation 2.
Arithmetic in float32 (float64 where a float64 tensor takes part), one rounding to the promoted dtype of both tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def encode_boxes(
    boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0), *, inclusive: bool = False
) -> Tensor:
    """Deltas ``[N, 4]`` that lead from each anchor to its box; see :func:`fasterrcnn_ops.encode_boxes`."""
    dtype = torch.promote_types(boxes.dtype, anchors.dtype)
    cx, cy, w, h = _center_size(boxes.to(_exact(dtype)), inclusive)
    cx_a, cy_a, w_a, h_a = _center_size(anchors.to(_exact(dtype)), inclusive)
    wx, wy, ww, wh = weights
    deltas = (wx * (cx - cx_a) / w_a, wy * (cy - cy_a) / h_a, ww * torch.log(w / w_a), wh * torch.log(h / h_a))
    return torch.stack(deltas, dim=1).to(dtype)


def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    clip: float = math.log(1000.0 / 16),
    image_size: tuple[float, float] | None = None,
    inclusive: bool = False,
) -> Tensor:
    """Boxes ``[N, 4K]`` reached from each anchor by its K deltas; see :func:`fasterrcnn_ops.decode_boxes`."""
    dtype = torch.promote_types(deltas.dtype, anchors.dtype)
    rows, columns = deltas.shape
    per_anchor = deltas.to(_exact(dtype)).reshape(rows, columns // 4, 4)  # [N, K, 4]
    cx_a, cy_a, w_a, h_a = (value[:, None] for value in _center_size(anchors.to(_exact(dtype)), inclusive))  # [N, 1]
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(per_anchor.unbind(-1), weights, strict=True))  # [N, K]

    cx, cy = dx * w_a + cx_a, dy * h_a + cy_a
    w, h = dw.clamp(max=clip).exp() * w_a, dh.clamp(max=clip).exp() * h_a
    last = 1 if inclusive else 0  # x2 names the last pixel inside the box, or the edge behind it
    boxes = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2 - last, cy + h / 2 - last), dim=-1)  # [N, K, 4]
    if image_size is not None:
        height, width = image_size
        boxes = torch.stack(
            (boxes[..., 0::2].clamp(0, width - last), boxes[..., 1::2].clamp(0, height - last)), dim=-1
        )  # [N, K, corner, axis]
    return boxes.reshape(rows, columns).to(dtype)


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _center_size(boxes: Tensor, inclusive: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(1)
    w, h = x2 - x1 + inclusive, y2 - y1 + inclusive
    return x1 + w / 2, y1 + h / 2, w, h
