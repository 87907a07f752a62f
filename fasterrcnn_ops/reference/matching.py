"""Matching boxes to targets, defined: pure PyTorch, same signature as the public function.

Ren et al., "Faster R-CNN", section 3.1.2. IoUs take part in comparisons for equality, so they are computed as
:func:`fasterrcnn_ops.box_iou` computes them: in float32 (float64 where a float64 tensor takes part), each operation
rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor


def match_boxes(
    targets: Tensor,
    boxes: Tensor,
    *,
    high_threshold: float,
    low_threshold: float,
    allow_low_quality: bool = False,
    min_low_quality: float = 0.0,
) -> Tensor:
    """Target of each box, -1 or -2, int64 ``[N]`` or ``[B, N]``; see :func:`fasterrcnn_ops.match_boxes`."""
    images, num_boxes = targets.shape[:-2], boxes.shape[-2]
    if targets.shape[-2] == 0 or num_boxes == 0:
        return torch.full((*images, num_boxes), -1, dtype=torch.int64, device=boxes.device)
    exists = ~targets.isnan().any(dim=-1, keepdim=True)  # [..., M, 1]
    iou = _pairwise_iou(targets, boxes).nan_to_num(nan=0.0)  # [..., M, N]
    iou = torch.where(exists, iou, -1.0)
    best, nearest = iou.max(dim=-2)
    matches = torch.where(best < high_threshold, -2, nearest)
    matches = torch.where((best < low_threshold) | ~exists.any(dim=-2), -1, matches)
    if allow_low_quality:
        best_of_target = iou.max(dim=-1, keepdim=True).values  # [..., M, 1]
        good_enough = exists & (best_of_target.double() >= min_low_quality)
        restored = ((iou == best_of_target) & good_enough).any(dim=-2)
        matches = torch.where(restored, nearest, matches)
    return matches


def _pairwise_iou(targets: Tensor, boxes: Tensor) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(targets.dtype, boxes.dtype), torch.float32)
    t, b = targets.to(dtype)[..., :, None, :], boxes.to(dtype)[..., None, :, :]  # [..., M, 1, 4], [..., 1, N, 4]
    sides = (torch.minimum(t[..., 2:], b[..., 2:]) - torch.maximum(t[..., :2], b[..., :2])).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection / (_area(t) + _area(b) - intersection)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
