"""The step-by-step system: its numbers, and that its stages called one by one are the detector."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fasterrcnn
from fasterrcnn import stepwise
from fasterrcnn.roi import RoIPooler
from fasterrcnn.roi.features import truncate
from fasterrcnn.stepwise import stages
from fasterrcnn.training import image_seeds
from fasterrcnn_ops import box_iou, roi_pool

FULL = (800, 800)
TINY = {"image_size": (160, 160), "rpn_post_nms_top_n": (60, 20), "rpn_pre_nms_top_n": (200, 150), "roi_samples": 16}
TARGET = {"boxes": torch.tensor([[10.0, 20, 70, 90], [60, 30, 118, 80]]), "labels": torch.tensor([2, 1])}


@pytest.fixture(scope="module")
def full():
    """At full size, without arithmetic."""
    with torch.device("meta"):
        return fasterrcnn.build("stepwise_vgg16", num_classes=1)


def tiny(**overrides) -> stepwise.StepwiseRCNN:
    torch.manual_seed(3)
    return fasterrcnn.build("stepwise_vgg16", num_classes=2, backbone="tiny", **{**TINY, **overrides})


def image() -> torch.Tensor:
    return torch.rand(3, 100, 120, generator=torch.Generator().manual_seed(1))


# The numbers of the system.


def test_features_of_one_image(full):
    assert stepwise.extract_features(full, torch.empty(1, 3, *FULL, device="meta")).shape == (1, 512, 50, 50)
    assert (full.backbone.out_channels, full.backbone.stride) == (512, 16)


def test_preprocessing(full):
    """Whatever its shape an image becomes 800 × 800; its values stay RGB in 0–1."""
    picture = torch.rand(3, 300, 400)
    batch = full.batcher([picture], [{"boxes": torch.tensor([[0.0, 30, 400, 300]]), "labels": torch.tensor([1])}])
    assert batch.images.shape == (1, 3, *FULL)
    assert batch.sizes == [FULL]
    assert batch.targets[0]["boxes"].tolist() == [[0, 80, 800, 800]]
    at_size = torch.rand(3, *FULL)
    assert torch.equal(full.batcher([at_size]).images[0], at_size)
    assert torch.equal(stepwise.prepare_image(at_size).images[0], at_size)
    ours = stepwise.prepare_image(picture)
    assert torch.equal(ours.images, batch.images)
    assert ours.targets == []


def test_anchor_counts(full):
    anchors = full.rpn.anchors((50, 50))
    assert torch.equal(anchors, stepwise.make_anchors((50, 50)))
    assert anchors.shape == (22_500, 4)
    assert stepwise.anchors_inside(anchors, FULL).sum() == 8_940


def test_anchors_lie_around_the_middle_of_their_location():
    """Row (y·W + x)·A + a, around (8 + 16x, 8 + 16y), 16·s·√r high and 16·s/√r wide."""
    anchors = stepwise.make_anchors((3, 5)).view(3, 5, 9, 4)
    y, x = torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij")
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    torch.testing.assert_close(centres, torch.stack([8 + 16 * x, 8 + 16 * y], -1)[:, :, None].expand(-1, -1, 9, -1))
    ratios = torch.tensor([0.5, 1, 2]).repeat_interleave(3)
    scales = torch.tensor([8.0, 16, 32]).repeat(3)
    sides = (anchors[..., 2:] - anchors[..., :2])[2, 4]
    torch.testing.assert_close(sides[:, 1], 16 * scales * ratios.sqrt())
    torch.testing.assert_close(sides[:, 0], 16 * scales / ratios.sqrt())


def test_anchors_that_touch_the_border_are_inside():
    boxes = torch.tensor([[0, 0, 800, 800], [-0.5, 0, 10, 10], [0, -0.5, 10, 10], [0, 0, 801, 10], [0, 0, 10, 801.0]])
    assert stepwise.anchors_inside(boxes, FULL).tolist() == [True, False, False, False, False]


def test_layers(full):
    shapes = {name: tuple(p.shape) for name, p in full.named_parameters() if not name.startswith("backbone.")}
    assert shapes == {
        "rpn.head.score_conv.weight": (512, 512, 3, 3),
        "rpn.head.score_conv.bias": (512,),
        "rpn.head.score.weight": (18, 512, 1, 1),
        "rpn.head.score.bias": (18,),
        "rpn.head.loc_conv.weight": (512, 512, 3, 3),
        "rpn.head.loc_conv.bias": (512,),
        "rpn.head.loc.weight": (36, 512, 1, 1),
        "rpn.head.loc.bias": (36,),
        "roi_heads.hidden.0.weight": (4096, 25088),
        "roi_heads.hidden.0.bias": (4096,),
        "roi_heads.hidden.1.weight": (2048, 4096),
        "roi_heads.hidden.1.bias": (2048,),
        "roi_heads.loc.weight": (8, 2048),
        "roi_heads.loc.bias": (8,),
        "roi_heads.score.weight": (2, 2048),
        "roi_heads.score.bias": (2,),
    }


def test_rpn_shapes(full):
    logits, deltas = stepwise.score_anchors(full, torch.empty(1, 512, 50, 50, device="meta"))
    assert logits.shape == (22_500, 2)
    assert deltas.shape == (22_500, 4)


def test_head_shapes(full):
    pooled = torch.empty(128, 512, 7, 7, device="meta")
    assert pooled.flatten(1).shape == (128, 25_088)
    logits, deltas = stepwise.classify_rois(full, pooled)
    assert logits.shape == (128, 2)
    assert deltas.shape == (128, 8)


def test_nothing_is_activated():
    """Both heads are affine: f(a) + f(b) = f(a + b) + f(0)."""
    model = tiny().double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    for f, shape in ((model.rpn.head, (1, 160, 4, 5)), (model.roi_heads.predict, (3, 160, 7, 7))):
        a, b = torch.randn(2, *shape, dtype=torch.float64)
        for fa, fb, fab, f0 in zip(f(a), f(b), f(a + b), f(torch.zeros_like(a)), strict=True):
            torch.testing.assert_close(fa + fb, fab + f0)
            assert fa.abs().max() > 1e-3


@pytest.mark.parametrize(
    "layer", ["rpn.head.score_conv", "rpn.head.loc_conv", "roi_heads.hidden.0", "roi_heads.hidden.1", "roi_heads.loc"]
)
def test_initialisation(layer):
    module = tiny(head_channels=(512, 512)).get_submodule(layer)
    weight = module.weight.detach()
    error = 4 / weight.numel() ** 0.5  # four standard errors
    assert abs(float(weight.std()) / 0.01 - 1) < error
    assert abs(float(weight.mean())) < error * 0.01
    assert not module.bias.any()


def test_rules(full):
    layer = full.rpn.proposal_layer
    assert (layer.pre_nms_top_n, layer.post_nms_top_n) == ((12000, 12000), (2000, 2000))
    assert (layer.min_size, layer.scale_min_size, layer.inclusive_sides) == (16, False, False)
    assert layer.filter_before_top_k
    assert layer.nms_threshold == 0.7
    assert full.rpn.scores_per_anchor == 2
    assert full.anchor_targets.border == "exclude"
    matcher, sampler = full.anchor_targets.matcher, full.anchor_targets.sampler
    assert (matcher.positive_iou, matcher.negative_iou, matcher.best_of_each) == (0.7, 0.3, True)
    assert (sampler.num_samples, sampler.positive_fraction) == (256, 0.5)
    matcher, sampler = full.proposal_targets.matcher, full.proposal_targets.sampler
    assert (matcher.positive_iou, matcher.negative_iou, matcher.best_of_each) == (0.7, 0.7, False)
    assert (sampler.num_samples, sampler.positive_fraction) == (128, 0.5)
    assert not full.proposal_targets.add_ground_truth
    coders = (layer.coder, full.anchor_targets.coder, full.proposal_targets.coder, full.detection_layer.coder)
    assert all((coder.weights, coder.inclusive) == ((1, 1, 1, 1), False) for coder in coders)
    for loss in (full.rpn_loss, full.roi_loss):
        assert (loss.beta, loss.box_weight, loss.normalizer) == (1.0, 10.0, "positives")
    assert (full.roi_heads.pooler.kind, full.roi_heads.pooler.size) == ("truncated", 7)
    assert full.roi_heads.pooler.spatial_scale == 1 / 16


def test_the_iou_of_positives_is_configurable():
    assert tiny(roi_positive_iou=0.6).proposal_targets.matcher.positive_iou == 0.6


@pytest.mark.parametrize(
    ("stage", "name", "argument"),
    [
        ("prepare_image", "size", "image_size"),
        ("prepare_image", "mean", "image_mean"),
        ("prepare_image", "std", "image_std"),
        ("make_anchors", "sizes", "anchor_sizes"),
        ("make_anchors", "ratios", "anchor_ratios"),
        ("sample_anchors", "count", "rpn_samples"),
        ("rpn_loss", "box_weight", "box_weight"),
        ("drop_small", "min_size", "rpn_min_size"),
        ("keep_best", "count", "rpn_pre_nms_top_n"),
        ("suppress", "threshold", "rpn_nms_threshold"),
        ("suppress", "count", "rpn_post_nms_top_n"),
        ("label_proposals", "positive_iou", "roi_positive_iou"),
        ("sample_proposals", "count", "roi_samples"),
        ("roi_loss", "box_weight", "box_weight"),
        ("make_detections", "score_threshold", "score_threshold"),
        ("make_detections", "nms_threshold", "nms_threshold"),
        ("make_detections", "max_detections", "max_detections"),
    ],
)
def test_defaults_of_the_stages_are_the_systems(stage, name, argument):
    expected = fasterrcnn.default_arguments("stepwise_vgg16")[argument]
    expected = expected[0] if argument.endswith("top_n") else expected  # in training and in use alike
    assert inspect.signature(getattr(stepwise, stage)).parameters[name].default == expected


# Stages.


def test_every_stage_is_public_and_says_shapes():
    assert set(stages.__all__) <= set(stepwise.__all__)
    for name in stages.__all__:
        documentation = inspect.getdoc(getattr(stepwise, name))
        assert "[" in documentation or name == "to_original", name


def test_anchor_labels():
    """IoU ≥ .7 or the best of a ground truth; < .3; in between; across the border, which is not even matched."""
    anchors = torch.tensor(
        [
            [10, 10, 20, 20],  # the first truth itself
            [10, 10, 20, 17],  # .7 of it
            [10, 10, 20, 15],  # half
            [10, 10, 12, 20],  # a fifth
            [-1, 50, 30, 90],  # the second truth's best, but across the border
            [0, 50, 10, 90],  # a quarter of it: the best of those inside
            [70, 70, 80, 80],  # nowhere
        ]
    ).float()
    truth = torch.tensor([[10, 10, 20, 20], [0, 50, 40, 90]]).float()
    labels, matches = stepwise.label_anchors(anchors, truth, (100, 100))
    assert labels.tolist() == [1, 1, -1, 0, -1, 1, 0]
    assert matches.tolist() == [0, 0, -2, -1, -2, 1, -1]


def test_sampling_of_anchors():
    labels = torch.tensor([1] * 300 + [0] * 1000 + [-1] * 50)
    sampled = stepwise.sample_anchors(labels, 0)
    assert [(sampled == value).sum().item() for value in (1, 0)] == [128, 128]
    assert (sampled[sampled >= 0] == labels[sampled >= 0]).all()
    labels[3:300] = -1
    sampled = stepwise.sample_anchors(labels, 0)
    assert [(sampled == value).sum().item() for value in (1, 0)] == [3, 253]


def test_labels_and_sampling_of_proposals():
    truth, classes = torch.tensor([[0, 0, 10, 10], [50, 50, 60, 60.0]]), torch.tensor([4, 9])
    proposals = torch.tensor([[0, 0, 10, 6.9], [0, 0, 10, 7], [50, 50, 60, 60], [90, 90, 99, 99.0]])
    labels, matches = stepwise.label_proposals(proposals, truth, classes)
    assert labels.tolist() == [0, 4, 9, 0]
    assert matches.tolist() == [-1, 0, 1, -1]
    assert stepwise.label_proposals(proposals, truth, classes, positive_iou=0.5)[0].tolist() == [4, 4, 9, 0]
    many = labels.repeat(100)
    index = stepwise.sample_proposals(many, 0)
    assert len(index.unique()) == 128
    assert (many[index[:64]] > 0).all()
    assert not many[index[64:]].any()


def test_proposals_step_by_step():
    boxes = torch.tensor([[0, 0, 40, 40], [0, 0, 16, 15.9], [1, 0, 41, 40], [100, 0, 116, 16], [200, 0, 260, 60.0]])
    scores = torch.tensor([0.5, 0.9, 0.6, 0.2, 0.1])
    boxes, scores = stepwise.drop_small(boxes, scores)
    torch.testing.assert_close(scores, torch.tensor([0.5, 0.6, 0.2, 0.1]))
    boxes, scores = stepwise.keep_best(boxes, scores, count=3)
    torch.testing.assert_close(scores, torch.tensor([0.6, 0.5, 0.2]))
    kept, scores = stepwise.suppress(boxes, scores)
    torch.testing.assert_close(scores, torch.tensor([0.6, 0.2]))
    assert kept.tolist() == [[1, 0, 41, 40], [100, 0, 116, 16]]
    assert len(stepwise.suppress(boxes, torch.tensor([0.6, 0.5, 0.2]), count=1)[0]) == 1


def test_pooling_is_max_over_the_part_cut_out():
    """Also equal to roi_pool with scale 1 of the truncated boxes; the second box ends at the edge of the image."""
    features = torch.randn(1, 5, 50, 50)
    rois = torch.tensor([[37.9, 15.9, 400, 333], [3, 600, 800, 800], [100, 100, 116, 116], [0, 0, 800, 800.0]])
    pooled = stepwise.pool_rois(features, rois)
    for roi, result in zip(rois, pooled, strict=True):
        x1, y1, x2, y2 = (min(int(value / 16), 49) for value in roi.tolist())
        part = features[:, :, y1 : y2 + 1, x1 : x2 + 1]
        assert torch.equal(result, F.adaptive_max_pool2d(part, 7)[0])
    whole = truncate(rois / 16, (50, 50))
    assert whole.tolist() == [[2, 0, 25, 20], [0, 37, 49, 49], [6, 6, 7, 7], [0, 0, 49, 49]]
    batched = torch.cat([torch.zeros(4, 1), whole], dim=1)
    assert torch.equal(pooled, roi_pool(features, batched, 7, 1.0))


def test_truncated_is_not_rounded():
    features = torch.arange(50.0).expand(1, 1, 50, 50)
    box = torch.tensor([[15.0, 0, 127, 127]])  # 0.94 and 7.94 locations
    assert stepwise.pool_rois(features, box)[0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    rounded = RoIPooler("pool", 7, spatial_scale=1 / 16)(features, box, torch.zeros(1), FULL)
    assert rounded[0, 0, 0, -1] == 8


def test_losses_by_hand():
    """λ = 10 times ½·0.5² of the only positive, and the mean of −log ½ over two samples."""
    logits = torch.zeros(3, 2)
    deltas = torch.tensor([[0.5, 0, 0, 0], [9, 9, 9, 9], [9, 9, 9, 9.0]])
    labels = torch.tensor([1, 0, -1])
    classification, box = stepwise.rpn_loss(logits, deltas, labels, torch.zeros(3, 4))
    assert classification.item() == pytest.approx(0.693147)
    assert box.item() == pytest.approx(1.25)
    columns = torch.cat([torch.full((3, 4), 7.0), deltas], dim=1)  # background's, then class 1's
    assert [loss.item() for loss in stepwise.roi_loss(logits, columns, labels, torch.zeros(3, 4))] == pytest.approx(
        [0.693147, 1.25]
    )


def run_training_stages(model, picture, target, generator):
    """All stages of a training step, with the arguments of ``model``."""
    seed = image_seeds(1, generator)[0]
    a = model.arguments
    batch = stepwise.prepare_image(picture, target, size=a["image_size"], mean=a["image_mean"], std=a["image_std"])
    boxes, classes = batch.targets[0]["boxes"], batch.targets[0]["labels"]
    features = stepwise.extract_features(model, batch.images)
    anchors = stepwise.make_anchors(features.shape[2:], sizes=a["anchor_sizes"])
    labels, matches = stepwise.label_anchors(anchors, boxes, batch.sizes[0])
    sampled = stepwise.sample_anchors(labels, seed, count=a["rpn_samples"])
    targets = stepwise.encode_anchors(anchors, boxes, sampled, matches)
    logits, deltas = stepwise.score_anchors(model, features)
    objectness, rpn_box = stepwise.rpn_loss(logits, deltas, sampled, targets)

    proposals, scores = stepwise.decode_proposals(anchors, logits, deltas, batch.sizes[0])
    proposals, scores = stepwise.drop_small(proposals, scores, min_size=a["rpn_min_size"])
    proposals, scores = stepwise.keep_best(proposals, scores, count=a["rpn_pre_nms_top_n"][0])
    proposals, scores = stepwise.suppress(proposals, scores, count=a["rpn_post_nms_top_n"][0])
    if a["roi_add_ground_truth"]:
        proposals = torch.cat([proposals, boxes])
    labels, matches = stepwise.label_proposals(proposals, boxes, classes, positive_iou=a["roi_positive_iou"])
    index = stepwise.sample_proposals(labels, seed, count=a["roi_samples"])
    rois, labels = proposals[index], labels[index]
    targets = stepwise.encode_rois(rois, boxes, labels, matches[index])
    logits, deltas = stepwise.classify_rois(model, stepwise.pool_rois(features, rois))
    classifier, roi_box = stepwise.roi_loss(logits, deltas, labels, targets)
    return {
        "loss_objectness": objectness,
        "loss_rpn_box_reg": rpn_box,
        "loss_classifier": classifier,
        "loss_box_reg": roi_box,
    }


@pytest.mark.parametrize("overrides", [{}, {"roi_add_ground_truth": False, "roi_positive_iou": 0.3}])
def test_stages_are_the_losses(overrides):
    """With the same seed, gradients included, to the rounding of an exponential; other samples with another seed."""
    model = tiny(**overrides)
    ours = run_training_stages(model, image(), TARGET, torch.Generator().manual_seed(7))
    sum(ours.values()).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    theirs = model.losses([image()], [TARGET], torch.Generator().manual_seed(7))
    sum(theirs.values()).backward()
    assert ours.keys() == theirs.keys()
    for name, loss in ours.items():
        torch.testing.assert_close(loss, theirs[name], rtol=1e-5, atol=1e-6)
        assert loss > 0
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)
    assert run_training_stages(model, image(), TARGET, torch.Generator().manual_seed(8)) != ours


def test_stages_are_the_detections():
    model = tiny().eval()
    a = model.arguments
    batch = stepwise.prepare_image(image(), size=a["image_size"], mean=a["image_mean"], std=a["image_std"])
    with torch.no_grad():
        features = stepwise.extract_features(model, batch.images)
        anchors = stepwise.make_anchors(features.shape[2:], sizes=a["anchor_sizes"])
        proposals, scores = stepwise.decode_proposals(anchors, *stepwise.score_anchors(model, features), batch.sizes[0])
        proposals, scores = stepwise.drop_small(proposals, scores, min_size=a["rpn_min_size"])
        proposals, scores = stepwise.keep_best(proposals, scores, count=a["rpn_pre_nms_top_n"][1])
        proposals, scores = stepwise.suppress(proposals, scores, count=a["rpn_post_nms_top_n"][1])
        # All slots in use, so that matrices have as many rows as in the detector: rounding depends on that.
        assert len(proposals) == a["rpn_post_nms_top_n"][1]
        logits, deltas = stepwise.classify_rois(model, stepwise.pool_rois(features, proposals))
    found = stepwise.to_original(stepwise.make_detections(logits, deltas, proposals, batch.sizes[0]), batch)
    (expected,) = model.detect([image()])
    assert len(found) > 0
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-5, atol=1e-4)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-6)


def test_best_anchors_of_a_truth_are_positive_however_low():
    anchors = stepwise.make_anchors((50, 50))
    truth = torch.tensor([[300.0, 300, 340, 330]])  # far smaller than any anchor
    labels, matches = stepwise.label_anchors(anchors, truth, FULL)
    positive = labels == 1
    iou = box_iou(anchors, truth)[:, 0]
    inside = stepwise.anchors_inside(anchors, FULL)
    assert positive.sum() > 0
    assert iou[positive].max() < 0.3
    assert (iou[positive] == iou[inside].max()).all()
    assert (matches[positive] == 0).all()
    assert (labels[~inside] == -1).all()
