"""multi_scale_roi_align on the CPU, forward and backward, against the reference and torchvision's module."""

from __future__ import annotations

import cases
import pytest
import torch
from torch import Tensor

from fasterrcnn_ops import MultiScaleRoIAlign
from fasterrcnn_ops.reference.multi_scale_roi_align import multi_scale_roi_align as reference

try:
    import torchvision.ops as torchvision_ops
except ImportError:  # the `rival` fixture skips these runs and says so
    torchvision_ops = None

STRIDES = (4, 8, 16, 32)
NAMES = ["0", "1", "2", "3"]


def same(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * max(1.0, other.abs().max().item()))


def scene(layout: str) -> tuple[dict[str, Tensor], Tensor]:
    """A pyramid of 256 channels and 1000 RoIs with sides of 16 to 512 pixels."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(1, 256, -(-cases.IMAGE_HEIGHT // stride), -(-cases.IMAGE_WIDTH // stride)) for stride in STRIDES]
    maps = [torch.randn(size, generator=generator) for size in sizes]
    if layout == "channels_last":
        maps = [map_.to(memory_format=torch.channels_last) for map_ in maps]
    return dict(zip(NAMES, maps, strict=True)), cases.rpn_like(1000)[0]


def implementations(boxes: Tensor) -> dict:
    shapes = [(cases.IMAGE_HEIGHT, cases.IMAGE_WIDTH)]
    ours = MultiScaleRoIAlign(NAMES, 7, 2)
    scales = [1 / stride for stride in STRIDES]
    calls = {
        "ours": lambda maps: ours(maps, [boxes], shapes),
        "reference": lambda maps: reference(list(maps.values()), [boxes], 7, scales, 2),
    }
    if torchvision_ops:
        theirs = torchvision_ops.MultiScaleRoIAlign(NAMES, 7, 2)
        calls["torchvision"] = lambda maps: theirs(maps, [boxes], shapes)
    return calls


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_multi_scale_roi_align(race, layout):
    maps, boxes = scene(layout)
    calls = {rival: (lambda call=call: [call(maps)]) for rival, call in implementations(boxes).items()}
    race(f"multi_scale_roi_align/4_levels_1000_rois_{layout}", calls, same)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_multi_scale_roi_align_backward(race, layout):
    """The gradient of every level alone, of a graph kept from one forward."""
    maps, boxes = scene(layout)
    forward, graphs = implementations(boxes), {}
    grad = torch.randn(1000, 256, 7, 7, generator=torch.Generator().manual_seed(1))

    def gradients(rival):
        if rival not in graphs:
            leaves = {name: map_.detach().clone().requires_grad_() for name, map_ in maps.items()}
            pooled = forward[rival](leaves)
            graphs[rival] = list(leaves.values()), pooled, torch.empty_like(pooled).copy_(grad)
        leaves, pooled, its_grad = graphs[rival]
        return torch.autograd.grad(pooled, leaves, its_grad, retain_graph=True)

    calls = {rival: (lambda rival=rival: gradients(rival)) for rival in forward}
    race(f"multi_scale_roi_align_backward/4_levels_1000_rois_{layout}", calls, same)
