"""RoIAlign by its definition, in PyTorch operations: every sample is looked up and averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fasterrcnn_ops._rois import as_pair, as_rois

MOST_SAMPLES = 2**52  # per bin and axis; more have the same mean in float64


def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """:func:`fasterrcnn_ops.roi_align`, RoI by RoI; differentiable through autograd.

    A two-dimensional sample is the product of one per axis, so the mean over the grid is taken down the columns first
    and along the rows after. Memory grows with the samples inside the map: a huge ``sampling_ratio`` is out of reach.
    """
    pooled_height, pooled_width = as_pair(output_size)
    work = torch.float64 if input.dtype == torch.float64 else torch.float32
    rois = as_rois(boxes).to(work)
    features = input.to(work)
    pooled = []
    for k, (index, x1, y1, x2, y2) in enumerate(rois.unbind() if rois.numel() else []):
        if not -1 < index < input.shape[0]:
            raise RuntimeError(f"rois: row {k} has batch index {index.item()}, the batch has {input.shape[0]} images")
        y_axis = _sampled_axis(y1, y2, spatial_scale, pooled_height, sampling_ratio, aligned)
        x_axis = _sampled_axis(x1, x2, spatial_scale, pooled_width, sampling_ratio, aligned)
        if y_axis is None or x_axis is None or 0 in input.shape[2:]:
            pooled.append(features.new_zeros(input.shape[1], pooled_height, pooled_width))
            continue
        rows = _mean_of_samples(features[int(index)], *y_axis, pooled_height)  # [C, H, W] -> [C, W, PH]
        pooled.append(_mean_of_samples(rows, *x_axis, pooled_width))  # [C, W, PH] -> [C, PH, PW]
    if not pooled:
        return features.new_zeros(0, input.shape[1], pooled_height, pooled_width).to(input.dtype)
    return torch.stack([bins.to(input.dtype) for bins in pooled]) + input[:0].sum()  # in the graph even if all is 0


def _sampled_axis(low, high, scale, bins, sampling_ratio, aligned) -> tuple[Tensor, Tensor, int] | None:
    """First coordinate, size of a bin and samples a bin of an RoI along one axis; None where nothing is to be read."""
    offset = 0.5 if aligned else 0.0
    start = low * scale - offset
    size = high * scale - offset - start
    if not (start.isfinite() and size.isfinite()):
        return None
    if not aligned:
        size = size.clamp(min=1)
    bin_size = size / bins
    samples = sampling_ratio if sampling_ratio > 0 else math.ceil(bin_size)
    return (start, bin_size, min(samples, MOST_SAMPLES)) if samples > 0 else None


def _mean_of_samples(features: Tensor, start: Tensor, bin_size: Tensor, samples: int, bins: int) -> Tensor:
    """Mean of the samples of every bin along the height of ``[C, H, W]``: ``[C, W, bins]``."""
    extent = features.shape[1]
    positions, inside = _positions(start, bin_size, samples, bins, extent)  # [bins, S]
    position = positions.clamp(min=0)
    low = position.long().clamp(max=extent - 1)
    high = (low + 1).clamp(max=extent - 1)
    fraction = torch.where(low == extent - 1, 0.0, position - low).to(features.dtype)
    columns = features.transpose(1, 2)  # [C, W, H]
    values = columns[..., low] * (1 - fraction) + columns[..., high] * fraction  # [C, W, bins, S]
    return torch.where(inside, values, 0.0).sum(dim=-1) / samples


def _positions(start: Tensor, bin_size: Tensor, samples: int, bins: int, extent: int) -> tuple[Tensor, Tensor]:
    """Positions ``[bins, S]`` of the samples that may lie inside the map, and which of them do.

    Samples outside contribute nothing, so of very many only those near the map are listed. Their numbers are beyond
    float32, so that their positions are computed in float64.
    """
    listed = [(0, samples)] * bins
    if samples > 4096:
        start, bin_size = start.double(), bin_size.double()
    first = start + torch.arange(bins, device=start.device).to(start.dtype) * bin_size  # [bins]
    step = float(bin_size) / samples
    if samples > 4096 and step:
        ends = [sorted(((-1 - at) / step, (extent - at) / step)) for at in first.tolist()]
        listed = [tuple(int(min(max(end, 0), samples)) for end in (low - 2, high + 2)) for low, high in ends]
    low, high = torch.tensor(listed, device=start.device).unbind(1)
    sample = low[:, None] + torch.arange(max(int((high - low).max()), 1), device=start.device)  # [bins, S]
    position = first[:, None] + (sample.to(start.dtype) + 0.5) * bin_size / samples
    inside = (sample < samples) & (position >= -1) & (position <= extent)
    return torch.where(inside, position, 0.0), inside
