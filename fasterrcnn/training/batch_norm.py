"""BatchNorm over the images of all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed.nn as collectives
from torch import Tensor, nn

from fasterrcnn import distributed


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose statistics are those of the batches of all processes together (torch's own needs CUDA).

    In evaluation mode, and so where it is frozen, it is BatchNorm itself.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalises float[B, C, H, W]; B, H and W may differ between processes."""
        if not self.training or distributed.processes() == 1:
            return super().forward(features)
        values = features.double() if features.dtype == torch.float64 else features.float()
        size = values.new_tensor([values.numel() // values.shape[1]])
        sums = collectives.all_reduce(torch.cat([values.sum(dim=(0, 2, 3)), size]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean[:, None, None]
        variance = collectives.all_reduce(centred.square().sum(dim=(0, 2, 3))) / count
        self._track(mean.detach(), variance.detach(), count)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        normal = centred * scale[:, None, None]
        return (normal if not self.affine else normal + self.bias[:, None, None]).to(features.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


@contextmanager
def synchronised(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Lets the BatchNorms of a model take their statistics over all processes for a while. Its state stays as it is."""
    norms = [module for module in model.modules() if type(module) is nn.BatchNorm2d] if wanted else []
    for norm in norms:
        norm.__class__ = SyncedBatchNorm2d
    try:
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm2d
