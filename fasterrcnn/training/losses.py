"""The losses of both stages (Faster R-CNN paper, equation 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -1


def smooth_l1(prediction: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """Summed smooth L1 loss (Fast R-CNN paper, equation 3): ½ d²/β below β, |d| − ½ β above; L1 for β = 0."""
    distance = (prediction - target).abs()
    if beta == 0:
        return distance.sum()
    return torch.where(distance < beta, 0.5 * distance.square() / beta, distance - 0.5 * beta).sum()


@dataclass(frozen=True)
class StageLoss:
    """Classification and box loss of one stage; the defaults are the classic family's, for either stage.

    Attributes:
        beta: Of the smooth L1 loss.
        box_weight: λ, a factor on the box loss.
        normalizer: What the box loss is divided by: the number of "sampled" boxes or of "positives".
    """

    beta: float = 1.0
    box_weight: float = 1.0
    normalizer: str = "sampled"

    def __post_init__(self) -> None:
        if self.normalizer not in ("sampled", "positives"):
            raise ValueError(f"normalizer must be 'sampled' or 'positives', got {self.normalizer!r}")

    def __call__(self, logits: Tensor, deltas: Tensor, labels: Tensor, target_deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Losses over the samples of a whole batch.

        Args:
            logits: float[S, classes] for a softmax, float[S, 1] for a sigmoid.
            deltas: float[S, 4], or four columns for each class: float[S, 4(C+1)], or float[S, 4C] without background.
            labels: int64[S]; -1 is left out, 0 is background, which has no box.
            target_deltas: float[S, 4].

        Returns:
            The mean classification loss and the box loss, scalars in float32. Without any samples both are 0, with
            gradients of 0.
        """
        counted = labels != IGNORE
        sampled = counted.sum()
        logits, deltas = logits.float(), deltas.float()
        if logits.shape[1] == 1:
            truth = (labels > 0).to(logits.dtype)
            losses = F.binary_cross_entropy_with_logits(logits[:, 0], truth, reduction="none")
            classification = torch.where(counted, losses, 0.0).sum()
        else:
            classification = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        positives = (labels > 0).nonzero()[:, 0]
        columns = deltas.unflatten(1, (deltas.shape[1] // 4, 4))
        # One set of offsets serves all classes, or each class has its own, and background has or has none.
        background = logits.shape[1] == columns.shape[1]
        column = labels[positives] - int(not background)
        column = column if columns.shape[1] > 1 else torch.zeros_like(positives)
        box = smooth_l1(columns[positives, column], target_deltas[positives], self.beta)
        divisor = sampled if self.normalizer == "sampled" else positives.new_tensor(len(positives))
        return classification / sampled.clamp(min=1), self.box_weight * box / divisor.clamp(min=1)
