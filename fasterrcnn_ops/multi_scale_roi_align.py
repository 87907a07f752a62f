"""RoIAlign over a feature pyramid: ``multi_scale_roi_align`` and the module ``MultiScaleRoIAlign``."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fasterrcnn_ops import _library
from fasterrcnn_ops._rois import as_pair, as_rois, empty_map, is_channels_last
from fasterrcnn_ops._transforms import differentiable_lists, register_autocast

__all__ = ["MultiScaleRoIAlign", "multi_scale_roi_align"]

_library.load()


def multi_scale_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    scales: Sequence[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    canonical_scale: int = 224,
    canonical_level: int = 4,
) -> Tensor:
    """:func:`fasterrcnn_ops.roi_align` of every RoI on the level of a feature pyramid that fits its size.

    The level is floor(canonical_level + log2(√area / canonical_scale) + 1e-6), clamped to the levels there are. It is
    picked inside the operator: nothing is gathered, scattered or read back by level.

    Letters: L levels, N images, C channels, a map of H × W pixels, K RoIs, PH × PW bins.

    Args:
        features: L maps ``[N, C, H, W]``, finest first; one dtype (float16, bfloat16, float32 or float64; under
            autocast dtypes may differ) and device; contiguous or channels_last, as the first one is.
        boxes: ``[K, 5]`` (batch index, x1, y1, x2, y2), or a list or tuple with the ``[L, 4]`` (x1, y1, x2, y2) of each
            image; input pixels, any floating dtype. They are used in float32 (float64 where ``features`` are).
        output_size: ``(PH, PW)`` or one number for both, at least 1.
        scales: map pixels an input pixel of each level, such as 1/4, 1/8, 1/16, 1/32: each half of the one before.
        sampling_ratio: samples a bin and axis; 0 or less takes ceil(RoI side / bins), about one a map pixel.
        aligned: shift coordinates by half a map pixel. False is the older convention; it also makes every RoI at least
            1 × 1 on its map.
        canonical_scale: side in input pixels, at least 1, of the RoIs that are read from ``canonical_level``.
        canonical_level: a level by its exponent: 2^-level map pixels an input pixel.

    Returns:
        ``[K, C, PH, PW]``, RoIs in the order given, dtype and memory format of ``features[0]``.

    Raises:
        ValueError: ``boxes`` of a wrong shape (an ``AssertionError`` as well), ``output_size`` not one or two numbers.
        TypeError: ``boxes`` or ``output_size`` of a wrong type.
        RuntimeError: no features, features that differ in dtype, device, batch or channels, ``scales`` that do not
            halve, and what :func:`fasterrcnn_ops.roi_align` raises.

    Note:
        Edge cases (no RoIs, NaN, outside, gigantic) are those of :func:`fasterrcnn_ops.roi_align`. An RoI inverted
        along one axis has no size and is read from the finest level. Differentiable in every level, twice too; not in
        ``boxes``. A level without RoIs receives a gradient of zeros. Deterministic. On CUDA a
        pyramid has at most 16 levels.

    Source:
        Lin et al., "Feature Pyramid Networks for Object Detection", 2017, equation 1.

    Example:
        >>> fine, coarse = torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 32, 32)
        >>> rois = torch.tensor([[0.0, 0.0, 0.0, 50.0, 50.0], [0.0, 0.0, 0.0, 120.0, 120.0]])
        >>> multi_scale_roi_align([fine, coarse], rois, 1, [1 / 4, 1 / 8]).flatten()
        tensor([0., 1.])
    """
    pooled_height, pooled_width = as_pair(output_size)
    return _pool(
        list(features),
        as_rois(boxes),
        [float(scale) for scale in scales],
        pooled_height,
        pooled_width,
        sampling_ratio,
        aligned,
        canonical_scale,
        canonical_level,
    )


class MultiScaleRoIAlign(nn.Module):
    """:func:`multi_scale_roi_align` of named feature maps, the scale of each inferred from its size.

    Args:
        featmap_names: names of the maps to use, finest first.
        output_size, sampling_ratio, canonical_scale, canonical_level, aligned: as :func:`multi_scale_roi_align`.
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | Sequence[int],
        sampling_ratio: int,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        self.featmap_names = list(featmap_names)
        self.output_size = as_pair(output_size)
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.aligned = aligned

    def forward(self, x: dict[str, Tensor], boxes: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Pools.

        Args:
            x: name -> ``[N, C, H, W]``; maps that ``featmap_names`` leaves out are ignored.
            boxes: the ``[L, 4]`` (x1, y1, x2, y2) of each image, input pixels.
            image_shapes: (height, width) of each image in input pixels, without the padding of the batch. The largest
                height says what scale a map has, rounded to a power of two.

        Returns:
            ``[K, C, PH, PW]``.

        Raises:
            ValueError: none of ``featmap_names`` is in ``x``, or there is no image.
        """
        features = [x[name] for name in x if name in self.featmap_names]
        if not features:
            raise ValueError(f"x: expected one of the maps {self.featmap_names}, got {list(x)}")
        if not image_shapes:
            raise ValueError("image_shapes: expected one (height, width) an image, got none")
        height = max(shape[0] for shape in image_shapes)
        scales = [2.0 ** round(math.log2(map_.shape[-2] / height)) for map_ in features]
        return multi_scale_roi_align(
            features,
            boxes,
            self.output_size,
            scales,
            self.sampling_ratio,
            self.aligned,
            canonical_scale=self.canonical_scale,
            canonical_level=self.canonical_level,
        )

    def extra_repr(self) -> str:
        return (
            f"featmap_names={self.featmap_names}, output_size={self.output_size}, sampling_ratio={self.sampling_ratio}"
        )


_FORWARD = "fasterrcnn_ops::multi_scale_roi_align_forward"
_BACKWARD = "fasterrcnn_ops::multi_scale_roi_align_backward"


@torch.library.register_fake(_FORWARD)
def _forward_fake(features, rois, scales, pooled_height, pooled_width, *settings):
    size = (rois.shape[0], features[0].shape[1], pooled_height, pooled_width)
    return empty_map(features[0], size, is_channels_last(features[0]))


@torch.library.register_fake(_BACKWARD)
def _backward_fake(grad, rois, scales, pooled_height, pooled_width, heights, widths, batch_size, channels, *settings):
    channels_last = settings[-1]
    sizes = zip(heights, widths, strict=True)
    return [empty_map(grad, (batch_size, channels, *size), channels_last) for size in sizes]


# Autograd. Forward and backward are linear and each other's transpose, so each is the other's gradient, to any order.


def _forward_setup(ctx, inputs, output):
    features, rois, *settings = inputs
    ctx.save_for_backward(rois)
    ctx.settings = settings
    ctx.heights = [map_.shape[2] for map_ in features]
    ctx.widths = [map_.shape[3] for map_ in features]
    ctx.batch = features[0].shape[0], features[0].shape[1]
    ctx.channels_last = is_channels_last(features[0])


def _forward_backward(ctx, grad):
    (rois,) = ctx.saved_tensors
    *sizes, sampling_ratio, aligned, canonical_scale, canonical_level = ctx.settings
    grads = _spread(
        grad,
        rois,
        *sizes,
        ctx.heights,
        ctx.widths,
        *ctx.batch,
        sampling_ratio,
        aligned,
        canonical_scale,
        canonical_level,
        ctx.channels_last,
    )
    return grads, *[None] * 8


def _backward_setup(ctx, inputs, output):
    _, rois, scales, pooled_height, pooled_width, *_, ratio, aligned, canonical_scale, canonical_level, _ = inputs
    ctx.save_for_backward(rois)
    ctx.settings = scales, pooled_height, pooled_width, ratio, aligned, canonical_scale, canonical_level


def _backward_backward(ctx, grads):
    (rois,) = ctx.saved_tensors
    return _pool(list(grads), rois, *ctx.settings), *[None] * 13


_pool = differentiable_lists("multi_scale_roi_align_forward", _forward_backward, _forward_setup)
_spread = differentiable_lists("multi_scale_roi_align_backward", _backward_backward, _backward_setup, returns_list=True)


# Autocast.


def _one_dtype(features, *rest):
    """Under autocast the layers that made the levels may have chosen different dtypes; the result has the first's."""
    dtypes = {map_.dtype for map_ in features}
    if len(dtypes) == 1:
        return (features, *rest), None
    widest = functools.reduce(torch.promote_types, dtypes)
    return ([map_.to(widest) for map_ in features], *rest), features[0].dtype


register_autocast("multi_scale_roi_align_forward", _one_dtype)
