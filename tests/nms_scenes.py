"""Boxes, scores and ids for the NMS tests: realistic, tied, exactly at the threshold, and hostile."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NAN, INF = math.nan, math.inf

# Exactly representable, not representable (0.3, 0.7), the ends, beyond them, and what is no number.
THRESHOLDS = (0.5, 0.3, 0.7, 1 / 3, 0.0, -0.0, 1.0, 0.999999, 1e-9, -0.5, 1.5, 1e300, -1e300, INF, -INF, NAN)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that scenes do not depend on the order of the tests."""
    return torch.Generator().manual_seed(seed)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Both int64, the same indices in the same order."""
    assert found.dtype == torch.int64
    assert found.tolist() == expected.tolist()


def clustered(n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Detections around a few objects: many overlaps of every size. -> boxes [n, 4], scores [n]"""
    objects = max(1, n // 8)
    centres = (torch.rand(objects, 2, generator=generator) * 600)[torch.randint(objects, (n,), generator=generator)]
    centres = centres + torch.randn(n, 2, generator=generator) * 8
    half_sides = 10 + torch.rand(n, 2, generator=generator) * 60
    boxes = torch.cat([centres - half_sides, centres + half_sides], dim=1)
    return boxes.to(dtype), torch.rand(n, generator=generator).to(dtype)


def on_a_grid(n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Small integer boxes with few distinct scores: IoUs are small fractions, so many equal the threshold, and ties."""
    corner = torch.randint(-3, 4, (n, 2), generator=generator)
    sides = torch.randint(0, 6, (n, 2), generator=generator)
    boxes = torch.cat([corner, corner + sides], dim=1)
    return boxes.to(dtype), (torch.randint(-2, 3, (n,), generator=generator) / 2).to(dtype)


def staircase(n: int, dtype: torch.dtype = torch.float32, step: float = 1.0) -> tuple[Tensor, Tensor]:
    """Each box overlaps its neighbours most, scores descending: whether a box survives depends on all before it."""
    left = torch.arange(n, dtype=torch.float64) * step
    boxes = torch.stack([left, torch.zeros_like(left), left + 10, torch.full_like(left, 10)], dim=1)
    return boxes.to(dtype), torch.linspace(1, 0, n, dtype=torch.float64).to(dtype)


def hostile(n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Grid boxes with NaN, infinities, huge, denormal, inverted and repeated entries, and scores to match."""
    boxes, scores = on_a_grid(n, generator, torch.float64)
    info = torch.finfo(dtype)
    poison = torch.tensor(
        [NAN, -NAN, INF, -INF, info.max, -info.max, info.tiny / 4, 0.0, -0.0, 1e-7], dtype=torch.float64
    )
    for values, share in ((boxes, 0.08), (scores, 0.3)):
        where = torch.rand(values.shape, generator=generator) < share
        values[where] = poison[torch.randint(len(poison), (int(where.sum()),), generator=generator)]
    if n > 1:
        inverted = torch.rand(n, generator=generator) < 0.15
        boxes[inverted] = boxes[inverted][:, [2, 3, 0, 1]]
        repeated = torch.rand(n, generator=generator) < 0.2
        boxes[repeated] = boxes[torch.randint(n, (int(repeated.sum()),), generator=generator)]
    return boxes.to(dtype), scores.to(dtype)


def of_all_sizes(
    n: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    *,
    threshold: float = 0.5,
    scale: float = 1.0,
    offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Sides over seven octaves; every second box is a copy of another one, shifted or stretched to IoU ~ `threshold`.

    What large inputs are searched by (size and place) is at its limits here. -> boxes [n, 4], scores [n]
    """

    def unit(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    corner, sides = offset + unit(n, 2) * 1000, 2 ** (1 + 7 * unit(n, 2))
    boxes = torch.cat([corner, corner + sides], dim=1)
    first = torch.randint(max(n, 1), (n // 2,), generator=generator)
    copies = boxes[first].clone()
    axis, rows = torch.randint(2, (n // 2,), generator=generator), torch.arange(n // 2)
    side = copies[rows, axis + 2] - copies[rows, axis]
    shift = torch.rand(n // 2, generator=generator) < 0.5
    by = torch.where(shift, side * (1 - threshold) / (1 + threshold), side * (threshold - 1))
    copies[rows, axis + 2] += by
    copies[rows, axis] += torch.where(shift, by, 0.0)
    boxes[n - n // 2 :] = copies
    scores = torch.randint(0, 1 + n // 2, (n,), generator=generator) / (1 + n // 2)  # some ties
    return (boxes * scale).to(dtype), scores.to(dtype)


SCENES = {"clustered": clustered, "on_a_grid": on_a_grid, "hostile": hostile}


def random_ids(n: int, generator: torch.Generator, classes: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Ids around zero, so negative ones too where the dtype has them. -> [n]"""
    ids = torch.randint(classes, (n,), generator=generator)
    if dtype not in (torch.bool, torch.uint8):
        ids = ids - classes // 2
    return ids.to(dtype)


def iou_matrix(boxes: Tensor) -> Tensor:
    """[N, 4] float32 or float64 -> [N, N]; written pair by pair, apart from what the reference does."""
    first, second = boxes[:, None], boxes[None]
    sides = (torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])).clamp(
        min=0
    )
    intersection = sides[..., 0] * sides[..., 1]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return intersection / (area[:, None] + area[None] - intersection)
