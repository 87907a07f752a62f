"""Which ground-truth box each anchor or proposal stands for (Faster R-CNN paper, section 3.1.2)."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from torch import Tensor

from fasterrcnn_ops import match_boxes

NEGATIVE, IGNORED = -1, -2
LEAST_OVERLAP = sys.float_info.min  # less than any IoU but 0


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
            boxes: float[N, 4], or of a batch [B, N, 4].
            ground_truth: float[M, 4], or of a batch [B, M, 4] with NaN in the rows that are none; without any, every
                box is background.

        Returns:
            int64[N] or [B, N]: index of a ground truth, -1 (background) or -2 (ignored). Of equal IoUs the lower index
            counts.
        """
        return match_boxes(
            ground_truth,
            boxes,
            high_threshold=self.positive_iou,
            low_threshold=self.negative_iou,
            allow_low_quality=self.best_of_each,
            min_low_quality=LEAST_OVERLAP,
        )
