"""Which ground-truth box each anchor or proposal stands for (Faster R-CNN paper, section 3.1.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fasterrcnn_ops import box_iou

NEGATIVE, IGNORED = -1, -2


@dataclass(frozen=True)
class Matcher:
    """Assigns boxes to ground truths by IoU.

    Attributes:
        positive_iou: A box with a best IoU of at least this stands for that ground truth.
        negative_iou: A box with a best IoU below this is background; between the two it is ignored.
        best_of_each: Each ground truth also gets the boxes that overlap it best (all of them, when equal, and none
            when nothing overlaps it), however low the IoU. Such a box stands for the ground truth *it* overlaps best.
    """

    positive_iou: float
    negative_iou: float
    best_of_each: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                f"need 0 <= negative_iou <= positive_iou <= 1, got {self.negative_iou} and {self.positive_iou}"
            )

    def __call__(self, boxes: Tensor, ground_truth: Tensor) -> Tensor:
        """Matches.

        Args:
            boxes: float[N, 4].
            ground_truth: float[M, 4]; without any, every box is background.

        Returns:
            int64[N]: index of a ground truth, -1 (background) or -2 (ignored). Equal IoUs go to the lower index.
        """
        if len(ground_truth) == 0:
            return torch.full((len(boxes),), NEGATIVE, dtype=torch.int64, device=boxes.device)
        iou = box_iou(ground_truth, boxes).nan_to_num(0.0)  # [M, N]; two boxes without area have IoU 0/0
        best, match = iou.max(dim=0)
        result = torch.where(best < self.negative_iou, NEGATIVE, torch.where(best >= self.positive_iou, match, IGNORED))
        if self.best_of_each and len(boxes) > 0:
            best_of_truth = iou.max(dim=1, keepdim=True).values
            is_best = ((iou == best_of_truth) & (best_of_truth > 0)).any(dim=0)
            result = torch.where(is_best, match, result)
        return result
