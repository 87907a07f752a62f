"""Feature pyramids and RoIs of every level for the tests of multi_scale_roi_align.

Letters: N images, C channels, K RoIs. Three levels at 1/4, 1/8 and 1/16 of 96 x 128 input pixels.
"""

from __future__ import annotations

import torch
from roi_scenes import MEMORY_FORMATS, NAN, feature_map, seeded
from torch import Tensor

SCALES = (1 / 4, 1 / 8, 1 / 16)
HEIGHT, WIDTH = 96, 128
CANONICAL_SCALE, CANONICAL_LEVEL = 40, 3  # RoIs of side 20 … 40 belong to the first level, from 80 on to the last


def pyramid(
    n: int = 2, channels: int = 3, dtype: torch.dtype = torch.float32, layout: str = "contiguous", seed: int = 0
) -> list[Tensor]:
    sizes = [(n, channels, int(HEIGHT * scale), int(WIDTH * scale)) for scale in SCALES]
    maps = [feature_map(size, seeded(seed + level), dtype) for level, size in enumerate(sizes)]
    return [map_.to(memory_format=MEMORY_FORMATS[layout]) for map_ in maps]


def rois_of_all_sizes(k: int, n: int = 2, seed: int = 0) -> Tensor:
    """``[K, 5]`` with sides from 4 to 160 pixels, partly across the border; sizes on the boundary between levels and,
    from 8 RoIs on, one with NaN, one inverted along an axis, one without area."""
    generator = seeded(seed)
    centre = torch.rand(k, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    side = 4 * 40 ** torch.rand(k, 2, generator=generator)
    side[::5] = 40.0
    side[1::5] = 80.0
    rois = torch.cat([torch.randint(n, (k, 1), generator=generator), centre - side / 2, centre + side / 2], dim=1)
    if k >= 8:
        rois[2, 3] = NAN
        rois[3, 1:] = rois[3, [3, 2, 1, 4]]
        rois[7, 3:] = rois[7, 1:3]
    return rois
