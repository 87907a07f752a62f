"""RoIPool: ``roi_pool`` and the module ``RoIPool``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fasterrcnn_ops import _library
from fasterrcnn_ops._rois import as_pair, as_rois, empty_map, is_channels_last
from fasterrcnn_ops._transforms import differentiable

__all__ = ["RoIPool", "roi_pool"]

_library.load()


def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Features of fixed size for every RoI: the maximum of the whole pixels of each bin.

    Letters: N images, C channels, a map of H × W pixels, K RoIs, PH × PW bins.

    Args:
        input: ``[N, C, H, W]`` feature map; float16, bfloat16, float32 or float64, contiguous or channels_last (other
            strides are copied first).
        boxes: ``[K, 5]`` (batch index, x1, y1, x2, y2), or a list or tuple with the ``[L, 4]`` (x1, y1, x2, y2) of each
            image; input pixels, any floating dtype, used in float32 (float64 where ``input`` is). Scaled coordinates
            are rounded half away from zero, and the pixel of (x2, y2) belongs to the RoI.
        output_size: ``(PH, PW)`` or one number for both, at least 1.
        spatial_scale: map pixels an input pixel, such as 1/16.

    Returns:
        ``[K, C, PH, PW]``, RoIs in the order given, dtype and memory format of ``input``.

    Raises:
        ValueError: ``boxes`` of a wrong shape (an ``AssertionError`` as well), ``output_size`` not one or two numbers.
        TypeError: ``boxes`` or ``output_size`` of a wrong type.
        RuntimeError: a dtype, rank or device does not fit, an ``output_size`` below 1, or (on the CPU) a batch index
            that names no image.

    Note:
        No RoIs give ``[0, C, PH, PW]``. Bins outside the map are 0, and so are all bins of an RoI with NaN or inf or
        whose scaled side overflows; inverted RoIs are one pixel. The first of equal maxima, in rows, receives the
        gradient. NaN never is the maximum; as in torchvision, a bin without any value above the lowest float32
        (-3.4e38) gives that value in ``input``'s dtype (-inf in half types) and no gradient. Differentiable in
        ``input``, twice too; not in ``boxes``. Forward and backward are deterministic; gradients are summed in float32
        (float64) and rounded once. So autocast changes nothing. ``torch.vmap`` runs it once for each entry.

    Source:
        Girshick, "Fast R-CNN", 2015, section 2.1.

    Example:
        >>> ramp = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> roi_pool(ramp, torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]), 2)
        tensor([[[[ 5.,  6.],
                  [ 9., 10.]]]])
    """
    pooled_height, pooled_width = as_pair(output_size)
    output, _ = _pool(input, as_rois(boxes), spatial_scale, pooled_height, pooled_width)
    return output


class RoIPool(nn.Module):
    """:func:`roi_pool` with its settings kept.

    Args:
        output_size, spatial_scale: as :func:`roi_pool`.
    """

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """``[N, C, H, W]`` and RoIs (``[K, 5]`` or a list of ``[L, 4]``) → ``[K, C, PH, PW]``."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


@torch.library.register_fake("fasterrcnn_ops::roi_pool_forward")
def _forward_fake(input, rois, spatial_scale, pooled_height, pooled_width):
    size = (rois.shape[0], input.shape[1], pooled_height, pooled_width)
    channels_last = is_channels_last(input)
    return empty_map(input, size, channels_last), empty_map(input, size, channels_last, torch.int64)


@torch.library.register_fake("fasterrcnn_ops::roi_pool_backward")
def _backward_fake(
    grad,
    rois,
    argmax,
    spatial_scale,
    pooled_height,
    pooled_width,
    batch_size,
    channels,
    height,
    width,
    channels_last,
):
    return empty_map(grad, (batch_size, channels, height, width), channels_last)


# Autograd. The backward scatters to argmax, so its own gradient gathers from there.


def _forward_setup(ctx, inputs, output):
    input, rois, *settings = inputs
    _, argmax = output
    ctx.mark_non_differentiable(argmax)
    ctx.save_for_backward(rois, argmax)
    ctx.settings = settings
    ctx.map_size = input.shape
    ctx.channels_last = is_channels_last(input)


def _forward_backward(ctx, grad, _):
    rois, argmax = ctx.saved_tensors
    grad_input = _scatter(grad, rois, argmax, *ctx.settings, *ctx.map_size, ctx.channels_last)
    return grad_input, *[None] * 4


def _backward_setup(ctx, inputs, output):
    _, rois, argmax, *_ = inputs
    ctx.save_for_backward(rois, argmax)


def _backward_backward(ctx, grad):
    """``grad`` is ``[N, C, H, W]``; returns what stands there at ``argmax``, ``[K, C, PH, PW]``."""
    rois, argmax = ctx.saved_tensors
    planes = rois[:, 0].long()[:, None] * grad.shape[1] + torch.arange(grad.shape[1], device=grad.device)  # [K, C]
    pixels = planes[:, :, None, None] * (grad.shape[2] * grad.shape[3]) + argmax
    pixels = torch.where(argmax >= 0, pixels, 0)  # also where the RoI's image does not exist
    chosen = grad.reshape(-1)[pixels] if grad.numel() else grad.new_zeros(pixels.shape)
    return torch.where(argmax >= 0, chosen, torch.zeros_like(chosen)), *[None] * 10


_pool = differentiable("roi_pool_forward", _forward_backward, _forward_setup)
_scatter = differentiable("roi_pool_backward", _backward_backward, _backward_setup)
