"""A fixed number of positives and negatives out of very many of the latter, without reading how many there are.

What is drawn is decided by a hash of (seed of the image, stage, index of the candidate): the candidates with the
smallest hashes are the sample. So a sample depends neither on the device nor on the batch the image is in, and shapes
do not depend on values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ANCHORS, PROPOSALS = 0, 1
"""Stages, which draw independently of each other from one seed."""

_WORD = 0xFFFFFFFF
# lowbias32's multipliers. The second is 0x846CA68B − 2³²: equal modulo 2³², and 32 bits times it stay within int64.
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32


def mixed(word: Tensor) -> Tensor:
    """A bijection of 32-bit words (int64, 0…2³² − 1) in which every bit of the input moves about half of the output's.

    The finaliser "lowbias32" of Chris Wellons' Hash Prospector (2018), in int64 arithmetic that never overflows.
    """
    word = word ^ (word >> 16)
    word = (word * _FIRST) & _WORD
    word = word ^ (word >> 15)
    word = (word * _SECOND) & _WORD
    return word ^ (word >> 16)


def hashes(seeds: Tensor, stage: int, index: Tensor) -> Tensor:
    """A hash of 32 bits for each candidate of each image; one image has no two equal ones.

    Args:
        seeds: int64[...], any numbers.
        stage: ``ANCHORS`` or ``PROPOSALS``; any number of 32 bits.
        index: int64[..., N] in 0…2³² − 1.

    Returns:
        int64[..., N] in 0…2³² − 1.
    """
    low, high = seeds & _WORD, (seeds >> 32) & _WORD
    # Two words of state, so that no two of a few million seeds order their candidates alike.
    first = mixed(mixed(low ^ 0x9E3779B9) ^ high ^ stage)
    second = mixed(mixed(high ^ 0x85EBCA6B) ^ low ^ (stage << 16))
    return mixed(mixed(index ^ first[..., None]) ^ second[..., None])


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
        seeds = torch.as_tensor(seeds, dtype=torch.int64, device=positive.device)
        if index is None:
            index = torch.arange(positive.shape[-1], device=positive.device)
        keys = hashes(seeds, stage, index)
        most_positive = int(self.num_samples * self.positive_fraction)
        num_positive = positive.sum(dim=-1, keepdim=True).clamp(max=most_positive)
        num_negative = torch.minimum(negative.sum(dim=-1, keepdim=True), self.num_samples - num_positive)
        return (
            _smallest(keys, positive, num_positive, most_positive),
            _smallest(keys, negative, num_negative, self.num_samples),
        )


def _smallest(keys: Tensor, candidates: Tensor, count: Tensor, capacity: int) -> Tensor:
    """bool[..., N]: the ``count`` [..., 1] candidates of the smallest keys; ``capacity`` is no less than the count."""
    capacity = min(capacity, keys.shape[-1])
    if capacity == 0:
        return torch.zeros_like(candidates)
    keys = torch.where(candidates, keys, 2**32)  # behind all candidates
    best = keys.topk(capacity, largest=False).values  # ascending
    last = best.gather(-1, (count - 1).clamp(min=0))
    return candidates & (keys <= last) & (count > 0)
