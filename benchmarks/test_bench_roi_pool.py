"""roi_pool on the CPU, forward and backward, against the reference and torchvision."""

from __future__ import annotations

import cases
import pytest
import torch

import fasterrcnn_ops
from fasterrcnn_ops.reference.roi_pool import roi_pool as reference

try:
    import torchvision.ops as torchvision_ops
except ImportError:  # the `rival` fixture skips these runs and says so
    torchvision_ops = None

STRIDE = 16

# name -> (channels, RoIs, output size)
SETTINGS = {
    "vgg16_300_rois": (512, 300, 7),  # classic_vgg16 when it detects
    "resnet50_128_rois": (1024, 128, 14),  # classic_resnet50 when it trains
}


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(found, expected)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, expected.abs().max().item()))


def scene(channels: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    boxes, _ = cases.rpn_like(k)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, channels, cases.IMAGE_HEIGHT // STRIDE, cases.IMAGE_WIDTH // STRIDE, generator=generator)
    return features, torch.cat([boxes.new_zeros(k, 1), boxes], dim=1)


def implementations() -> dict:
    calls = {"ours": fasterrcnn_ops.roi_pool, "reference": reference}
    return calls | ({"torchvision": torchvision_ops.roi_pool} if torchvision_ops else {})


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", SETTINGS)
def test_roi_pool(race, name, layout):
    channels, k, bins = SETTINGS[name]
    features, rois = scene(channels, k)
    if layout == "channels_last":
        features = features.to(memory_format=torch.channels_last)
    calls = {
        rival: (lambda call=call: call(features, rois, bins, 1 / STRIDE)) for rival, call in implementations().items()
    }
    race(f"roi_pool/{name}_{layout}", calls, same)


@pytest.mark.parametrize("name", SETTINGS)
def test_roi_pool_backward(race, name):
    """The gradient alone, through autograd, of a graph kept from one forward."""
    channels, k, bins = SETTINGS[name]
    features, rois = scene(channels, k)
    grad = torch.randn(k, channels, bins, bins, generator=torch.Generator().manual_seed(1))
    graphs = {}

    def gradient(rival):
        if rival not in graphs:
            leaf = features.clone().requires_grad_()
            graphs[rival] = leaf, implementations()[rival](leaf, rois, bins, 1 / STRIDE)
        leaf, pooled = graphs[rival]
        return torch.autograd.grad(pooled, leaf, grad, retain_graph=True)[0]

    calls = {rival: (lambda rival=rival: gradient(rival)) for rival in implementations()}
    race(f"roi_pool_backward/{name}", calls, close)
