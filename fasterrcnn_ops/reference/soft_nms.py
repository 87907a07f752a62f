"""Soft-NMS in plain PyTorch: the definition of right for `fasterrcnn_ops.soft_nms`.

Same function and arguments as the operator, any device, one selection at a time. Arguments are not checked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fasterrcnn_ops.reference.nms import _iou_with, _widened


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    *,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Selected indices, int64 [K], and their scores [K] when selected; see `fasterrcnn_ops.soft_nms`."""
    dtype = torch.promote_types(_widened(boxes).dtype, _widened(scores).dtype)
    boxes, current = boxes.detach().to(dtype), scores.detach().to(dtype, copy=True)
    iou_threshold, sigma, min_score = (torch.tensor(v, dtype=dtype) for v in (iou_threshold, sigma, min_score))
    remaining = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    keep: list[int] = []
    kept_scores: list[Tensor] = []
    while remaining.any() and len(keep) != max_output:
        # torch's descending order puts NaN first, and `stable` leaves ties with the lower index first.
        ranked = torch.sort(current, stable=True, descending=True).indices
        best = int(ranked[remaining[ranked]][0])
        keep.append(best)
        kept_scores.append(current[best].clone())
        remaining[best] = False
        current = current * _weight(_iou_with(boxes, best), iou_threshold, sigma, method)
        remaining &= ~(current < min_score)
    values = torch.stack(kept_scores) if kept_scores else current[:0]
    return torch.tensor(keep, dtype=torch.int64, device=boxes.device), values.to(scores.dtype)


def _weight(iou: Tensor, iou_threshold: Tensor, sigma: Tensor, method: str) -> Tensor:  # [N] -> [N]
    one = torch.ones_like(iou)
    if method == "gaussian":
        exponent = -(iou * iou) / sigma.to(iou.device)
        return torch.where(iou.isnan(), one, exponent.double().exp().to(iou.dtype))
    lowered = {"naive": torch.zeros_like(iou), "linear": 1 - iou}[method]
    return torch.where(iou >= iou_threshold.to(iou.device), lowered, one)
