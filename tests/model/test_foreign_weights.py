"""Files laid out as other projects lay theirs out, loaded and compared with detectors filled in by hand.

Detectors are ResNet-50s with a narrow RPN: the trunk is what names are about.
"""

from __future__ import annotations

import pickle

import pytest
import torch
from foreign_layouts import (
    CLASSES,
    NARROW,
    background_first,
    c4_file,
    detectron2_file,
    detectron_file,
    torchvision_resnet,
)

import fasterrcnn
from fasterrcnn import checkpoints
from fasterrcnn.weights import DETECTRON2
from fasterrcnn.weights.families import convert

SMALL = {"min_size": 64, "max_size": 128, "rpn_post_nms_top_n": (8, 8), "score_threshold": 0.0, "rpn_channels": NARROW}


def detector(name="resnet50_c4", **overrides):
    return fasterrcnn.build(name, num_classes=CLASSES, **{**SMALL, **overrides})


def by_hand(model, trunk, rest, order=None):
    """Fills in a C4 detector, layer by layer; ``order`` says where in the file each of its RPN's anchors is."""
    body, branch = model.backbone.body, model.roi_heads.box
    stages = {2: body.layer1, 3: body.layer2, 4: body.layer3, 5: branch.feature_extractor.head.layer4}
    with torch.no_grad():
        for (stage, block, layer, part), numbers in trunk.items():
            if stage == 1:
                conv, norm = body.stem.conv1, body.stem.bn1
            elif layer == 0:
                conv, norm = stages[stage][block].downsample
            else:
                conv = getattr(stages[stage][block], f"conv{layer}")
                norm = getattr(stages[stage][block], f"bn{layer}")
            (conv.weight if part == "conv" else getattr(norm, part)).copy_(numbers)
        for part in ("weight", "bias"):
            getattr(model.rpn.head.conv, part).copy_(rest["conv", part])
            logits, deltas = rest["logits", part], rest["deltas", part]
            for anchor in range(len(logits)):
                source = anchor if order is None else order[anchor]
                getattr(model.rpn.head.cls_logits, part)[anchor] = logits[source]
                for number in range(4):
                    getattr(model.rpn.head.bbox_pred, part)[4 * anchor + number] = deltas[4 * source + number]
            getattr(branch.predictor.cls_score, part).copy_(rest["score", part])
            getattr(branch.predictor.bbox_pred, part).copy_(rest["loc", part])
    return model


def folded(model):
    """Norms that are their factor and their shift."""
    for norm in [m for m in model.modules() if hasattr(m, "running_var")]:
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - 1e-5)
    return model


def assert_same(loaded, expected):
    for name, tensor in expected.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(loaded.state_dict()[name], tensor), name
    image = torch.rand(3, 70, 90)
    (found,), (wanted,) = loaded.detect([image]), expected.detect([image])
    assert len(wanted) > 0
    assert torch.equal(found.boxes, wanted.boxes)
    assert torch.equal(found.scores, wanted.scores)
    assert torch.equal(found.labels, wanted.labels)


# maskrcnn-benchmark.


def test_maskrcnn_benchmark(tmp_path):
    file, trunk, rest = c4_file()
    torch.save(file, tmp_path / "model_final.pth")
    model = detector()
    report = checkpoints.load(model, tmp_path / "model_final.pth")
    assert report.family == "maskrcnn-benchmark"
    assert report.kept == ()
    assert report.left == ("rpn.anchor_generator.cell_anchors.0",)
    assert len(report.loaded) == len(trunk) + len(rest)
    assert "the state dict is under 'model'" in report.notes
    assert_same(model, by_hand(detector(), trunk, rest))


def test_fifteen_anchors_and_other_classes_are_explained(tmp_path):
    file, _, _ = c4_file(15)
    file["model"]["module.surplus"] = torch.zeros(1)
    del file["model"]["module.backbone.body.stem.conv1.weight"]
    torch.save(file, tmp_path / "a.pth")
    model = fasterrcnn.build("resnet50_c4", num_classes=7, **SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"the tensors of \S+a\.pth are not this model's") as error:
        checkpoints.load(model, tmp_path / "a.pth")
    for part in (
        "1 missing (backbone.body.stem.conv1.weight)",
        "1 unknown (surplus)",
        "8 misshapen (rpn.head.cls_logits.weight [15, 8, 1, 1] instead of [9, 8, 1, 1]",
        "roi_heads.box.predictor.bbox_pred.bias [16] instead of [32]",
        "the file is for 3 classes besides background, the detector has 7",
        "the file is for 15 anchors a location, the detector has 9",
    ):
        assert part in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# detectron2.


@pytest.mark.parametrize("suffix", [pytest.param("pth", marks=pytest.mark.slow), "pkl"])
def test_detectron2(tmp_path, suffix):
    tensors, trunk, rest = detectron2_file(15, CLASSES)
    if suffix == "pth":
        torch.save({"model": tensors, "optimizer": {}, "iteration": 1}, tmp_path / "model_final.pth")
    else:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        contents = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
        (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(contents))
    model = detector(**DETECTRON2)
    report = checkpoints.load(model, tmp_path / f"model_final.{suffix}")
    assert report.family == "detectron2"
    assert set(report.left) == {"pixel_mean", "pixel_std", "proposal_generator.anchor_generator.cell_anchors.0"}
    assert not [note for note in report.notes if "differs" in note or "trained on" in note]
    # Its own order of anchors, sizes outside, is that of the rule "centered".
    assert_same(model, by_hand(detector(**DETECTRON2), trunk, background_first(rest)))


def test_detectron2_in_the_other_convention(tmp_path):
    """Anchors by ratio first; a norm that is a factor and a shift; background without boxes in the detector as well."""
    tensors, trunk, rest = detectron2_file(9, CLASSES, ("weight", "bias"))
    torch.save(tensors, tmp_path / "a.pth")
    model = detector(background_boxes=False)
    report = checkpoints.load(model, tmp_path / "a.pth")
    assert any("53 norms are a factor and a shift" in note for note in report.notes)
    assert any("differs from detectron2's in anchor_rule, inclusive" in note for note in report.notes)
    rest = {**background_first(rest), **{("loc", part): rest["loc", part] for part in ("weight", "bias")}}
    expected = folded(by_hand(detector(background_boxes=False), trunk, rest, order=[0, 3, 6, 1, 4, 7, 2, 5, 8]))
    assert_same(model, expected)
    # Each anchor says what the nearest of detectron2's own says.
    own = detector(**{**DETECTRON2, "anchor_sizes": (128, 256, 512)}, background_boxes=False)
    checkpoints.load(own, tmp_path / "a.pth")
    shapes = [m.rpn.anchors.cell_anchors[:, 2:] - m.rpn.anchors.cell_anchors[:, :2] for m in (model, own)]
    nearest = torch.cdist(*shapes).argmin(1)
    assert nearest.sort().values.tolist() == list(range(9))
    assert torch.equal(model.rpn.head.cls_logits.bias, own.rpn.head.cls_logits.bias[nearest])
    # A norm of factor and shift: exactly so in the detector.
    norm, x = model.backbone.body.stem.bn1, torch.rand(1, 64, 2, 2)
    plain = x * trunk[1, 0, 0, "weight"][:, None, None] + trunk[1, 0, 0, "bias"][:, None, None]
    torch.testing.assert_close(norm(x), plain)


def test_mask_and_pyramid(tmp_path):
    tensors, _, _ = detectron2_file(15, CLASSES)
    tensors["roi_heads.mask_head.deconv.weight"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "mask.pth")
    report = checkpoints.load(detector(**DETECTRON2), tmp_path / "mask.pth")
    assert "roi_heads.mask_head.deconv.weight" in report.left
    tensors["backbone.fpn_lateral2.weight"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "pyramid.pth")
    with pytest.raises(ValueError, match=r"1 unknown \(backbone\.fpn_lateral2\.weight\)"):
        checkpoints.load(detector(**DETECTRON2), tmp_path / "pyramid.pth")


# Detectron, Caffe2's names.


@pytest.mark.parametrize("whole", [True, False])
def test_detectron(tmp_path, whole):
    contents, trunk, rest = detectron_file(whole)
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(contents))
    model, expected = detector(), detector()
    report = checkpoints.load(model, tmp_path / "R-50.pkl")
    assert report.family == "Detectron"
    assert "conv1_b" in report.left
    assert bool(report.kept) is not whole
    if not whole:
        assert {name.split(".")[0] for name in report.kept} == {"rpn", "roi_heads"}
        assert not [name for name in report.kept if "layer4" in name]
        rest = {("conv", p): getattr(model.rpn.head.conv, p).clone() for p in ("weight", "bias")}
        rest |= {("logits", p): getattr(model.rpn.head.cls_logits, p).clone() for p in ("weight", "bias")}
        rest |= {("deltas", p): getattr(model.rpn.head.bbox_pred, p).clone() for p in ("weight", "bias")}
        predictor = model.roi_heads.box.predictor
        rest |= {("score", p): getattr(predictor.cls_score, p).clone() for p in ("weight", "bias")}
        rest |= {("loc", p): getattr(predictor.bbox_pred, p).clone() for p in ("weight", "bias")}
    folded(by_hand(expected, trunk, rest))
    expected.backbone.body.stem.bn1.running_mean.copy_(-torch.from_numpy(contents.get("blobs", contents)["conv1_b"]))
    assert_same(model, expected)


# The classic family.


def test_classic_family(tmp_path):
    model = fasterrcnn.build("classic_resnet50", num_classes=CLASSES, rpn_channels=NARROW)
    state = {
        f"module.{name}": tensor + 0.01 for name, tensor in model.state_dict().items() if "num_batches" not in name
    }
    torch.save(state, tmp_path / "voc_weights_resnet.pth")
    report = checkpoints.load(model, tmp_path / "voc_weights_resnet.pth")
    assert (report.kept, report.left) == ((), ())
    assert all(torch.equal(tensor, state.get(f"module.{name}", tensor)) for name, tensor in model.state_dict().items())


def test_classic_family_with_dropout_kept():
    """VGG's second fully connected layer then has the number 3."""
    layers = ("extractor.0", "rpn.conv1", "head.classifier.0", "head.classifier.3", "head.cls_loc", "head.score")
    file = {f"{layer}.{part}": torch.rand(1) for layer in layers for part in ("weight", "bias")}
    found = convert(file, {})
    assert found.family == "the classic PyTorch family"
    assert found.whole.keys() == {name.replace("classifier.3.", "classifier.2.") for name in file}
    assert found.whole["head.classifier.2.weight"] is file["head.classifier.3.weight"]


def test_boxes_by_y_and_x_are_refused(tmp_path):
    model = fasterrcnn.build("classic_vgg16", num_classes=1, backbone="tiny")
    file = {"model": model.state_dict(), "config": {}, "other_info": {}, "vis_info": {}}
    torch.save(file, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth is of the line .* that stores boxes as \(y, x\)"):
        checkpoints.load(model, tmp_path / "a.pth")


# torchvision's trunks.


def stem_output(model, image):
    """Of the first convolution and its norm, away from the border, where padding is another colour."""
    batch = model.batcher([image])
    with torch.no_grad():
        return model.backbone.body.stem[:2](batch.images)[..., 4:-4, 4:-4]


def test_torchvision_resnet_and_colours(tmp_path):
    """The same picture gives the same features whether a detector takes RGB 0–1 or BGR 0–255."""
    torch.save(torchvision_resnet(), tmp_path / "resnet50.pth")
    rgb, bgr = detector("resnet50_c4_sigmoid", min_size=None, max_size=None), detector(min_size=None, max_size=None)
    report = checkpoints.load(rgb, tmp_path / "resnet50.pth")
    assert report.family == "torchvision ResNet-50"
    assert report.left == ("fc.weight", "fc.bias")
    assert torch.equal(rgb.backbone.body.stem.conv1.weight, torchvision_resnet()["conv1.weight"])
    report = checkpoints.load(bgr, tmp_path / "resnet50.pth")
    assert any(note.startswith("first convolution changed from RGB 0–1") for note in report.notes)
    assert any("strides on 3×3 convolutions" in note for note in report.notes)
    image = torch.rand(3, 64, 96)
    torch.testing.assert_close(stem_output(bgr, image), stem_output(rgb, image), rtol=1e-3, atol=1e-3)
    # The other way: Detectron's BGR trunk in the RGB detector.
    contents, _, _ = detectron_file(False)
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(contents))
    checkpoints.load(rgb, tmp_path / "R-50.pkl")
    checkpoints.load(bgr, tmp_path / "R-50.pkl")
    torch.testing.assert_close(stem_output(bgr, image), stem_output(rgb, image), rtol=1e-3, atol=0.05)


def test_a_trunk_in_a_detector_without_one_like_it(tmp_path):
    torch.save(
        {"features.0.weight": torch.zeros(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}, tmp_path / "vgg16.pth"
    )
    model = fasterrcnn.build("classic_vgg16", num_classes=1, backbone="tiny")
    with pytest.raises(ValueError, match=r"vgg16\.pth is a file of torchvision VGG-16, but the backbone tiny has no"):
        checkpoints.load(model, tmp_path / "vgg16.pth")


def test_files_of_nobody(tmp_path):
    torch.save({"a.weight": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth holds no whole detector"):
        checkpoints.load(fasterrcnn.build("classic_vgg16", num_classes=1, backbone="tiny"), tmp_path / "a.pth")


def test_files_of_this_package(tmp_path):
    model = fasterrcnn.build("resnet50_c4", num_classes=2, backbone="tiny")
    checkpoints.save(model, tmp_path / "a.safetensors")
    again = fasterrcnn.build("resnet50_c4", num_classes=2, backbone="tiny")
    report = checkpoints.load(again, tmp_path / "a.safetensors")
    assert report.family == "this package"
    assert str(report).startswith(f"{tmp_path / 'a.safetensors'}: this package, ")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_an_rpn_of_its_own_takes_its_part(tmp_path):
    tensors, trunk, rest = detectron2_file(15, CLASSES)
    torch.save(tensors, tmp_path / "a.pth")
    model = detector(**DETECTRON2, rpn_only=True)
    report = checkpoints.load(model, tmp_path / "a.pth")
    assert {name.split(".")[0] for name in report.left} == {
        "roi_heads",
        "proposal_generator",
        "pixel_mean",
        "pixel_std",
    }
    assert torch.equal(model.rpn.head.cls_logits.bias, rest["logits", "bias"])
    assert torch.equal(model.backbone.body.layer3[5].conv3.weight, trunk[4, 5, 3, "conv"])


def test_without_the_predictors(tmp_path):
    """For other classes than the file's: everything but the last layers."""
    tensors, trunk, _ = detectron2_file(15, CLASSES)
    torch.save(tensors, tmp_path / "a.pth")
    model = fasterrcnn.build("resnet50_c4", num_classes=7, **SMALL, **DETECTRON2)
    before = model.roi_heads.box.predictor.cls_score.weight.clone()
    report = checkpoints.load(model, tmp_path / "a.pth", predictors=False)
    layers = [f"roi_heads.box.predictor.{layer}" for layer in ("cls_score", "bbox_pred")]
    assert report.kept == tuple(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))
    assert {f"roi_heads.box_predictor.bbox_pred.{part}" for part in ("weight", "bias")} < set(report.left)
    assert torch.equal(model.roi_heads.box.predictor.cls_score.weight, before)
    layer4 = model.roi_heads.box.feature_extractor.head.layer4
    assert torch.equal(layer4[2].conv3.weight, trunk[5, 2, 3, "conv"])
