"""RoIAlign over a feature pyramid by its definition: pick a level for every RoI, pool level by level, put together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasterrcnn_ops._rois import as_pair, as_rois, level_of_rois
from fasterrcnn_ops.reference.roi_align import roi_align


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
    """:func:`fasterrcnn_ops.multi_scale_roi_align`, level by level; differentiable through autograd."""
    rois = as_rois(boxes)
    work = torch.float64 if features[0].dtype == torch.float64 else torch.float32
    level_of = level_of_rois(rois.to(work), scales, canonical_scale, canonical_level)
    pooled = features[0].new_zeros(rois.shape[0], features[0].shape[1], *as_pair(output_size))
    pooled = pooled + sum(map_[:0].sum() for map_ in features)  # in the graph of every level, RoIs or none
    for level, (map_, scale) in enumerate(zip(features, scales, strict=True)):
        chosen = torch.nonzero(level_of == level).squeeze(1)
        bins = roi_align(map_, rois[chosen], output_size, scale, sampling_ratio, aligned)
        pooled = pooled.index_put((chosen,), bins)
    return pooled
