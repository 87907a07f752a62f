"""Maps of an RPN head for the tests of proposals: sizes, layouts, and values with ties and bad numbers."""

from __future__ import annotations

import torch
from torch import Tensor

import fasterrcnn_ops

# Levels as (A, H, W); strides differ by direction on the last.
PYRAMID = ((3, 20, 30), (3, 10, 15), (3, 5, 8), (3, 3, 4))
PYRAMID_STRIDES = (8, 16, 32, (61.0, 64.0))
ONE_LEVEL = ((9, 13, 17),)
LAYOUTS = {
    "contiguous": lambda maps: maps.contiguous(),
    "channels_last": lambda maps: maps.contiguous(memory_format=torch.channels_last),
    "strided": lambda maps: torch.stack([maps, maps + 1], dim=-1)[..., 0],
}


SIZES = torch.tensor([[160, 235], [150, 240]])
FPN = {"pre_nms_top_n": 100, "post_nms_top_n": 150, "nms_threshold": 0.7}
# The rules of the published systems, with counts that fit these maps.
SYSTEMS = {
    "fpn": FPN,
    "classic": {
        "pre_nms_top_n": 900,
        "post_nms_top_n": 60,
        "nms_threshold": 0.7,
        "min_size": torch.tensor([16.0, 23.5]),
        "filter_before_topk": True,
    },
    "c4_sigmoid": {
        "pre_nms_top_n": 300,
        "post_nms_top_n": 80,
        "nms_threshold": 0.7,
        "min_size": 16.0,
        "inclusive_sides": True,
        "filter_before_topk": True,
    },
    "c4": {
        "pre_nms_top_n": 400,
        "post_nms_top_n": 100,
        "nms_threshold": 0.7,
        "min_size": 0.0,
        "inclusive": True,
        "inclusive_sides": True,
    },
    "stepwise": {
        "pre_nms_top_n": 5000,
        "post_nms_top_n": 2000,
        "nms_threshold": 0.7,
        "min_size": 16.0,
        "anchor_offset": 8.0,
        "filter_before_topk": True,
    },
}


def cells_of(levels, *, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """A anchors of growing size for each level."""
    ratios = {3: [0.5, 1, 2]}
    found = []
    for number, (anchors, _, _) in enumerate(levels):
        if anchors == 0:
            found.append(torch.zeros(0, 4, dtype=dtype))
            continue
        sizes = [16 * 2**number] if anchors in ratios else [24 + 12 * i for i in range(anchors)]
        found.append(fasterrcnn_ops.cell_anchors(sizes, ratios.get(anchors, [1.0])).to(dtype))
    return found


def maps_of(
    levels,
    batch: int = 2,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    values: str = "ordinary",
    seed: int = 0,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """(objectness, deltas, cell anchors). ``values``: "ordinary", "ties" (few different logits) or "hostile"."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    objectness = [3 * draw(batch, a, h, w) - 2 for a, h, w in levels]
    deltas = [0.4 * draw(batch, 4 * a, h, w) for a, h, w in levels]
    if values == "ties":
        objectness = [maps.round() for maps in objectness]
    if values == "hostile":
        bad = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, -0.0, 0.0], dtype=torch.float64)
        for maps in (*objectness, *deltas):
            chosen = torch.rand(maps.shape, generator=generator) < 0.2
            maps[chosen] = bad[torch.randint(len(bad), (int(chosen.sum()),), generator=generator)]
    to = {"dtype": dtype, "device": device}
    cells = [cell.to(device) for cell in cells_of(levels)]
    return [maps.to(**to) for maps in objectness], [maps.to(**to) for maps in deltas], cells
