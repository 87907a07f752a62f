"""roi_align on the CPU, forward and backward, against the reference and torchvision."""

from __future__ import annotations

import cases
import pytest
import torch

import fasterrcnn_ops
from fasterrcnn_ops.reference.roi_align import roi_align as reference

try:
    import torchvision.ops as torchvision_ops
except ImportError:  # the `rival` fixture skips these runs and says so
    torchvision_ops = None

# name -> (channels, stride of the map, RoIs, output size, sampling ratio, aligned)
SETTINGS = {
    "p2_1000_rois": (256, 4, 1000, 7, 2, False),  # finest level of a pyramid, RoIs of the sizes it is given
    "p2_1000_wide_rois": (256, 4, 1000, 7, 2, False),  # the same level, RoIs of all sizes
    "c4_adaptive_300_rois": (1024, 16, 300, 14, -1, False),  # the one map of a C4 system
    "fpn_p3_500_rois": (256, 8, 500, 7, 2, False),  # second level of a pyramid, a torchvision box head
    "c4_100_rois": (1024, 16, 100, 14, 2, True),  # resnet50_c4_sigmoid
    "c4_adaptive_50_rois": (1024, 16, 50, 14, -1, True),
}


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, expected.abs().max().item()))


def scene(name: str, channels: int, stride: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    boxes = cases.of_sizes(k, 16, 112) if name == "p2_1000_rois" else cases.rpn_like(k)[0]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(
        1, channels, -(-cases.IMAGE_HEIGHT // stride), -(-cases.IMAGE_WIDTH // stride), generator=generator
    )
    return features, torch.cat([boxes.new_zeros(k, 1), boxes], dim=1)


def implementations() -> dict:
    calls = {"ours": fasterrcnn_ops.roi_align, "reference": reference}
    return calls | ({"torchvision": torchvision_ops.roi_align} if torchvision_ops else {})


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", SETTINGS)
def test_roi_align(race, name, layout):
    channels, stride, k, bins, ratio, aligned = SETTINGS[name]
    features, rois = scene(name, channels, stride, k)
    if layout == "channels_last":
        features = features.to(memory_format=torch.channels_last)
    calls = {
        rival: (lambda call=call: call(features, rois, bins, 1 / stride, ratio, aligned))
        for rival, call in implementations().items()
    }
    race(f"roi_align/{name}_{layout}", calls, same)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", SETTINGS)
def test_roi_align_backward(race, name, layout):
    """The gradient alone, through autograd, of a graph kept from one forward."""
    channels, stride, k, bins, ratio, aligned = SETTINGS[name]
    features, rois = scene(name, channels, stride, k)
    if layout == "channels_last":
        features = features.to(memory_format=torch.channels_last)
    grad = torch.randn(k, channels, bins, bins, generator=torch.Generator().manual_seed(1))
    graphs = {}

    def gradient(rival):
        if rival not in graphs:
            leaf = features.clone().requires_grad_()
            pooled = implementations()[rival](leaf, rois, bins, 1 / stride, ratio, aligned)
            # The layout in which the gradient of what this rival returned would come.
            graphs[rival] = leaf, pooled, torch.empty_like(pooled).copy_(grad)
        leaf, pooled, its_grad = graphs[rival]
        return torch.autograd.grad(pooled, leaf, its_grad, retain_graph=True)[0]

    calls = {rival: (lambda rival=rival: gradient(rival)) for rival in implementations()}
    race(f"roi_align_backward/{name}_{layout}", calls, same)


def test_gigantic_roi(race):
    """Bounded by the map. torchvision is left out: it visits 10^12 samples a bin."""
    features, _ = scene("", 16, 16, 1)
    rois = torch.tensor([[0, -1e6, -1e6, 1e7, 1e7]])
    race(
        "roi_align/one_roi_of_1e7_pixels",
        {
            "ours": lambda: fasterrcnn_ops.roi_align(features, rois, 7, 1 / 16),
            "reference": lambda: reference(features, rois, 7, 1 / 16),
        },
        same,
    )
