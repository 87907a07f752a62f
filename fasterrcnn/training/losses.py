"""The losses of both stages (Faster R-CNN paper, equation 1)."""

from __future__ import annotations

from collections.abc import Callable
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
        combine: Makes of the two numbers, int64[2], what to divide by; by default each, and at least 1. See
            :mod:`fasterrcnn.training.normalizers`.
    """

    beta: float = 1.0
    box_weight: float = 1.0
    normalizer: str = "sampled"
    combine: Callable[[Tensor], Tensor] | None = None

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
            The mean classification loss and the box loss, scalars in float32 (float64 for float64 logits). Without any
            samples both are 0, with gradients of 0. Rows that do not count get a gradient of 0. Nothing is read back to
            the host.
        """
        counted = labels != IGNORE
        dtype = torch.promote_types(logits.dtype, torch.float32)
        logits, deltas = logits.to(dtype), deltas.to(dtype)
        if logits.shape[1] == 1:
            truth = (labels > 0).to(logits.dtype)
            losses = F.binary_cross_entropy_with_logits(logits[:, 0], truth, reduction="none")
            classification = torch.where(counted, losses, 0.0).sum()
        else:
            classification = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        positive = labels > 0
        offsets = torch.where(positive[:, None], _of_class(deltas, labels, logits.shape[1]), 0.0)
        box = smooth_l1(offsets, torch.where(positive[:, None], target_deltas, 0.0), self.beta)
        counts = torch.stack([counted.sum(), positive.sum()])
        sampled, positives = counts.clamp(min=1) if self.combine is None else self.combine(counts)
        divisor = sampled if self.normalizer == "sampled" else positives
        return classification / sampled, self.box_weight * box / divisor


def _of_class(deltas: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Of the columns of ``deltas`` the four of each row's label [S, 4]; any four where that is not positive.

    One set of offsets serves all classes, or each class has its own, and background has or has none.
    """
    columns = deltas.shape[1] // 4
    if columns == 1:
        return deltas
    column = (labels - int(classes != columns)).clamp(min=0)
    return deltas.unflatten(1, (columns, 4)).gather(1, column[:, None, None].expand(-1, 1, 4))[:, 0]
