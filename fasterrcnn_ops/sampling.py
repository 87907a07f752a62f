"""Sampling: which of the matched anchors or proposals a training step learns from."""

from __future__ import annotations

import torch
from torch import Tensor

from fasterrcnn_ops import _library
from fasterrcnn_ops._transforms import register_vmap

__all__ = ["sample_candidates"]

_library.load()


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
    """A fixed number of positives and negatives out of very many, at random, without replacement.

    What is drawn is decided by a hash of 32 bits of (seed of the image, stage, number of the candidate): of the
    positives at most ``max_positive``, those of the smallest hashes, then of the negatives likewise as many as fill up
    ``num_samples``. So a sample depends neither on the device nor on the batch an image is in, and nothing is read back
    to the host to draw it.

    Args:
        positive: bool ``[N]``, or ``[B, N]`` of a batch: which candidates may be drawn as positives.
        negative: Likewise, which may be drawn as negatives. A candidate in both masks takes part in both draws.
        seeds: int64 ``[]``, or ``[B]``: any number for each image. All of its 64 bits count.
        num_samples: How many to draw of an image, both kinds together; where there are fewer, all of them are drawn.
        max_positive: Most positives among them, 0 … ``num_samples``.
        stage: 0 … 65535. Stages draw independently of each other from one seed.
        index: int64 ``[N]``, or ``[B, N]``: the number of each candidate, of which the low 32 bits count; no two
            candidates of an image should have the same. By default candidates are counted from 0. Numbers of their own
            keep the luck of candidates that others are inserted between: padding, for one.

    Returns:
        The positives and the negatives that were drawn, bool, each of the shape of ``positive``.

    Raises:
        RuntimeError: a shape, dtype or device does not fit, or a number is out of its range; the message names the
            argument.

    Note:
        * Candidates that share a number share their hash; of those the ones in front are drawn first, so that never
          more are drawn than were asked for.
        * torchvision's ``BalancedPositiveNegativeSampler`` draws as many of each kind, but others: it permutes all of
          them with the global generator of the device, and reads back how many there are.
        * Each image of a batch gets what it gets alone. The same on every device, for any number of threads; not
          differentiable. ``N`` is less than 2³¹.

    Source:
        Ren et al., "Faster R-CNN", 2015, section 3.1.3 (256 anchors of an image, up to half of them positive);
        Girshick, "Fast R-CNN", 2015, section 2.3. The hash: Chris Wellons, Hash Prospector, 2018 ("lowbias32").

    Example:
        >>> positive = torch.tensor([True, False, False, True, False, False, False, True])
        >>> drawn = sample_candidates(positive, ~positive, torch.tensor(7), num_samples=4, max_positive=2)
        >>> [int(mask.sum()) for mask in drawn]
        [2, 2]
    """
    return torch.ops.fasterrcnn_ops.sample_candidates(
        positive, negative, seeds, num_samples, max_positive, stage, index
    )


@torch.library.register_fake("fasterrcnn_ops::sample_candidates")
def _sample_candidates_fake(positive, negative, seeds, num_samples, max_positive, stage=0, index=None):
    return positive.new_empty(positive.shape), positive.new_empty(positive.shape)


register_vmap("sample_candidates")
