"""A fixed number of positives and negatives out of very many of the latter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampler:
    """Draws samples without replacement.

    Attributes:
        num_samples: How many in total; fewer where there are not enough.
        positive_fraction: At most this share is positive; negatives fill up the rest.
    """

    num_samples: int
    positive_fraction: float

    def __post_init__(self) -> None:
        if self.num_samples < 1 or not 0 <= self.positive_fraction <= 1:
            raise ValueError(
                "need num_samples >= 1 and 0 <= positive_fraction <= 1, "
                f"got {self.num_samples} and {self.positive_fraction}"
            )

    def __call__(self, positive: Tensor, negative: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Samples.

        Args:
            positive: bool[N], which may be drawn as positives.
            negative: bool[N], which may be drawn as negatives.
            generator: On the CPU, so that every device draws the same.

        Returns:
            Ascending int64 indices of the positives and of the negatives drawn.
        """
        positives, negatives = positive.nonzero()[:, 0], negative.nonzero()[:, 0]
        num_positive = min(len(positives), int(self.num_samples * self.positive_fraction))
        num_negative = min(len(negatives), self.num_samples - num_positive)
        return _draw(positives, num_positive, generator), _draw(negatives, num_negative, generator)


def _draw(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randperm(len(candidates), generator=generator, device="cpu")[:count].sort().values
    return candidates[chosen.to(candidates.device)]
