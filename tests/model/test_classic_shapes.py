"""Shapes, counts, names and initialisation of the classic systems, full size on the meta device (no arithmetic)."""

from __future__ import annotations

import pytest
import torch

import fasterrcnn
from fasterrcnn.backbone import VGG16, ResNet50

CLASSES = 20
# name, channels of the features, their size for 600 × 600 and 224 × 224, pooled side, RoI features
SYSTEMS = {
    "classic_vgg16": (512, (37, 37), (14, 14), 7, 4096),
    "classic_resnet50": (1024, (38, 38), (14, 14), 14, 2048),
}


def on_meta(name: str, **overrides) -> fasterrcnn.FasterRCNN:
    with torch.device("meta"):
        return fasterrcnn.build(name, num_classes=CLASSES, **overrides)


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request):
    return request.param, on_meta(request.param)


def test_feature_shapes(system):
    name, model = system
    channels, at_600, at_224, _, _ = SYSTEMS[name]
    for side, expected in ((600, at_600), (224, at_224)):
        features = model(torch.empty(2, 3, side, side, device="meta"), mode="extractor")
        assert features.shape == (2, channels, *expected)
    assert (model.backbone.out_channels, model.backbone.stride) == (channels, 16)


@pytest.mark.parametrize(("mode", "count"), [("training", 600), ("predict", 300)])
@pytest.mark.parametrize("name", SYSTEMS)
def test_forward_shapes(name, mode, count):
    model = on_meta(name, mode=mode)
    assert model.training == (mode == "training")
    locs, scores, rois, indices = model(torch.empty(2, 3, 600, 600, device="meta"))
    assert locs.shape == (2, count, 4 * (CLASSES + 1))
    assert scores.shape == (2, count, CLASSES + 1)
    assert rois.shape == (2, count, 4)
    assert indices.shape == (2, count)


def test_rpn_and_head_shapes(system):
    _, model = system
    features = model(torch.empty(1, 3, 600, 600, device="meta"), mode="extractor")
    locs, scores, rois, indices, anchor = model((features, (600, 600)), 1.0, "rpn")
    anchors = features.shape[2] * features.shape[3] * 9
    assert locs.shape == (1, anchors, 4)
    assert scores.shape == (1, anchors, 2)
    assert anchor.shape == (1, anchors, 4)
    roi_locs, roi_scores = model((features, rois, indices, (600, 600)), mode="head")
    assert roi_locs.shape == (1, 600, 84)
    assert roi_scores.shape == (1, 600, 21)


def test_roi_stage(system):
    name, model = system
    channels, _, _, side, features = SYSTEMS[name]
    assert model.head.pooler.size == side
    assert model.head.classifier(torch.empty(5, channels, side, side, device="meta")).shape == (5, features)


@pytest.mark.parametrize(("feature_size", "count"), [((38, 38), 12_996), ((38, 50), 17_100)])
def test_anchor_counts(feature_size, count):
    model = fasterrcnn.FasterRCNN(1, backbone="tiny")
    assert model.rpn.anchors(feature_size).shape == (count, 4)


def test_state_dict_names(system):
    _, model = system
    names = list(model.state_dict())
    assert {n.split(".")[0] for n in names} == {"extractor", "rpn", "head"}
    assert {n.split(".")[1] for n in names if n.startswith("rpn.")} == {"conv1", "score", "loc"}
    assert {n.split(".")[1] for n in names if n.startswith("head.")} == {"classifier", "cls_loc", "score"}
    # Every parameter is stored once, under the family's name and not under that of all systems.
    assert len({p.data_ptr() if not p.is_meta else id(p) for p in model.parameters()}) == len(list(model.parameters()))
    assert model.backbone is model.extractor
    assert model.roi_heads is model.head


def test_names_of_published_checkpoints():
    vgg = on_meta("classic_vgg16").state_dict()
    assert vgg["extractor.28.weight"].shape == (512, 512, 3, 3)
    assert vgg["head.classifier.0.weight"].shape == (4096, 25088)
    assert vgg["head.classifier.2.weight"].shape == (4096, 4096)
    resnet = on_meta("classic_resnet50").state_dict()
    assert resnet["extractor.0.weight"].shape == (64, 3, 7, 7)
    assert resnet["extractor.1.running_var"].shape == (64,)
    assert resnet["extractor.4.0.downsample.1.weight"].shape == (256,)
    assert resnet["extractor.6.5.conv3.weight"].shape == (1024, 256, 1, 1)
    assert resnet["head.classifier.0.2.conv3.weight"].shape == (2048, 512, 1, 1)


def test_parameter_counts():
    """VGG-16 without fc8 has 134,260,544 parameters; ResNet-50 without its last layer 23,508,032."""
    vgg, resnet = on_meta("classic_vgg16"), on_meta("classic_resnet50")

    def trunk(model):
        return sum(p.numel() for n, p in model.named_parameters() if n.startswith(("extractor.", "head.classifier.")))

    assert trunk(vgg) == 134_260_544
    assert trunk(resnet) == 23_508_032
    # 3×3 512→512, 1×1 512→18, 1×1 512→36, each with biases
    assert sum(p.numel() for p in vgg.rpn.parameters()) == 2_359_808 + 9_234 + 18_468


def test_vgg_is_the_first_thirty_layers():
    with torch.device("meta"):
        vgg = VGG16()
    assert len(vgg) == 30
    assert isinstance(vgg[29], torch.nn.ReLU)


def test_resnet_variants():
    with torch.device("meta"):
        classic, later = ResNet50(), ResNet50(stride_on_1x1=False, stem_pool_padding=1)
    assert classic[5][0].conv1.stride == (2, 2)
    assert classic[5][0].conv2.stride == (1, 1)
    assert later[5][0].conv1.stride == (1, 1)
    assert later[5][0].conv2.stride == (2, 2)
    assert (classic[3].padding, classic[3].ceil_mode) == (0, True)
    assert (later[3].padding, later[3].ceil_mode) == (1, False)
    assert later(torch.empty(1, 3, 600, 800, device="meta")).shape == (1, 1024, 38, 50)


@pytest.mark.parametrize(
    ("layer", "std"),
    [("rpn.conv1", 0.01), ("rpn.score", 0.01), ("rpn.loc", 0.01), ("head.cls_loc", 0.001), ("head.score", 0.01)],
)
def test_initialisation(layer, std):
    module = fasterrcnn.FasterRCNN(CLASSES, backbone="tiny", rpn_channels=512).get_submodule(layer)
    weight = module.weight.detach()
    error = 4 / weight.numel() ** 0.5  # four standard errors
    assert abs(float(weight.mean())) < error * std
    assert abs(float(weight.std()) / std - 1) < error
    assert torch.equal(module.bias, torch.zeros_like(module.bias))


@pytest.mark.xdist_group("memory")
@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_full_size_forward(name):
    """Real numbers at full size: finite, in the image, and 300 detections at most."""
    model = fasterrcnn.build(name, num_classes=CLASSES, mode="predict")
    with torch.no_grad():
        locs, scores, rois, _ = model(torch.rand(1, 3, 600, 600))
    assert locs.isfinite().all()
    assert scores.isfinite().all()
    assert rois.min() >= 0
    assert rois.max() <= 600
    (found,) = model.detect([torch.rand(3, 300, 400)], score_threshold=0.0)
    assert 0 < len(found) <= 100
    assert (found.boxes[:, 2] <= 400).all()
    assert (found.boxes[:, 3] <= 300).all()


@pytest.mark.parametrize("classes", [1, 20])
def test_tiny_is_tiny(classes):
    for model in (
        fasterrcnn.build("classic_vgg16", num_classes=classes, backbone="tiny"),
        fasterrcnn.FasterRCNN(classes, backbone="tiny"),
    ):
        assert sum(p.numel() for p in model.parameters()) < 1_500_000
        assert model.backbone.stride == 16
        assert model(torch.rand(1, 3, 100, 130), mode="extractor").shape == (1, 160, 7, 9)
