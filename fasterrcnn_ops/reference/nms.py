"""Greedy non-maximum suppression in plain PyTorch: the definition of right for `fasterrcnn_ops.nms`.

Same functions and arguments as the operators, any device, one box at a time. Arguments are not checked.
"""

from __future__ import annotations

import torch
from torch import Tensor

_HALF_TYPES = (torch.float16, torch.bfloat16)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Kept indices, int64 [K], by descending score; see `fasterrcnn_ops.nms`."""
    return _greedy(boxes, scores, None, iou_threshold, boxes.shape[0])


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Kept indices, int64 [K]; boxes compete within equal `idxs` only; see `fasterrcnn_ops.batched_nms`."""
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    return _greedy(boxes, scores, idxs, iou_threshold, boxes.shape[0])


def nms_padded(
    boxes: Tensor, scores: Tensor, idxs: Tensor | None = None, *, iou_threshold: float, max_output: int
) -> tuple[Tensor, Tensor]:
    """Kept indices padded with -1, int64 [max_output], and their count, int64 []; see `fasterrcnn_ops.nms_padded`."""
    kept = _greedy(boxes, scores, idxs, iou_threshold, max_output)
    keep = torch.full((max_output,), -1, dtype=torch.int64, device=boxes.device)
    keep[: len(kept)] = kept
    return keep, torch.tensor(len(kept), device=boxes.device)


def _greedy(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float, max_output: int) -> Tensor:
    boxes = _widened(boxes.detach())
    suppressed = torch.zeros(boxes.shape[0], dtype=torch.bool, device=boxes.device)
    kept: list[int] = []
    # torch's descending order puts NaN first, and `stable` leaves ties with the lower index first.
    for index in torch.sort(_widened(scores.detach()), stable=True, descending=True).indices.tolist():
        if len(kept) == max_output:
            break
        if suppressed[index]:
            continue
        kept.append(index)
        # A float32 IoU meets the threshold as float64: 0.3 is not rounded to float32 first. NaN compares false.
        hit = _iou_with(boxes, index).double() > iou_threshold
        suppressed |= hit if idxs is None else hit & (idxs == idxs[index])
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


def _iou_with(boxes: Tensor, index: int) -> Tensor:  # [N, 4] -> [N], each operation rounded in the dtype of the boxes
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    area = (x2 - x1) * (y2 - y1)
    width = (torch.minimum(x2, x2[index]) - torch.maximum(x1, x1[index])).clamp(min=0)
    height = (torch.minimum(y2, y2[index]) - torch.maximum(y1, y1[index])).clamp(min=0)
    intersection = width * height
    return intersection / (area[index] + area - intersection)


def _widened(values: Tensor) -> Tensor:
    return values.float() if values.dtype in _HALF_TYPES else values
