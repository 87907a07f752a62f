"""roi_align and its gradient against torchvision's CPU kernel, float32 within 1e-5, on thousands of inputs.

Left out is what torchvision cannot do: NaN, infinite and gigantic RoIs, batch indices out of range (it crashes or reads
other memory) and inverted RoIs with ``aligned`` and an adaptive grid (a negative number of samples).
"""

from __future__ import annotations

import math

import pytest
import support
import torch
from roi_scenes import MEMORY_FORMATS, SCALE, SCENES, feature_map, seeded
from support import FULL_DTYPES, dtype_id

from fasterrcnn_ops.roi_align import RoIAlign, roi_align

torchvision = support.require_torchvision()

ROUNDS = 150  # per scene and dtype, each with 5 sampling ratios, aligned or not, forward and backward
SLACK = {torch.float32: 1e-5, torch.float64: 1e-12}


def assert_within(found, expected, slack):
    """Within ``slack`` of values of the order of 1, and of sums in proportion to the largest."""
    assert found.shape == expected.shape
    if expected.numel():
        largest = max(1.0, expected.abs().max().item())
        assert (found - expected).abs().max().item() <= slack * largest


@pytest.mark.parametrize("dtype", FULL_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("scene", ["ordinary", "on_pixels", "outside", "degenerate"])
def test_random_scenes(scene, dtype):
    for seed in range(ROUNDS):
        generator = seeded(seed)
        size = [
            int(torch.randint(low, high, (), generator=generator)) for low, high in ((1, 3), (1, 5), (1, 30), (1, 30))
        ]
        features = feature_map(size, generator, dtype, list(MEMORY_FORMATS)[seed % 2])
        rois = SCENES[scene](int(torch.randint(12, (), generator=generator)), size, generator).to(dtype)
        bins = [int(number) for number in torch.randint(1, 8, (2,), generator=generator)]
        for ratio in (-1, 0, 1, 2, 3):
            aligned = bool((seed + ratio) % 2)
            if scene == "degenerate" and ratio < 1:
                aligned = False
            ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
            found = roi_align(ours, rois, bins, SCALE, ratio, aligned)
            expected = torchvision.ops.roi_align(theirs, rois, bins, SCALE, ratio, aligned)
            assert_within(found, expected, SLACK[dtype])
            grad = torch.randn(found.shape, generator=generator, dtype=torch.float64).to(dtype)
            found.backward(grad)
            expected.backward(grad)
            assert_within(ours.grad, theirs.grad, SLACK[dtype])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_in_the_map_reach_the_same_bins(value):
    for seed in range(100):
        size = (1, 2, 9, 11)
        features = feature_map(size, seeded(seed))
        # Not pixel (0, 0): torchvision's CPU kernel reads it, with weight 0, for every sample outside the map.
        features[0, :, torch.randint(1, 9, (3,)), torch.randint(11, (3,))] = value
        rois = SCENES["on_pixels" if seed % 2 else "ordinary"](8, size, seeded(seed))
        for ratio in (-1, 1, 2):
            found = roi_align(features, rois, (3, 4), SCALE, ratio)
            expected = torchvision.ops.roi_align(features, rois, (3, 4), SCALE, ratio)
            assert torch.equal(found.isfinite(), expected.isfinite())
            torch.testing.assert_close(found[found.isfinite()], expected[found.isfinite()], rtol=1e-5, atol=1e-5)


def test_lists_and_modules():
    features = torch.randn(2, 3, 12, 17)
    boxes = [support.random_boxes(5, image=100.0), support.random_boxes(3, image=100.0)]
    arguments = ((7, 5), SCALE, 2, True)
    expected = torchvision.ops.RoIAlign(*arguments)(features, boxes)
    assert_within(RoIAlign(*arguments)(features, boxes), expected, 1e-5)
    assert repr(RoIAlign(*arguments)) == repr(torchvision.ops.RoIAlign(*arguments))
