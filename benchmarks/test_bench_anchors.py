"""grid_anchors on the CPU against the reference and torchvision's AnchorGenerator."""

from __future__ import annotations

import pytest
import torch

from fasterrcnn_ops import anchors as ours
from fasterrcnn_ops.reference import anchors as reference

try:
    from torchvision.models.detection.anchor_utils import AnchorGenerator
except ImportError:  # the `rival` fixture skips these runs and says so
    AnchorGenerator = None

RATIOS = (0.5, 1.0, 2.0)
CASES = {
    # name: per level (sizes, feature map, stride)
    "c4_38x50_9_per_location": [((128, 256, 512), (38, 50), 16)],
    "fpn_800x1333_268569": [
        (size, shape, stride)
        for size, shape, stride in zip(
            ((32,), (64,), (128,), (256,), (512,)),
            ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21)),
            (4, 8, 16, 32, 64),
            strict=True,
        )
    ],
}


def equal_levels(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", CASES)
def test_grid_anchors(race, case):
    levels = [
        (ours.cell_anchors(sizes, RATIOS, rule="torchvision"), shape, stride) for sizes, shape, stride in CASES[case]
    ]

    def theirs():
        generator = AnchorGenerator(tuple(sizes for sizes, _, _ in CASES[case]), (RATIOS,) * len(levels))
        shapes = [list(shape) for _, shape, _ in levels]
        strides = [[torch.tensor(stride)] * 2 for _, _, stride in levels]
        return lambda: generator.grid_anchors(shapes, strides)

    race(
        f"grid_anchors/{case}",
        {
            "ours": lambda: [ours.grid_anchors(*level) for level in levels],
            "reference": lambda: [reference.grid_anchors(*level) for level in levels],
            "torchvision": theirs() if AnchorGenerator is not None else None,
        },
        equal_levels,
    )
