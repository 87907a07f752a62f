"""A detector made ready for use: BatchNorm folded into convolutions, channels last, a faster number format."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

from fasterrcnn.backbone import FrozenBatchNorm2d

Norm = nn.BatchNorm2d | FrozenBatchNorm2d


def optimized(model: nn.Module, dtype: torch.dtype = torch.float32, *, channels_last: bool = True) -> nn.Module:
    """A copy of a detector for inference; see :meth:`fasterrcnn.model.TwoStageDetector.optimize_for_inference`."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be torch.float32, torch.bfloat16 or torch.float16, got {dtype}")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    fold_batch_norms(model)
    # Parameters and activations alone: anchors, decoding and NMS compute in float32 whatever the features are.
    model.to(dtype=dtype, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    model.channels_last = channels_last
    return model


@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> int:
    """Replaces each BatchNorm after a convolution by an Identity, and gives the convolution its factor and shift.

    Args:
        model: In evaluation mode; changed in place. Normalisation that is not BatchNorm stays as it is, and so does
            BatchNorm that keeps no statistics.

    Returns:
        How many were folded.
    """
    pairs = list(_convolutions_with_norms(model))
    for parent, conv, norm_name, norm in pairs:
        # In double precision, rounded once: the fold then costs less accuracy than the two layers did.
        # A parameter that a layer does not have is None.
        factor = (norm.running_var.double() + norm.eps).rsqrt()
        factor = (factor if norm.weight is None else norm.weight.double() * factor)[:, None, None, None]
        bias = 0 if conv.bias is None else conv.bias.double()
        shift = (bias - norm.running_mean.double()) * factor.flatten()
        shift = shift if norm.bias is None else norm.bias.double() + shift
        conv.weight.copy_(conv.weight.double() * factor)
        conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=conv.weight.requires_grad)
        setattr(parent, norm_name, nn.Identity())
    return len(pairs)


def _convolutions_with_norms(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Conv2d, str, Norm]]:
    """(parent, convolution, name of the BatchNorm, BatchNorm) of all that belong together.

    By the two conventions of this package's trunks: children of one parent, the norm directly after the convolution.
    """
    for parent in model.modules():
        children = list(parent.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, Norm) and not norm.training:
                if norm.running_mean is None or len(norm.running_mean) != conv.out_channels:
                    continue  # no statistics to fold, or another layer's
                yield parent, conv, name, norm
