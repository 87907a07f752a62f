"""RoIAlign: ``roi_align`` and the module ``RoIAlign``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fasterrcnn_ops import _library
from fasterrcnn_ops._rois import as_pair, as_rois, empty_map, fold_rois, is_channels_last
from fasterrcnn_ops._transforms import differentiable

__all__ = ["RoIAlign", "roi_align"]

_library.load()


def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Features of fixed size for every RoI: the mean of bilinear samples on a grid inside each bin.

    Letters: N images, C channels, a map of H × W pixels, K RoIs, PH × PW bins.

    Args:
        input: ``[N, C, H, W]`` feature map; float16, bfloat16, float32 or float64, contiguous or channels_last (other
            strides are copied first).
        boxes: ``[K, 5]`` (batch index, x1, y1, x2, y2), or a list or tuple with the ``[L, 4]`` (x1, y1, x2, y2) of each
            image; input pixels, any floating dtype. They are used in float32 (float64 where ``input`` is), also beside
            half features: keep them in float32 there.
        output_size: ``(PH, PW)`` or one number for both, at least 1.
        spatial_scale: map pixels an input pixel, such as 1/16.
        sampling_ratio: samples a bin and axis; 0 or less takes ceil(RoI side / bins), about one a map pixel.
        aligned: shift coordinates by half a map pixel, so that pixel centres lie at half-integers. False is the older
            convention; it also makes every RoI at least 1 × 1 on the map.

    Returns:
        ``[K, C, PH, PW]``, RoIs in the order given, dtype and memory format of ``input``.

    Raises:
        ValueError: ``boxes`` of a wrong shape (an ``AssertionError`` as well), ``output_size`` not one or two numbers.
        TypeError: ``boxes`` or ``output_size`` of a wrong type.
        RuntimeError: a dtype, rank or device does not fit, an ``output_size`` below 1, or (on the CPU) a batch index
            that names no image.

    Note:
        No RoIs give ``[0, C, PH, PW]``; a map without pixels gives zeros. Samples more than one pixel outside the map
        count in the mean with value 0. RoIs with NaN or inf, and with ``aligned`` and an adaptive grid those without
        area, give zeros. NaN and inf in the map reach the bins that sample them, also with weight 0. The cost of an RoI
        is bounded by the map, however large it or its number of samples is. Differentiable in ``input``, twice too; not
        in ``boxes``. Forward and backward are deterministic, sums are in float32 (float64) and rounded once. So
        autocast changes nothing: the result is that of float32 tensors, in the dtype of ``input``. ``torch.vmap`` makes
        one call of all entries; ``torch.func.grad`` works, forward mode does not.

    Source:
        He et al., "Mask R-CNN", 2017, section 3.

    Example:
        >>> ramp = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> roi_align(ramp, torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]), 2, sampling_ratio=1)
        tensor([[[[2.5000, 3.5000],
                  [6.5000, 7.5000]]]])
    """
    pooled_height, pooled_width = as_pair(output_size)
    return _align(input, as_rois(boxes), spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned)


class RoIAlign(nn.Module):
    """:func:`roi_align` with its settings kept.

    Args:
        output_size, spatial_scale, sampling_ratio, aligned: as :func:`roi_align`.
    """

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """``[N, C, H, W]`` and RoIs (``[K, 5]`` or a list of ``[L, 4]``) → ``[K, C, PH, PW]``."""
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


@torch.library.register_fake("fasterrcnn_ops::roi_align_forward")
def _forward_fake(input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned):
    size = (rois.shape[0], input.shape[1], pooled_height, pooled_width)
    return empty_map(input, size, is_channels_last(input))


@torch.library.register_fake("fasterrcnn_ops::roi_align_backward")
def _backward_fake(
    grad,
    rois,
    spatial_scale,
    pooled_height,
    pooled_width,
    batch_size,
    channels,
    height,
    width,
    sampling_ratio,
    aligned,
    channels_last,
):
    return empty_map(grad, (batch_size, channels, height, width), channels_last)


# Autograd. Forward and backward are linear and each other's transpose, so each is the other's gradient, to any order.


def _forward_setup(ctx, inputs, output):
    input, rois, *settings = inputs
    ctx.save_for_backward(rois)
    ctx.settings = settings
    ctx.map_size = input.shape
    ctx.channels_last = is_channels_last(input)


def _forward_backward(ctx, grad):
    (rois,) = ctx.saved_tensors
    spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned = ctx.settings
    grad_input = _spread(
        grad,
        rois,
        spatial_scale,
        pooled_height,
        pooled_width,
        *ctx.map_size,
        sampling_ratio,
        aligned,
        ctx.channels_last,
    )
    return grad_input, *[None] * 6


def _backward_setup(ctx, inputs, output):
    _, rois, spatial_scale, pooled_height, pooled_width, *_, sampling_ratio, aligned, _ = inputs
    ctx.save_for_backward(rois)
    ctx.settings = spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned


def _backward_backward(ctx, grad):
    (rois,) = ctx.saved_tensors
    return _align(grad, rois, *ctx.settings), *[None] * 11


# vmap. The S entries become S times as many images, and the RoIs of entry s name images s·N … s·N + N − 1.


def _forward_vmap(align, info, in_dims, input, rois, *settings):
    input_dim, rois_dim, *_ = in_dims
    entries = info.batch_size
    if input_dim is None:  # one map for all entries
        rois = rois.movedim(rois_dim, 0)
        pooled = align(input, rois.flatten(0, 1), *settings)
    else:
        input = input.movedim(input_dim, 0)
        rois = rois.expand(entries, *rois.shape) if rois_dim is None else rois.movedim(rois_dim, 0)
        pooled = align(input.flatten(0, 1), fold_rois(rois, input.shape[1]), *settings)
    return pooled.unflatten(0, (entries, rois.shape[1])), 0


def _backward_vmap(spread, info, in_dims, grad, rois, *settings):
    entries = info.batch_size
    grad, rois = (
        tensor.expand(entries, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip((grad, rois), in_dims, strict=False)
    )
    *scale_and_size, batch_size, channels, height, width, sampling_ratio, aligned, channels_last = settings
    grad_input = spread(
        grad.flatten(0, 1),
        fold_rois(rois, batch_size),
        *scale_and_size,
        entries * batch_size,
        channels,
        height,
        width,
        sampling_ratio,
        aligned,
        channels_last,
    )
    return grad_input.unflatten(0, (entries, batch_size)), 0


_align = differentiable("roi_align_forward", _forward_backward, _forward_setup, _forward_vmap)
_spread = differentiable("roi_align_backward", _backward_backward, _backward_setup, _backward_vmap)
