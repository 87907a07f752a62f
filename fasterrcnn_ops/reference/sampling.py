"""Sampling of candidates, defined: pure PyTorch, same signature as the public function.

The hash of a candidate is "lowbias32", the finaliser of Chris Wellons' Hash Prospector (2018), four times over.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
# lowbias32's multipliers. The second is 0x846CA68B − 2³²: equal modulo 2³², and 32 bits times it stay within int64.
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32


def mixed(word: Tensor) -> Tensor:
    """A bijection of 32-bit words (int64, 0…2³² − 1) in which every bit of the input moves about half of the output's.

    In int64 arithmetic that never overflows.
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
        stage: 0…2¹⁶ − 1.
        index: int64[..., N], of which the low 32 bits count.

    Returns:
        int64[..., N] in 0…2³² − 1.
    """
    low, high = seeds & _WORD, (seeds >> 32) & _WORD
    # Two words of state, so that no two of a few million seeds order their candidates alike.
    first = mixed(mixed(low ^ 0x9E3779B9) ^ high ^ stage)
    second = mixed(mixed(high ^ 0x85EBCA6B) ^ low ^ (stage << 16))
    return mixed(mixed((index & _WORD) ^ first[..., None]) ^ second[..., None])


def sample_candidates(
    positive: Tensor,
    negative: Tensor,
    seeds: Tensor,
    *,
    num_samples: int,
    max_positive: int,
    stage: int = 0,
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Which positives and negatives are drawn, bool ``[N]`` or ``[B, N]``; see :func:`sample_candidates
    <fasterrcnn_ops.sample_candidates>`."""
    position = torch.arange(positive.shape[-1], device=positive.device)
    # Where numbers repeat, and hashes with them, the position decides; 32 + 31 bits are those of an int64.
    keys = hashes(seeds, stage, position if index is None else index) << 31 | position
    num_positive = positive.sum(dim=-1, keepdim=True).clamp(max=max_positive)
    num_negative = torch.minimum(negative.sum(dim=-1, keepdim=True), num_samples - num_positive)
    return (
        _smallest(keys, positive, num_positive, max_positive),
        _smallest(keys, negative, num_negative, num_samples),
    )


def _smallest(keys: Tensor, candidates: Tensor, count: Tensor, capacity: int) -> Tensor:
    """bool[..., N]: the ``count`` [..., 1] candidates of the smallest keys; ``capacity`` is no less than the count."""
    capacity = min(capacity, keys.shape[-1])
    if capacity == 0:
        return torch.zeros_like(candidates)
    keys = torch.where(candidates, keys, 2**63 - 1)  # behind all candidates
    best = keys.topk(capacity, largest=False).values  # ascending
    last = best.gather(-1, (count - 1).clamp(min=0))
    return candidates & (keys <= last) & (count > 0)
