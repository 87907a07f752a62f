"""sample_candidates on the CPU against the composition of torch operations that defines it, and torchvision's sampler.

torchvision draws others, so its results are only counted.
"""

from __future__ import annotations

import functools

import pytest
import torch

from fasterrcnn_ops import sampling as ours
from fasterrcnn_ops.reference import sampling as reference

try:
    from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
except ImportError:  # the `rival` fixture skips these runs and says so
    BalancedPositiveNegativeSampler = None

# images, candidates, share of positives, how many to draw, positives at most
CASES = {
    "rpn_1_of_268569_anchors": (1, 268_569, 0.001, 256, 128),
    "rpn_8_of_268569_anchors": (8, 268_569, 0.001, 256, 128),
    "head_2_of_2020_proposals": (2, 2020, 0.1, 512, 128),
}


def as_many(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [int(image.sum()) for image in one] == [int(image.sum()) for image in other]


@pytest.mark.parametrize("case", CASES)
def test_sample_candidates(race, case):
    images, count, share, num_samples, max_positive = CASES[case]
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(images, count, generator=generator)
    labels = torch.where(draw < share, 1, torch.where(draw < 0.9, 0, -1))
    given = labels == 1, labels == 0, torch.randint(2**63 - 1, (images,), generator=generator)
    limits = {"num_samples": num_samples, "max_positive": max_positive}
    implementations = {
        "ours": functools.partial(ours.sample_candidates, *given, **limits),
        "reference": functools.partial(reference.sample_candidates, *given, **limits),
        "torchvision": lambda: BalancedPositiveNegativeSampler(num_samples, max_positive / num_samples)(list(labels)),
    }
    for found, expected in zip(implementations["ours"](), implementations["reference"](), strict=True):
        assert torch.equal(found, expected)
    race(f"sample_candidates/{case}", implementations, as_many)
