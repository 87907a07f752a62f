"""Under autocast: what torchvision returns, which casts to float32 and RoI features back to the dtype of the map."""

from __future__ import annotations

import pytest
import support
import torch
from nms_scenes import SCENES, seeded
from pyramid_scenes import CANONICAL_LEVEL, CANONICAL_SCALE, HEIGHT, WIDTH, pyramid, rois_of_all_sizes
from roi_scenes import SCALE, feature_map, ordinary
from support import HALF_DTYPES, dtype_id

import fasterrcnn_ops as ours

torchvision = support.require_torchvision()

MAP_DTYPES = (*HALF_DTYPES, torch.float32)


@pytest.mark.parametrize("box_dtype", MAP_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=dtype_id)
def test_nms(dtype, box_dtype):
    boxes, scores = SCENES["clustered"](200, seeded(0))
    boxes, scores = boxes.to(box_dtype), scores.to(box_dtype)
    with torch.autocast("cpu", dtype):
        expected = torchvision.ops.nms(boxes, scores, 0.5)
        found = ours.nms(boxes, scores, 0.5)
    # Ties are many among half scores, and torchvision's cast keeps their order, as ours does.
    assert torch.equal(found, expected)


@pytest.mark.parametrize("roi_dtype", [torch.float32, torch.bfloat16], ids=dtype_id)
@pytest.mark.parametrize("map_dtype", MAP_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align(aligned, map_dtype, roi_dtype):
    size = (2, 5, 9, 12)
    rois = ordinary(40, size, seeded(1)).to(roi_dtype)
    results = []
    for roi_align in (ours.roi_align, torchvision.ops.roi_align):
        features = feature_map(size, seeded(0)).to(map_dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            pooled = roi_align(features, rois, 3, SCALE, 2, aligned)
        (gradient,) = torch.autograd.grad(pooled.float().square().sum(), features)
        results.append((pooled.detach(), gradient))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype == map_dtype
        support.assert_close(found, expected)


def test_pyramid_of_different_dtypes():
    levels = pyramid(seed=3)
    levels = {str(index): map_.bfloat16() if index == 1 else map_ for index, map_ in enumerate(levels)}
    rois = torch.cat([rois_of_all_sizes(7, seed=seed) for seed in range(4)])  # each has a level, for torchvision too
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(2)]
    arguments = (list(levels), 3, 2)
    options = {"canonical_scale": CANONICAL_SCALE, "canonical_level": CANONICAL_LEVEL}
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (
            module(*arguments, **options)(levels, boxes, [(HEIGHT, WIDTH)] * 2)
            for module in (ours.MultiScaleRoIAlign, torchvision.ops.MultiScaleRoIAlign)
        )
    assert found.dtype == expected.dtype == torch.float32
    # torchvision rounds what comes from a half level to half before it widens it.
    support.assert_close(found, expected, rtol=1e-2, atol=1e-2)
