"""roi_pool against torchvision's CPU kernel on thousands of inputs: values and positions equal, gradients within 1e-5.

Left out is what torchvision cannot do: NaN, infinite and gigantic RoIs and batch indices out of range.
"""

from __future__ import annotations

import math

import pytest
import support
import torch
from roi_scenes import MEMORY_FORMATS, SCALE, SCENES, feature_map, seeded
from support import FULL_DTYPES, dtype_id

from fasterrcnn_ops.roi_pool import RoIPool, roi_pool

torchvision = support.require_torchvision()

ROUNDS = 400  # per scene and dtype


@pytest.mark.parametrize("dtype", FULL_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("scene", ["ordinary", "on_pixels", "outside", "degenerate"])
def test_random_scenes(scene, dtype):
    for seed in range(ROUNDS):
        generator = seeded(seed)
        size = [
            int(torch.randint(low, high, (), generator=generator)) for low, high in ((1, 3), (1, 5), (1, 30), (1, 30))
        ]
        features = feature_map(size, generator, dtype, list(MEMORY_FORMATS)[seed % 2])
        if seed % 3 == 0:
            features = features.round()  # ties
        if seed % 5 == 0:
            hostile = torch.tensor([math.nan, math.inf, -math.inf, torch.finfo(dtype).min], dtype=dtype)
            chosen = hostile[torch.randint(4, size, generator=generator)]
            features = torch.where(torch.rand(size, generator=generator) < 0.3, chosen, features)
        rois = SCENES[scene](int(torch.randint(12, (), generator=generator)), size, generator).to(dtype)
        bins = [int(number) for number in torch.randint(1, 8, (2,), generator=generator)]
        values, argmax = torch.ops.fasterrcnn_ops.roi_pool_forward(features, rois, SCALE, *bins)
        expected_values, expected_argmax = torch.ops.torchvision.roi_pool(features, rois, SCALE, *bins)
        assert torch.equal(values, expected_values)  # bins never hold NaN: it never is the maximum
        assert torch.equal(argmax, expected_argmax.long())

        ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
        grad = torch.randn(values.shape, generator=generator, dtype=torch.float64).to(dtype)
        roi_pool(ours, rois, bins, SCALE).backward(grad)
        torchvision.ops.roi_pool(theirs, rois, bins, SCALE).backward(grad)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def test_lists_and_modules():
    features = torch.randn(2, 3, 12, 17)
    boxes = [support.random_boxes(5, image=100.0), support.random_boxes(3, image=100.0)]
    module, theirs = RoIPool((7, 5), SCALE), torchvision.ops.RoIPool((7, 5), SCALE)
    assert torch.equal(module(features, boxes), theirs(features, boxes))
    assert repr(module) == repr(theirs)
