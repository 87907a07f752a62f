"""multi_scale_roi_align and its module against torchvision's MultiScaleRoIAlign, float32 within 1e-5."""

from __future__ import annotations

import pytest
import support
import torch
from pyramid_scenes import HEIGHT, WIDTH, pyramid, rois_of_all_sizes
from roi_scenes import MEMORY_FORMATS

from fasterrcnn_ops.multi_scale_roi_align import MultiScaleRoIAlign

torchvision = support.require_torchvision()

NAMES = ["0", "1", "2"]


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("names", [NAMES, ["1", "2"], ["2"]], ids="_".join)
def test_module_and_gradients(names, layout):
    for seed in range(40):
        rois = rois_of_all_sizes(7, seed=seed)  # without NaN and inverted RoIs, for which torchvision has no level
        boxes = [rois[rois[:, 0] == image, 1:] for image in range(2)]
        settings = {"canonical_scale": 40, "canonical_level": 3}
        shapes = [(HEIGHT, WIDTH - 5), (HEIGHT - 7, WIDTH)]
        found, expected = [], []
        for module, results in ((MultiScaleRoIAlign, found), (torchvision.ops.MultiScaleRoIAlign, expected)):
            maps = [map_.requires_grad_() for map_ in pyramid(2, 5, layout=layout, seed=seed)]
            x = {**dict(zip(NAMES, maps, strict=True)), "pool": torch.zeros(2, 5, 1, 1)}
            pooled = module(names, 5, 2, **settings)(x, boxes, shapes)
            used = [x[name] for name in names]
            grad = torch.ones_like(pooled).cumsum(dim=0)
            results += [pooled, *torch.autograd.grad(pooled, used, grad, allow_unused=True)]
        for one, other in zip(found, expected, strict=True):
            other = torch.zeros_like(one) if other is None else other  # a level that no RoI was read from
            assert (one - other).abs().max().item() <= 1e-5 * max(1.0, other.abs().max().item())


def test_boundaries_between_levels():
    """Sides around every boundary, in steps of a few roundings: the same level as torchvision's."""
    from torchvision.ops.poolers import LevelMapper

    from fasterrcnn_ops._rois import level_of_rois

    sides = torch.cat([boundary * (1 + torch.arange(-40, 41) * 6e-8) for boundary in (112.0, 224.0, 448.0)])
    boxes = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides], dim=1)
    rois = torch.cat([torch.zeros(len(sides), 1), boxes], dim=1)
    found = level_of_rois(rois, (1 / 4, 1 / 8, 1 / 16, 1 / 32), 224, 4)
    assert torch.equal(found, LevelMapper(2, 5)([boxes]))
