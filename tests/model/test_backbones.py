"""Frozen norms, stages and the two ResNets; shapes of whole trunks are in the systems' tests."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fasterrcnn.backbone import VGG16, FrozenBatchNorm2d, ResNet50, ResNet50C4, Tiny, freeze_stages

STATISTICS = ("weight", "bias", "running_mean", "running_var")


def norms(channels: int = 7) -> tuple[FrozenBatchNorm2d, nn.BatchNorm2d]:
    """Both with the same random numbers in them, the second in evaluation mode."""
    frozen, plain = FrozenBatchNorm2d(channels), nn.BatchNorm2d(channels).eval()
    with torch.no_grad():
        for name in STATISTICS:
            values = torch.rand(channels) + 0.2
            getattr(frozen, name).copy_(values)
            getattr(plain, name).copy_(values)
    return frozen, plain


def test_frozen_norm_is_batch_norm_in_evaluation():
    frozen, plain = norms()
    x = torch.randn(2, 7, 5, 6)
    torch.testing.assert_close(frozen(x), plain(x))
    frozen.train()
    torch.testing.assert_close(frozen(x), plain(x))


def test_frozen_norm_has_nothing_to_learn():
    frozen, _ = norms()
    assert list(frozen.parameters()) == []
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    x = torch.randn(2, 7, 5, 6, requires_grad=True)
    frozen.train()(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())


def test_frozen_norm_loads_batch_norms_files():
    frozen, plain = norms()
    state = plain.state_dict()
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert set(frozen.state_dict()) == set(state) - counters
    fresh = FrozenBatchNorm2d(7)
    missing = fresh.load_state_dict(state, strict=False)
    assert missing.missing_keys == []
    assert all(torch.equal(getattr(fresh, name), getattr(frozen, name)) for name in STATISTICS)


def test_frozen_norm_in_half_precision():
    frozen, plain = norms()
    x = torch.randn(2, 7, 5, 6)
    result = frozen(x.bfloat16())
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), plain(x), rtol=0.05, atol=0.1)


@pytest.mark.parametrize(("make", "count"), [(VGG16, 5), (ResNet50, 4), (ResNet50C4, 4), (Tiny, 4)])
def test_stages_are_the_trunk(make, count):
    """Together and in order they hold every parameter once, and each can be frozen alone."""
    with torch.device("meta"):
        trunk = make()
    stages = trunk.stages()
    assert len(stages) == count
    inside = [id(p) for stage in stages for p in stage.parameters()]
    assert inside == [id(p) for p in trunk.parameters()]
    x = torch.empty(1, 3, 64, 96, device="meta")
    shape = trunk(x).shape
    for stage in stages:
        x = stage(x)
    assert x.shape == shape == (1, trunk.out_channels, 4, 6)


@pytest.mark.parametrize("make", [VGG16, ResNet50, ResNet50C4, Tiny])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_freezing_stages(make, count):
    with torch.device("meta"):
        trunk = make()
    freeze_stages(trunk, count)
    frozen = [not p.requires_grad for stage in trunk.stages()[:count] for p in stage.parameters()]
    trained = [p.requires_grad for stage in trunk.stages()[count:] for p in stage.parameters()]
    assert all(frozen)
    assert all(trained)
    assert len(frozen) + len(trained) == len(list(trunk.parameters()))


@pytest.mark.parametrize(("trunk", "count"), [(Tiny(), 5), (Tiny(), -1), (nn.Conv2d(3, 3, 1), 1)])
def test_more_stages_than_there_are(trunk, count):
    with pytest.raises(ValueError, match=rf"frozen_stages must be 0….* for {type(trunk).__name__}, got {count}"):
        freeze_stages(trunk, count)


def test_both_resnets_are_one():
    """The trunks differ in names, in the padding of one pool, and in norms; the same numbers give the same features."""
    torch.manual_seed(0)
    classic = ResNet50(stem_pool_padding=1).eval()
    c4 = ResNet50C4(frozen_norm=False).eval()
    state = list(classic.state_dict().values())
    c4.load_state_dict(dict(zip(c4.state_dict(), state, strict=True)))
    frozen = ResNet50C4()
    frozen.load_state_dict({n: t for n, t in c4.state_dict().items() if not n.endswith("num_batches_tracked")})
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = classic(image)
        assert torch.equal(c4(image), expected)
        torch.testing.assert_close(frozen(image), expected, rtol=1e-4, atol=1e-4)
