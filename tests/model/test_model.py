"""The detector as a whole: the form all systems share, the family's own, modes and errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fasterrcnn
from fasterrcnn.backbone import RoIStage
from fasterrcnn.roi import RoIPooler
from fasterrcnn.types import Detections
from fasterrcnn_ops import box_iou

TARGETS = [
    {"boxes": torch.tensor([[5.0, 5, 60, 50]]), "labels": torch.tensor([2])},
    {"boxes": torch.tensor([[10.0, 20, 60, 70], [40, 5, 90, 60]]), "labels": torch.tensor([1, 2])},
]
LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 64, 80, generator=generator), torch.rand(3, 90, 100, generator=generator)]


def make(**overrides) -> fasterrcnn.FasterRCNN:
    torch.manual_seed(0)
    return fasterrcnn.build("classic_vgg16", num_classes=2, backbone="tiny", **{"min_size": 64, **overrides})


def test_training_form():
    model = make()
    losses = model(images(), TARGETS)
    assert set(losses) == LOSSES
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_targets_by_name_and_by_place():
    by_place, by_name = make()(images(), TARGETS), make()(images(), targets=TARGETS)
    assert by_place == by_name


@pytest.mark.parametrize("arguments", [(), (None,)])
def test_training_without_targets(arguments):
    with pytest.raises(ValueError, match="in training mode targets are needed"):
        make()(images(), *arguments)


def test_bad_target_says_which():
    with pytest.raises(ValueError, match="labels of target 1 must be in 1…2, got 3…3"):
        make()(images(), [TARGETS[0], {"boxes": TARGETS[0]["boxes"], "labels": torch.tensor([3])}])


def test_losses_are_seeded():
    first, again = make(), make()
    assert first(images(), TARGETS) == again(images(), TARGETS)
    # The next call draws other samples, and a generator of one's own repeats them.
    seeded = [first.losses(images(), TARGETS, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert seeded[0] == seeded[1]
    assert first.losses(images(), TARGETS, torch.Generator().manual_seed(5)) != seeded[0]


def test_detection_form():
    model = make().eval()
    found = model(images())
    assert [type(d) for d in found] == [Detections] * 2
    for detections, image in zip(found, images(), strict=True):
        assert detections.boxes.dtype == torch.float32
        assert detections.labels.dtype == torch.int64
        assert len(detections) == len(detections.labels) == len(detections.scores)
        assert not detections.scores.requires_grad
        height, width = image.shape[1:]
        assert (detections.boxes >= 0).all()
        assert (detections.boxes <= torch.tensor([width, height, width, height])).all()


def test_detections_keep_the_rules():
    (found, _) = make().detect(images(), score_threshold=0.0, nms_threshold=0.3, max_detections=40)
    assert 0 < len(found) <= 40
    assert (found.scores.diff() <= 0).all()
    assert set(found.labels.tolist()) <= {1, 2}
    for label in (1, 2):
        boxes = found.boxes[found.labels == label]
        assert box_iou(boxes, boxes).fill_diagonal_(0).max() <= 0.3 + 1e-4  # scaled to the original since


def test_images_do_not_influence_each_other():
    """One at a time or in a batch with a larger one, whose padding is the only difference."""
    model = make(min_size=None, max_size=None).eval()
    alike = [torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    together = model.detect(alike)
    for image, expected in zip(alike, together, strict=True):
        (alone,) = model.detect([image])
        torch.testing.assert_close(alone.boxes, expected.boxes, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(alone.scores, expected.scores, rtol=1e-3, atol=1e-4)


def test_coordinates_are_those_of_the_stored_image():
    """Shrunk by two, an image that was enlarged by two is itself again: the same detections, twice as far apart."""
    model = make(min_size=64, max_size=None).eval()
    small = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 6), (64, 96), mode="bilinear")
    large = torch.nn.functional.interpolate(small, (128, 192), mode="nearest")
    (found,), (twice,) = model.detect([small[0]], score_threshold=0), model.detect([large[0]], score_threshold=0)
    assert len(found) > 0
    iou = box_iou(found.boxes[:5] * 2, twice.boxes)
    assert iou.max(dim=1).values.min() > 0.9


def test_detect_leaves_modes_alone():
    model = fasterrcnn.FasterRCNN(2, backbone=Normed(), min_size=64)
    model.freeze_bn()
    modes = [module.training for module in model.modules()]
    model.detect(images())
    assert [module.training for module in model.modules()] == modes
    assert model.training


def test_no_images():
    assert make().detect([]) == []
    assert make().eval()([]) == []
    with pytest.raises(ValueError, match="at least one image"):
        make()([], [])


def test_family_stages_are_the_forward():
    """Calling extractor, rpn and head one after another gives what forward gives."""
    model = make(mode="predict")
    batch = torch.rand(2, 3, 80, 112)
    with torch.no_grad():
        expected = model(batch, 1.0)
        features = model(batch, mode="extractor")
        rpn_locs, rpn_scores, rois, roi_indices, anchor = model((features, (80, 112)), mode="rpn")
        locs, scores = model((features, rois, roi_indices, (80, 112)), mode="head")
    for ours, theirs in zip((locs, scores, rois, roi_indices), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert rpn_locs.shape[1] == rpn_scores.shape[1] == anchor.shape[1] == 5 * 7 * 12
    assert roi_indices[1].unique().tolist() == [1]


def test_family_forward_is_differentiable_and_repeats():
    model = make()
    batch = torch.rand(1, 3, 64, 64)
    locs, scores, rois, _ = model(batch)
    assert torch.equal(rois, model(batch)[2])
    assert not rois.requires_grad
    (locs.sum() + scores.sum()).backward()
    assert model.extractor[0][0].weight.grad.abs().sum() > 0


def test_unknown_mode_of_a_call():
    with pytest.raises(ValueError, match="'forward', 'extractor', 'rpn' or 'head', got 'roi'"):
        make()(torch.rand(1, 3, 64, 64), 1.0, "roi")


def test_parameters_are_stored_once():
    model = make()
    names = set(model.state_dict())
    assert {name.split(".")[0] for name in names} == {"extractor", "rpn", "head"}
    assert len({p.data_ptr() for p in model.parameters()}) == len(list(model.parameters()))


class Normed(nn.Module):
    """A backbone of one's own, with batch norm."""

    out_channels, stride, rpn_channels = 24, 16, 16

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 16, stride=16)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, batch):
        return self.norm(self.conv(batch)).relu()

    def roi_stage(self):
        return RoIStage(3, nn.Sequential(nn.Conv2d(24, 8, 3), nn.BatchNorm2d(8), nn.Flatten()), 8)


@pytest.mark.parametrize("name", ["classic_vgg16", "classic_resnet50"])
def test_a_backbone_of_ones_own(name):
    model = fasterrcnn.build(name, num_classes=2, backbone=Normed(), min_size=64, anchor_scales=(2, 4))
    assert set(model(images(), TARGETS)) == LOSSES
    assert model.rpn.conv1.out_channels == 16
    assert model.head.pooler.size == 3
    assert model.head.score.in_features == 8
    assert model.system == name
    assert len(model.detect(images())) == 2


def test_freeze_bn():
    model = fasterrcnn.FasterRCNN(2, backbone=Normed(), min_size=64)
    before = model.extractor.norm.running_mean.clone()
    model.freeze_bn()
    assert not model.extractor.norm.training
    assert not model.head.classifier[1].training
    assert model.training
    assert model.extractor.conv.training
    model(images(), TARGETS)
    assert torch.equal(model.extractor.norm.running_mean, before)
    model.train()
    model(images(), TARGETS)
    assert not torch.equal(model.extractor.norm.running_mean, before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1"),
        ({"mode": "test"}, ValueError, "'training' or 'predict', got 'test'"),
        ({"backbone": "alexnet"}, ValueError, "unknown backbone 'alexnet'; known: vgg, resnet50, tiny"),
        ({"backbone": nn.Identity()}, TypeError, "Identity is no backbone: it lacks out_channels, stride, roi_stage"),
        ({"feat_stride": 8}, ValueError, "feat_stride is 8, but the backbone's stride is 16"),
        ({"roi_pooling": "crop"}, ValueError, "'pool', 'align' or 'truncated', got 'crop'"),
        ({"pretrained": True, "weights": "x.pth"}, ValueError, "not both"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        fasterrcnn.FasterRCNN(**{"num_classes": 2, "backbone": "tiny", **arguments})


def test_images_of_any_floating_dtype_are_computed_in_float32():
    model = make().eval()
    image = images()[0]
    expected = model.detect([image])[0]
    found = model.detect([image.double()])[0]
    assert torch.equal(found.boxes, expected.boxes)
    assert model.detect([image.half()])[0].boxes.dtype == torch.float32


def test_unusable_calls():
    model = make()
    with pytest.raises(ValueError, match="max_detections must not be negative, got -1"):
        model.detect(images(), max_detections=-1)
    with pytest.raises(ValueError, match=r"takes images \[N, 3, H, W\], or a list of \[3, H, W\], got \[3, 64, 64\]"):
        model(torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match="got tuple"):
        model((torch.zeros(1, 3, 64, 64),))


def test_unknown_system():
    with pytest.raises(ValueError, match="unknown system 'yolo'; known: classic_vgg16, classic_resnet50"):
        fasterrcnn.build("yolo", num_classes=1)


def test_default_rules_of_the_family():
    with torch.device("meta"):
        model = fasterrcnn.FasterRCNN(20)
    assert (model.anchor_targets.matcher.positive_iou, model.anchor_targets.matcher.negative_iou) == (0.7, 0.3)
    assert model.anchor_targets.matcher.best_of_each
    assert model.anchor_targets.border == "keep"
    assert (model.anchor_targets.sampler.num_samples, model.anchor_targets.sampler.positive_fraction) == (256, 0.5)
    assert (model.proposal_targets.matcher.positive_iou, model.proposal_targets.matcher.negative_iou) == (0.5, 0.5)
    assert (model.proposal_targets.sampler.num_samples, model.proposal_targets.sampler.positive_fraction) == (128, 0.5)
    assert model.proposal_targets.coder.weights == model.detection_layer.coder.weights == (10, 10, 5, 5)
    assert model.rpn.proposal_layer.coder.weights == (1, 1, 1, 1)
    assert model.detection_layer.nms_threshold == 0.3
    assert (model.batcher.min_size, model.batcher.max_size) == (600, None)
    assert model.head.pooler.kind == "pool"
    assert (model.rpn_loss.beta, model.rpn_loss.box_weight, model.rpn_loss.normalizer) == (1.0, 1.0, "sampled")


def test_pooling_scales_boxes_to_the_map():
    """13 pixels per location, not 16: on ramps the box over locations 2…8 and 3…9 pools exactly these numbers."""
    features = torch.stack([torch.arange(13.0).expand(12, 13), torch.arange(12.0)[:, None].expand(12, 13)])[None]
    size, box = (156, 169), torch.tensor([[26.0, 39, 104, 117]])
    pooled = RoIPooler("pool", 7)(features, box, torch.zeros(1), size)[0]
    torch.testing.assert_close(pooled[0], torch.arange(2.0, 9).expand(7, 7))
    torch.testing.assert_close(pooled[1], torch.arange(3.0, 10)[:, None].expand(7, 7))
    # RoIAlign averages over cells of 6/7 locations, whose centres are half a location to the left of pixel centres.
    centres = (torch.arange(7) + 0.5) * 6 / 7 - 0.5
    aligned = RoIPooler("align", 7)(features, box, torch.zeros(1), size)[0]
    torch.testing.assert_close(aligned[0], (2 + centres).expand(7, 7))
    torch.testing.assert_close(aligned[1], (3 + centres)[:, None].expand(7, 7))


def test_pooling_at_a_fixed_scale():
    """Later families pool at 1/16 whatever the size of the map."""
    features = torch.arange(13.0).expand(1, 1, 12, 13)
    pooled = RoIPooler("pool", 7, spatial_scale=1 / 16)(
        features, torch.tensor([[32.0, 0, 128, 96]]), torch.zeros(1), (156, 169)
    )
    torch.testing.assert_close(pooled[0, 0, 0], torch.arange(2.0, 9))


@pytest.mark.parametrize(("mode", "count"), [("training", 30), ("predict", 20)])
def test_proposal_count_of_the_family_goes_by_the_constructor(mode, count):
    model = make(mode=mode, rpn_post_nms_top_n=(30, 20))
    for training in (True, False):
        model.train(training)
        assert model(torch.rand(1, 3, 64, 64))[2].shape == (1, count, 4)


def test_anchors_of_the_family():
    """Transposed, scales inside ratios: the first is 90.5 wide and 181 high, the other way round than usual."""
    with torch.device("meta"):
        model = fasterrcnn.FasterRCNN(20)
    anchors = model.rpn.anchors.cell_anchors
    half = 64 * 2**0.5
    expected = [[-half / 2, -half, half / 2, half], [-half, -2 * half, half, 2 * half]]
    torch.testing.assert_close(anchors[:2], torch.tensor(expected))
    torch.testing.assert_close(anchors[3:6, 2], torch.tensor([64.0, 128, 256]))
