"""Feature maps and RoIs for the RoI operator tests: ordinary, outside, degenerate and hostile.

Letters: N images, C channels, a map of H x W pixels, K RoIs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NAN, INF = math.nan, math.inf
SCALE = 1 / 8  # map pixels an input pixel
HUGE = (1e7, 1e30, 3e38)

# (N, C, H, W): ordinary, more channels than one block of work, a single pixel, a single row, a single column.
MAP_SIZES = ((2, 3, 12, 17), (2, 70, 9, 8), (1, 2, 1, 1), (1, 3, 1, 9), (3, 1, 7, 1))

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that scenes do not depend on the order of the tests."""
    return torch.Generator().manual_seed(seed)


def feature_map(
    size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32, layout: str = "contiguous"
) -> Tensor:
    values = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    return values.to(memory_format=MEMORY_FORMATS[layout])


def format_of(features: Tensor) -> torch.memory_format:
    """The memory format a result must have; a map of one pixel or channel counts as contiguous."""
    return torch.contiguous_format if features.is_contiguous() else torch.channels_last


def _rois(corners: Tensor, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    images = torch.randint(size[0], (len(corners), 1), generator=generator)
    return torch.cat([images.to(corners.dtype), corners], dim=1)


def ordinary(k: int, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Valid boxes of all sizes, partly across the border."""
    extent = torch.tensor([size[3], size[2]]) / SCALE
    first, second = (torch.rand(2, k, 2, generator=generator) * 1.4 - 0.2) * extent
    return _rois(torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=1), size, generator)


def on_pixels(k: int, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Corners on multiples of half a map pixel, where rounding and interpolation change sides."""
    rois = ordinary(k, size, generator)
    rois[:, 1:] = (rois[:, 1:] * SCALE * 2).round() / (SCALE * 2)
    return rois


def outside(k: int, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Boxes near the map, touching it or not at all."""
    rois = ordinary(k, size, generator)
    extent = torch.tensor([size[3], size[2]]) / SCALE
    rois[:, 1:] += (torch.randint(-1, 2, (k, 2), generator=generator) * extent).repeat(1, 2)
    return rois


def degenerate(k: int, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Inverted boxes, lines and points."""
    rois = ordinary(k, size, generator)
    rois[::3, 1:] = rois[::3, [3, 4, 1, 2]]
    rois[1::3, 3] = rois[1::3, 1]
    rois[2::3, 4] = rois[2::3, 2]
    return rois


def hostile(k: int, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Any coordinate may be NaN, infinite, gigantic or denormal."""
    rois = ordinary(k, size, generator)
    values = torch.tensor([NAN, INF, -INF, 1e7, -1e7, 1e30, -1e30, 3.4e38, -3.4e38, 1e-40, 0.0, -0.0])
    chosen = values[torch.randint(len(values), (k, 4), generator=generator)]
    rois[:, 1:] = torch.where(torch.rand(k, 4, generator=generator) < 0.4, chosen, rois[:, 1:])
    return rois


SCENES = {
    "ordinary": ordinary,
    "on_pixels": on_pixels,
    "outside": outside,
    "degenerate": degenerate,
    "hostile": hostile,
}
