"""Anchors against torchvision's AnchorGenerator."""

from __future__ import annotations

import pytest
import support
import torch

from fasterrcnn_ops.anchors import cell_anchors, grid_anchors

torchvision = support.require_torchvision()
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402


@pytest.mark.parametrize("ratios", [(0.5, 1.0, 2.0), (0.25,), (1 / 3, 3.0)])
def test_cells_are_equal(ratios):
    sizes = tuple(range(8, 700, 3))
    generator = AnchorGenerator((sizes,), (ratios,))
    assert torch.equal(cell_anchors(sizes, ratios, rule="torchvision"), generator.cell_anchors[0])


def test_pyramid_grid_is_equal():
    sizes, ratios = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)
    shapes, strides = [(200, 272), (100, 136), (50, 68), (25, 34), (13, 17)], [4, 8, 16, 32, 64]
    generator = AnchorGenerator(tuple((size,) for size in sizes), (ratios,) * len(sizes))
    pairs = [[torch.tensor(stride), torch.tensor(stride)] for stride in strides]
    expected = generator.grid_anchors([list(shape) for shape in shapes], pairs)
    for size, shape, stride, theirs in zip(sizes, shapes, strides, expected, strict=True):
        ours = grid_anchors(cell_anchors(size, ratios, rule="torchvision"), shape, stride)
        assert torch.equal(ours, theirs)
