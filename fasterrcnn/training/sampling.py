"""A fixed number of positives and negatives out of very many of the latter, without reading how many there are.

What is drawn is decided by a hash of (seed of the image, stage, index of the candidate): the candidates with the
smallest hashes are the sample (:func:`fasterrcnn_ops.sample_candidates`). So a sample depends neither on the device nor
on the batch the image is in, and shapes do not depend on values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fasterrcnn_ops import sample_candidates

ANCHORS, PROPOSALS = 0, 1
"""Stages, which draw independently of each other from one seed."""


def image_seeds(count: int, generator: torch.Generator) -> Tensor:
    """int64[count], on the CPU: a seed for each image of a batch, drawn from a generator there."""
    return torch.randint(2**63 - 1, (count,), generator=generator, dtype=torch.int64)


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

    def __call__(
        self,
        positive: Tensor,
        negative: Tensor,
        seeds: Tensor | int,
        *,
        stage: int = ANCHORS,
        index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Samples, of one image or of each image of a batch; nothing is read back to the host.

        Args:
            positive: bool[N] or bool[B, N], which may be drawn as positives.
            negative: Likewise, which may be drawn as negatives; none of them positive.
            seeds: A number, or int64[B].
            stage: Of the hash: stages draw independently from one seed.
            index: int64[N] or [B, N], the number of each candidate, 0…2³² − 1, no two candidates of an image alike. By
                default they are counted from 0. A candidate of the same number has the same luck in every batch.

        Returns:
            Which positives and which negatives were drawn, bool of the shape given.
        """
        return sample_candidates(
            positive,
            negative,
            torch.as_tensor(seeds, dtype=torch.int64, device=positive.device).expand(positive.shape[:-1]),
            num_samples=self.num_samples,
            max_positive=int(self.num_samples * self.positive_fraction),
            stage=stage,
            index=index,
        )
