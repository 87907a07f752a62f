"""Detectors made ready for use detect what they did before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fasterrcnn
from fasterrcnn.backbone import FrozenBatchNorm2d, ResNet50C4
from fasterrcnn.build import SYSTEMS
from fasterrcnn.inference import fold_batch_norms


def randomised_norms(module: nn.Module) -> nn.Module:
    """Statistics and factors a trained trunk could have."""
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            norm.weight.data.uniform_(0.5, 1.0)
            norm.bias.data.uniform_(-0.1, 0.1)
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 2.0)
    return module


@pytest.mark.parametrize("frozen", [True, False])
def test_folding_keeps_the_function(frozen):
    torch.manual_seed(0)
    trunk = randomised_norms(ResNet50C4(frozen_norm=frozen)).eval()
    image = torch.rand(1, 3, 48, 64)
    with torch.no_grad():
        before = trunk(image)
        assert fold_batch_norms(trunk) == 1 + 13 * 3 + 3  # stem, 13 bottlenecks, 3 shortcuts
        after = trunk(image)
    assert not any(isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d)) for m in trunk.modules())
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


def test_training_norms_are_not_folded():
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert fold_batch_norms(block.train()) == 0
    assert fold_batch_norms(block.eval()) == 1


def test_a_norm_of_other_channels_is_no_partner():
    assert fold_batch_norms(nn.ModuleList([nn.Conv2d(3, 4, 1), nn.BatchNorm2d(3)]).eval()) == 0


def test_norms_without_factors_and_without_statistics():
    """A backbone of one's own may have either; the first is folded like any other."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)).eval()
    plain[1].running_mean.uniform_(-1, 1)
    plain[1].running_var.uniform_(0.5, 2)
    image = torch.rand(1, 3, 5, 5)
    with torch.no_grad():
        before = plain(image)
        assert fold_batch_norms(plain) == 1
        torch.testing.assert_close(plain(image), before)
    assert fold_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()) == 0


@pytest.mark.parametrize("system", SYSTEMS)
def test_same_numbers_at_every_stage(system):
    torch.manual_seed(1)
    model = fasterrcnn.build(system, num_classes=3, backbone="tiny")
    image = torch.rand(3, 128, 160)
    fast = model.optimize_for_inference()
    assert model.training  # the original is as it was
    assert all(p.requires_grad for p in model.parameters())
    assert not fast.training
    assert fast.features(torch.rand(1, 3, 64, 64)).is_contiguous(memory_format=torch.channels_last)
    # Detections of untrained weights hang on ties, so the two networks are compared at every stage instead.
    rois, indices = torch.tensor([[8.0, 8.0, 70.0, 60.0], [40.0, 10.0, 120.0, 90.0]]), torch.zeros(2)
    results = []
    with torch.no_grad():
        for network in (model.eval(), fast):
            features = network.features(torch.rand(1, 3, 128, 160, generator=torch.Generator().manual_seed(2)))
            output = network.rpn.predict(features)
            pooled = network.roi_heads.pool(features, rois, indices, (128, 160))
            results.append((features, output.logits, output.deltas, *network.roi_heads.predict(pooled)))
    for before, after in zip(*results, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * max(1.0, float(before.abs().max())))
    assert len(fast.detect([image], score_threshold=0.0)[0]) > 0


@pytest.mark.parametrize("system", SYSTEMS)
def test_bfloat16_changes_features_alone(system):
    model = fasterrcnn.build(system, num_classes=3, backbone="tiny").optimize_for_inference(torch.bfloat16)
    features = model.features(torch.rand(1, 3, 64, 64))
    assert features.dtype == torch.bfloat16
    output = model.rpn.predict(features)
    assert output.anchors.dtype == torch.float32
    proposals = model.rpn.propose(output, [(64, 64)], [1.0], training=False)
    assert proposals.boxes.dtype == proposals.scores.dtype == torch.float32
    (found,) = model.detect([torch.rand(3, 100, 120)], score_threshold=0.0)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert len(found) > 0


def test_bad_dtype():
    model = fasterrcnn.build("classic_vgg16", num_classes=1, backbone="tiny")
    with pytest.raises(ValueError, match=r"dtype must be .*, got torch.int8"):
        model.optimize_for_inference(torch.int8)
