"""What the RoI operators share in Python: normalising boxes and sizes, and the memory format of results.

Imports neither the compiled library nor the operators, so that the references can use it as well.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["RoiShapeError", "as_pair", "as_rois", "empty_map", "fold_rois", "is_channels_last", "level_of_rois"]


class RoiShapeError(ValueError, AssertionError):
    """Boxes of the wrong shape. A ``ValueError``, and the ``AssertionError`` that callers of torchvision catch."""


def as_rois(boxes: Tensor | Sequence[Tensor]) -> Tensor:
    """Boxes as one table of RoIs.

    Args:
        boxes: ``[K, 5]`` (batch index, x1, y1, x2, y2), or a list or tuple with the ``[L, 4]`` (x1, y1, x2, y2) of
            each image.

    Returns:
        ``[K, 5]``: a tensor is returned as it is; rows of a list are in order of images, in at least float32, so that
        every batch index is exact.

    Raises:
        RoiShapeError: a tensor that is not ``[K, 5]``, or an element of a list that is not ``[L, 4]``.
        TypeError: neither a tensor nor a list or tuple of tensors, or an integer dtype in a list.
    """
    if isinstance(boxes, Tensor):
        if boxes.dim() != 2 or boxes.shape[1] != 5:
            raise RoiShapeError(f"boxes: expected a tensor of shape [K, 5], got {list(boxes.shape)}")
        return boxes
    if not isinstance(boxes, (list, tuple)):
        raise TypeError(f"boxes: expected a tensor or a list or tuple of tensors, got {type(boxes).__name__}")
    rows = []
    for image, of_image in enumerate(boxes):
        if not isinstance(of_image, Tensor):
            raise TypeError(f"boxes[{image}]: expected a tensor, got {type(of_image).__name__}")
        if of_image.dim() != 2 or of_image.shape[1] != 4:
            raise RoiShapeError(f"boxes[{image}]: expected shape [L, 4], got {list(of_image.shape)}")
        if not of_image.dtype.is_floating_point:
            raise TypeError(f"boxes[{image}]: expected a floating-point dtype, got {of_image.dtype}")
        of_image = of_image.to(torch.promote_types(of_image.dtype, torch.float32))
        rows.append(torch.cat((of_image.new_full((of_image.shape[0], 1), image), of_image), dim=1))
    return torch.cat(rows) if rows else torch.empty(0, 5)


def as_pair(output_size: int | Sequence[int]) -> tuple[int, int]:
    """``output_size`` as ``(height, width)``; a single number is both.

    Raises:
        TypeError: not an integer. ValueError: a sequence of another length than two.
    """
    if isinstance(output_size, (list, tuple)):
        if len(output_size) != 2:
            raise ValueError(f"output_size: expected an int or (height, width), got {len(output_size)} numbers")
        height, width = output_size
    else:
        height = width = output_size
    return _as_int(height), _as_int(width)


def _as_int(number: int) -> int:
    if isinstance(number, (int, torch.SymInt)):
        return number
    try:
        return operator.index(number)
    except TypeError:
        raise TypeError(f"output_size: expected whole numbers, got {type(number).__name__}") from None


def is_channels_last(feature_map: Tensor) -> bool:
    """The memory format RoI operators work in and return; the same rule as in ``csrc/roi_tensors.h``.

    Channels are neighbours in memory, and it is not simply contiguous (one channel or one pixel are both).
    """
    return not feature_map.is_contiguous() and feature_map.stride(1) == 1


def empty_map(like: Tensor, size: Sequence[int], channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised ``[N, C, H, W]`` of the given memory format, on the device of ``like``."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(tuple(size), dtype=dtype or like.dtype, device=like.device, memory_format=memory_format)


def fold_rois(rois: Tensor, num_images: int) -> Tensor:
    """RoI tables of S batches of images as one table of all S · N images in a row.

    Args:
        rois: ``[S, K, 5]`` (batch index, x1, y1, x2, y2).
        num_images: N, images in each batch.

    Returns:
        ``[S * K, 5]`` in at least float32, so that the larger batch indices are exact (up to 2^24). An index that names
        none of the N images becomes -1 rather than an image of another batch.
    """
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))
    index = rois[..., 0]  # [S, K]
    first = torch.arange(rois.shape[0], dtype=rois.dtype, device=rois.device)[:, None] * num_images
    exists = (index > -1) & (index < num_images)  # fractions are cut off, as in image_of_roi of csrc/geometry/roi_map.h
    index = torch.where(exists, index.trunc() + first, -1)
    return torch.cat((index[..., None], rois[..., 1:]), dim=-1).flatten(0, 1)


def level_of_rois(rois: Tensor, scales: Sequence[float], canonical_scale: int, canonical_level: int) -> Tensor:
    """Number of the pyramid level, 0 … len(scales) − 1, of every RoI; the same rule as ``csrc/geometry/roi_level.h``.

    Args:
        rois: ``[K, 5]`` (batch index, x1, y1, x2, y2), input pixels.
        scales, canonical_scale, canonical_level: as :func:`fasterrcnn_ops.multi_scale_roi_align`.

    Returns:
        int64 ``[K]``. RoIs without a size (NaN, inverted along one axis) belong to level 0.
    """
    side = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
    octaves = (side / canonical_scale).double().log2().to(side.dtype)
    level = (canonical_level + octaves + 1e-6).floor()
    lowest, highest = int(-math.log2(scales[0])), int(-math.log2(scales[-1]))
    level = torch.where(level > lowest, level, lowest).clamp(max=highest)  # NaN is not above the lowest
    return level.long() - lowest
