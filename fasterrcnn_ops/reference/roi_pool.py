"""RoIPool by its definition, in PyTorch operations: bin by bin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasterrcnn_ops._rois import as_pair, as_rois


def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """:func:`fasterrcnn_ops.roi_pool`, bin by bin; differentiable through autograd."""
    return roi_pool_with_argmax(input, boxes, output_size, spatial_scale)[0]


def roi_pool_with_argmax(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The pooled values and, int64 of the same shape, the pixel ``h * W + w`` each came from, -1 where from none."""
    pooled_height, pooled_width = as_pair(output_size)
    work = torch.float64 if input.dtype == torch.float64 else torch.float32
    rois = as_rois(boxes).to(work)
    shape = (rois.shape[0], input.shape[1], pooled_height, pooled_width)
    if rois.shape[0] == 0:
        return input.new_zeros(shape), torch.zeros(shape, dtype=torch.int64, device=input.device)
    values, pixels = [], []
    for k, (index, x1, y1, x2, y2) in enumerate(rois.unbind()):
        if not -1 < index < input.shape[0]:
            raise RuntimeError(f"rois: row {k} has batch index {index.item()}, the batch has {input.shape[0]} images")
        rows = _bin_ranges(y1, y2, spatial_scale, pooled_height, input.shape[2])
        columns = _bin_ranges(x1, x2, spatial_scale, pooled_width, input.shape[3])
        bins = [_pool_bin(input[int(index)], *row, *column) for row in rows for column in columns]
        values.append(torch.stack([value for value, _ in bins], dim=1))  # [C, PH * PW]
        pixels.append(torch.stack([pixel for _, pixel in bins], dim=1))
    in_graph = input[:0].sum()  # 0: the result is differentiable even if every bin is empty
    return torch.stack(values).reshape(shape) + in_graph, torch.stack(pixels).reshape(shape)


def _bin_ranges(low: Tensor, high: Tensor, scale: float, bins: int, extent: int) -> list[tuple[int, int]]:
    """First pixel and the one after the last of every bin along one axis, clipped to the map."""
    start, end = (_round_half_away(corner * scale).item() for corner in (low, high))
    size = torch.tensor(max(end - start + 1, 1), dtype=torch.float64).to(low.dtype) / bins
    if not all(torch.isfinite(torch.tensor(number)) for number in (start, end, float(size))):
        return [(0, 0)] * bins
    number = torch.arange(bins + 1).to(low.dtype)
    firsts = (start + torch.floor(number[:-1] * size).double()).clamp(0, extent)
    lasts = (start + torch.ceil(number[1:] * size).double()).clamp(0, extent)
    return [(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]


def _round_half_away(number: Tensor) -> Tensor:
    """``torch.round`` rounds halves to even; the distance to the truncated value is exact."""
    whole = number.trunc()
    return torch.where((number - whole).abs() >= 0.5, whole + number.sign(), whole)


def _pool_bin(features: Tensor, top: int, bottom: int, left: int, right: int) -> tuple[Tensor, Tensor]:
    """Maximum over a rectangle of ``[C, H, W]`` and where it stands, ``[C]`` each; NaN and -inf never win."""
    channels, _, width = features.shape
    nowhere = torch.full((channels,), -1, dtype=torch.int64, device=features.device)
    if bottom <= top or right <= left:
        return features.new_zeros(channels), nowhere
    lowest = torch.tensor(torch.finfo(torch.float32).min).to(features)  # -inf in half types
    window = features[:, top:bottom, left:right].flatten(1)
    window = torch.where(window > lowest, window, lowest)
    value, at = window.max(dim=1)  # the first of equal values
    pixel = (top + at // (right - left)) * width + left + at % (right - left)
    return value, torch.where(value > lowest, pixel, nowhere)
