"""The C4 systems' rules: shapes at real sizes (on the meta device, without arithmetic), names, numbers.

How they behave is in test_systems.py, with the other systems.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fasterrcnn
from fasterrcnn.backbone import FrozenBatchNorm2d
from fasterrcnn.roi import class_rows
from fasterrcnn.training import Matcher

CLASSES = 20
C4 = ("resnet50_c4_sigmoid", "resnet50_c4")


def on_meta(name: str, **overrides) -> nn.Module:
    with torch.device("meta"):
        return fasterrcnn.build(name, num_classes=CLASSES, **overrides)


def tiny(name: str, **overrides) -> nn.Module:
    torch.manual_seed(0)
    return fasterrcnn.build(name, num_classes=2, backbone="tiny", **{"min_size": 64, **overrides})


@pytest.fixture(scope="module")
def sigmoid():
    return on_meta("resnet50_c4_sigmoid")


@pytest.fixture(scope="module")
def c4():
    return on_meta("resnet50_c4")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Shapes and sizes.


def test_sigmoid_shapes(sigmoid):
    """One image of 600 × 800, 20 classes."""
    features = sigmoid.backbone(torch.empty(1, 3, 600, 800, device="meta"))
    assert features.shape == (1, 1024, 38, 50)
    output = sigmoid.rpn.predict(features)
    assert output.anchors.shape == (28_500, 4)
    assert output.logits.shape == (1, 28_500, 1)
    assert output.deltas.shape == (1, 28_500, 4)
    proposals = sigmoid.rpn.propose(output, [(600, 800)], [1.0], training=False)
    assert proposals.scores[..., None].shape == (1, 300, 1)
    assert proposals.boxes.shape == (1, 300, 4)
    assert sigmoid.rpn.propose(output, [(600, 800)], [1.0], training=True).boxes.shape == (1, 2000, 4)
    pooled = sigmoid.roi_heads.pool_proposals(features, proposals, (600, 800))
    assert pooled.shape == (300, 1024, 14, 14)
    box = sigmoid.roi_heads.box
    hidden = box.feature_extractor.head(pooled)
    assert hidden.shape == (300, 2048, 7, 7)
    assert box.predictor.avgpool(hidden).shape == (300, 2048, 1, 1)
    logits, deltas = sigmoid.roi_heads.predict(pooled)
    assert logits.shape == (300, 21)
    assert deltas.shape == (300, 80)


def test_sigmoid_rows(sigmoid):
    """One row for each of 20 classes and 300 proposals."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(300, 2, generator=generator).mul(500).repeat(1, 2) + torch.tensor([0.0, 0, 80, 90])
    logits, deltas = torch.randn(300, 21, generator=generator), torch.zeros(300, 80)
    valid = torch.ones(300, dtype=torch.bool)
    rows = class_rows(sigmoid.detection_layer, logits, deltas, boxes, valid, (600, 800))
    assert (rows.ids.shape, rows.scores.shape, rows.boxes.shape) == ((6000, 1), (6000, 1), (6000, 4))


def test_sigmoid_parameters(sigmoid):
    assert count(sigmoid.rpn) == 9_515_083
    assert count(sigmoid.rpn.head.conv) == 9_438_208
    assert count(sigmoid.rpn.head.cls_logits) == 15_375
    assert count(sigmoid.rpn.head.bbox_pred) == 61_500
    assert count(sigmoid.roi_heads.box.predictor.cls_score) == 43_029
    assert count(sigmoid.roi_heads.box.predictor.bbox_pred) == 163_920


def test_c4_shapes(c4):
    features = c4.backbone(torch.empty(1, 3, 1066, 800, device="meta"))
    assert features.shape == (1, 1024, 67, 50)
    output = c4.rpn.predict(features)
    assert output.anchors.shape == (67 * 50 * 9, 4)
    assert output.logits.shape == (1, 67 * 50 * 9, 1)
    for training, slots in ((True, 2000), (False, 1000)):
        assert c4.rpn.propose(output, [(1066, 800)], [1.0], training=training).boxes.shape == (1, slots, 4)
    logits, deltas = c4.roi_heads.predict(torch.empty(512, 1024, 14, 14, device="meta"))
    assert logits.shape == (512, 21)
    assert deltas.shape == (512, 84)


def test_c4_with_fifteen_anchors():
    model = on_meta("resnet50_c4", anchor_sizes=(32, 64, 128, 256, 512))
    assert len(model.rpn.anchors) == 15
    assert model.rpn.head.cls_logits.out_channels == 15
    assert model.rpn.head.bbox_pred.out_channels == 60
    assert model.rpn.anchors((38, 50)).shape == (28_500, 4)


def test_c4_module_names(c4):
    """The names of the family's print-out."""
    modules = dict(c4.named_modules())
    assert [name for name, _ in c4.named_children()] == ["backbone", "rpn", "roi_heads"]
    assert [name for name, _ in modules["rpn.head"].named_children()] == ["conv", "cls_logits", "bbox_pred"]
    extractor, predictor = "roi_heads.box.feature_extractor", "roi_heads.box.predictor"
    assert [name for name, _ in modules[extractor].named_children()] == ["pooler", "head"]
    assert [name for name, _ in modules[predictor].named_children()] == ["avgpool", "cls_score", "bbox_pred"]
    assert "backbone.body.stem.conv1" in modules
    assert f"{extractor}.head.layer4.2.conv3" in modules
    assert modules["rpn.head.conv"].out_channels == 1024
    assert (modules[f"{predictor}.cls_score"].in_features, modules[f"{predictor}.cls_score"].out_features) == (2048, 21)
    assert (modules[f"{predictor}.bbox_pred"].in_features, modules[f"{predictor}.bbox_pred"].out_features) == (2048, 84)
    assert modules[f"{predictor}.avgpool"].kernel_size == 7
    for name in ("(rpn)", "(pooler): RoIPooler('align', size=14, spatial_scale=0.0625", "(cls_score)", "(avgpool)"):
        assert name in repr(c4)


def test_c4_state_dict_names(c4):
    names = set(c4.state_dict())
    for name in (
        "backbone.body.stem.conv1.weight",
        "backbone.body.stem.bn1.running_var",
        "backbone.body.layer1.0.downsample.0.weight",
        "backbone.body.layer3.5.conv3.weight",
        "rpn.head.conv.weight",
        "rpn.head.cls_logits.bias",
        "rpn.head.bbox_pred.weight",
        "roi_heads.box.feature_extractor.head.layer4.0.conv1.weight",
        "roi_heads.box.predictor.cls_score.weight",
        "roi_heads.box.predictor.bbox_pred.bias",
    ):
        assert name in names
    assert {name.split(".")[0] for name in names} == {"backbone", "rpn", "roi_heads"}
    assert len({id(p) for p in c4.parameters()}) == len(list(c4.parameters()))


def test_rounded_anchors(c4, sigmoid):
    """Around (7.5, 7.5), worked out here from the rule: whole pixels, both ends counted."""
    for model, sizes in ((c4, (128, 256, 512)), (sigmoid, (32, 64, 128, 256, 512))):
        expected = []
        for ratio in (0.5, 1, 2):
            width = round((256 / ratio) ** 0.5)
            height = round(width * ratio)
            for size in sizes:
                w, h = width * size / 16, height * size / 16
                expected.append([7.5 - (w - 1) / 2, 7.5 - (h - 1) / 2, 7.5 + (w - 1) / 2, 7.5 + (h - 1) / 2])
        assert model.rpn.anchors.cell_anchors.tolist() == expected
        assert model.rpn.anchors((2, 3)).view(2, 3, -1, 4)[1, 2, 0].tolist() == [
            expected[0][0] + 32,
            expected[0][1] + 16,
            expected[0][2] + 32,
            expected[0][3] + 16,
        ]


# Trunks.


def test_where_the_stride_is(c4, sigmoid):
    for model, stride_on_1x1 in ((c4, True), (sigmoid, False)):
        stages = (model.trunk.layer2, model.trunk.layer3, model.roi_heads.box.feature_extractor.head.layer4)
        for stage in stages:
            strides = stage[0].conv1.stride, stage[0].conv2.stride
            assert strides == (((2, 2), (1, 1)) if stride_on_1x1 else ((1, 1), (2, 2)))
        assert (model.trunk.stem.pool.padding, model.trunk.stem.pool.ceil_mode) == (1, False)


@pytest.mark.parametrize("name", C4)
def test_norms_are_frozen(name):
    norms = [m for m in on_meta(name).modules() if isinstance(m, (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d))]
    # A stem's, three in each of 3 + 4 + 6 + 3 blocks, and four of shortcuts.
    assert len(norms) == 1 + 3 * 16 + 4
    assert all(isinstance(norm, FrozenBatchNorm2d) for norm in norms)
    assert not [n for n, _ in on_meta(name).named_parameters() if ".bn" in n]


def test_frozen_stages(c4, sigmoid):
    frozen = {name.split(".")[2] for name, p in c4.named_parameters() if not p.requires_grad}
    trained = {name.split(".")[2] for name, p in c4.backbone.named_parameters(prefix="backbone") if p.requires_grad}
    assert frozen == {"stem", "layer1"}
    assert trained == {"layer2", "layer3"}
    assert all(p.requires_grad for p in sigmoid.parameters())


@pytest.mark.parametrize("name", C4)
def test_initialisation(name):
    head = tiny(name, rpn_channels=512).roi_heads.box.predictor
    for layer, std in ((head.cls_score, 0.01), (head.bbox_pred, 0.001)):
        weight = layer.weight.detach()
        assert abs(float(weight.std()) / std - 1) < 4 / weight.numel() ** 0.5
        assert not layer.bias.any()


# Rules.


def test_preprocessing_of_c4(c4):
    """BGR in 0–255 minus the mean: a red image is 255 − 122.77 in the last channel."""
    batcher = c4.batcher
    assert (batcher.min_size, batcher.max_size, batcher.fixed_size) == (800, 1333, None)
    red = torch.zeros(3, 800, 1000)
    red[0] = 1
    pixel = batcher([red]).images[0, :, 400, 500]
    torch.testing.assert_close(pixel, torch.tensor([-102.98, -115.95, 255 - 122.77]), atol=0.01, rtol=0)
    assert batcher([torch.rand(3, 400, 800)]).images.shape == (1, 3, 666, 1333)
    assert batcher([torch.rand(3, 533, 400)]).images.shape == (1, 3, 1066, 800)


def test_preprocessing_of_sigmoid(sigmoid):
    batcher = sigmoid.batcher
    assert (batcher.min_size, batcher.max_size, batcher.fixed_size) == (600, 1000, None)
    red = torch.zeros(3, 600, 800)
    red[0] = 1
    pixel = batcher([red]).images[0, :, 300, 300]
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    torch.testing.assert_close(pixel, torch.tensor(expected))
    assert batcher([torch.rand(3, 300, 600)]).images.shape == (1, 3, 500, 1000)


def proposal_rules(model):
    layer = model.rpn.proposal_layer
    return {
        "before": layer.pre_nms_top_n,
        "after": layer.post_nms_top_n,
        "iou": layer.nms_threshold,
        "side": layer.min_size,
        "of the original": layer.scale_min_size,
        "side + 1": layer.inclusive_sides,
        "before top-k": layer.filter_before_top_k,
        "inclusive": layer.coder.inclusive,
        "weights": layer.coder.weights,
    }


def test_proposal_rules(c4, sigmoid):
    assert proposal_rules(sigmoid) == {
        "before": (12000, 6000),
        "after": (2000, 300),
        "iou": 0.7,
        "side": 16,
        "of the original": False,
        "side + 1": True,
        "before top-k": True,
        "inclusive": False,
        "weights": (1, 1, 1, 1),
    }
    assert proposal_rules(c4) == {
        "before": (12000, 6000),
        "after": (2000, 1000),
        "iou": 0.7,
        "side": 0,
        "of the original": False,
        "side + 1": True,
        "before top-k": False,
        "inclusive": True,
        "weights": (1, 1, 1, 1),
    }


def test_training_rules(c4, sigmoid):
    for model, border, samples in ((c4, "ignore", 512), (sigmoid, "keep", 128)):
        anchors, rois = model.anchor_targets, model.proposal_targets
        assert anchors.matcher == Matcher(0.7, 0.3, best_of_each=True)
        assert (anchors.sampler.num_samples, anchors.sampler.positive_fraction) == (256, 0.5)
        assert anchors.border == border
        assert (rois.matcher.positive_iou, rois.matcher.negative_iou) == (0.5, 0.5)
        assert (rois.sampler.num_samples, rois.sampler.positive_fraction) == (samples, 0.25)
        assert rois.add_ground_truth
        assert model.rpn_loss.beta == 1 / 9
        assert model.roi_loss.beta == 1
        for loss in (model.rpn_loss, model.roi_loss):
            assert (loss.box_weight, loss.normalizer) == (1, "sampled")
        assert model.rpn.scores_per_anchor == 1


def test_coders(c4, sigmoid):
    """Weights (10, 10, 5, 5) are the standard deviations (.1, .1, .2, .2)."""
    for model, inclusive in ((c4, True), (sigmoid, False)):
        for coder in (model.proposal_targets.coder, model.detection_layer.coder):
            assert (coder.weights, coder.inclusive) == ((10, 10, 5, 5), inclusive)
        assert model.anchor_targets.coder == model.rpn.proposal_layer.coder


def test_pooling_rules(c4, sigmoid):
    for model, sampling in ((c4, 0), (sigmoid, 2)):
        pooler = model.roi_heads.pooler
        assert (pooler.kind, pooler.size, pooler.spatial_scale, pooler.sampling_ratio, pooler.aligned) == (
            "align",
            14,
            1 / 16,
            sampling,
            False,
        )


def test_detection_rules(c4, sigmoid):
    layer = c4.detection_layer
    assert (layer.score_threshold, layer.nms_threshold, layer.max_detections, layer.candidates_per_class) == (
        0.05,
        0.5,
        100,
        None,
    )
    layer = sigmoid.detection_layer
    assert (layer.score_threshold, layer.nms_threshold, layer.candidates_per_class) == (0.01, 0.3, 400)
