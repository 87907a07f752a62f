"""Rows of training's sampling: which of N matched anchors of each of B images count."""

from __future__ import annotations

import torch
from torch import Tensor

from fasterrcnn_ops.reference import sampling as reference_sampling
from fasterrcnn_ops.sampling import sample_candidates

from .agreement import as_many_drawn
from .case import Case, Inputs, size_of

try:
    from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
except ImportError:  # cases can still be listed; the stage refuses to run without
    BalancedPositiveNegativeSampler = None

RPN = {"num_samples": 256, "max_positive": 128}


def sample_candidates_case(images: int, candidates: int) -> Case:
    """An RPN's rule, 256 anchors of an image; one anchor in a thousand is positive, one in ten is neither."""

    def make(device: torch.device, seed: int) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand(images, candidates, generator=generator)
        labels = torch.where(draw < 1e-3, 1, torch.where(draw < 0.9, 0, -1))  # torchvision's way to say it
        seeds = torch.randint(2**63 - 1, (images,), generator=generator)
        return tuple(part.to(device) for part in (labels == 1, labels == 0, seeds, labels))

    def theirs(positive: Tensor, negative: Tensor, seeds: Tensor, labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return BalancedPositiveNegativeSampler(256, 0.5)(list(labels))

    return Case(
        op="sample_candidates",
        shape=f"{images}x{candidates}",
        dtype="bool",
        layout="",
        make=make,
        ours=lambda *inputs: sample_candidates(*inputs[:3], **RPN),
        theirs=theirs,
        reference=lambda *inputs: reference_sampling.sample_candidates(*inputs[:3], **RPN),
        agree=as_many_drawn,
        theirs_in_graph=False,  # finds out how many there are
        least_bytes=lambda inputs, result: size_of(inputs[:3]) + size_of(result),
        exact=True,
    )
