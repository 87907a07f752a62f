"""Files laid out as other projects lay theirs out, loaded and compared with detectors filled in by hand.

Names of the files are written out here, from those projects' code, not taken from the code under test. Detectors are
ResNet-50s with a narrow RPN: the trunk is what names are about.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from functools import cache

import numpy as np
import pytest
import torch

import fasterrcnn
from fasterrcnn import checkpoints
from fasterrcnn.weights import DETECTRON2
from fasterrcnn.weights.families import convert

CLASSES, NARROW = 3, 8
SMALL = {"min_size": 64, "max_size": 128, "rpn_post_nms_top_n": (8, 8), "score_threshold": 0.0, "rpn_channels": NARROW}
BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}
NORM = ("weight", "bias", "running_mean", "running_var")


def detector(name="resnet50_c4", **overrides):
    return fasterrcnn.build(name, num_classes=CLASSES, **{**SMALL, **overrides})


def draw(shape, part, generator):
    """Numbers with which a trunk of fifty layers neither grows nor dies."""
    values = torch.randn(shape, generator=generator)
    if part == "running_var":
        return values.abs() + 0.5
    if len(shape) == 4:
        return values * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
    return values * 0.1 + (0.5 if part == "weight" and len(shape) == 1 else 0.0)


def resnet_layers():
    """(stage 2…5, block, layer 1…3 or 0 for the shortcut, shape of the convolution) of ResNet-50 but for its stem."""
    channels = 64
    for stage, blocks in BLOCKS.items():
        planes = 64 * 2 ** (stage - 2)
        for block in range(blocks):
            yield stage, block, 1, (planes, channels, 1, 1)
            yield stage, block, 2, (planes, planes, 3, 3)
            yield stage, block, 3, (4 * planes, planes, 1, 1)
            if block == 0:
                yield stage, block, 0, (4 * planes, channels, 1, 1)
            channels = 4 * planes


@cache
def resnet(norm_parts=NORM):
    """Numbers of ResNet-50 by (stage, block, layer, "conv" or a part of the norm); the stem is (1, 0, 0, …)."""
    generator = torch.Generator().manual_seed(0)
    numbers = {}
    for stage, block, layer, shape in [(1, 0, 0, (64, 3, 7, 7)), *resnet_layers()]:
        numbers[stage, block, layer, "conv"] = draw(shape, "weight", generator)
        for part in norm_parts:
            numbers[stage, block, layer, part] = draw(shape[:1], part, generator)
    return numbers


@cache
def heads(anchors, columns=CLASSES + 1):
    """Numbers of RPN and predictors by (layer, part)."""
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "conv": (NARROW, 1024, 3, 3),
        "logits": (anchors, NARROW, 1, 1),
        "deltas": (4 * anchors, NARROW, 1, 1),
        "score": (CLASSES + 1, 2048),
        "loc": (4 * columns, 2048),
    }
    numbers = {}
    for layer, shape in shapes.items():
        numbers[layer, "weight"] = torch.randn(shape, generator=generator) * 0.02
        numbers[layer, "bias"] = torch.randn(shape[:1], generator=generator) * 0.1
    return numbers


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


def c4_file(anchors=9):
    trunk, rest = resnet(), heads(anchors)
    head = "roi_heads.box.feature_extractor.head"
    tensors = OrderedDict()
    for (stage, block, layer, part), numbers in trunk.items():
        if stage == 1:
            name = "backbone.body.stem." + ("conv1.weight" if part == "conv" else f"bn1.{part}")
        else:
            where = f"{head}.layer4" if stage == 5 else f"backbone.body.layer{stage - 1}"
            kinds = ("downsample.0", "downsample.1") if layer == 0 else (f"conv{layer}", f"bn{layer}")
            name = f"{where}.{block}." + (f"{kinds[0]}.weight" if part == "conv" else f"{kinds[1]}.{part}")
        tensors[f"module.{name}"] = numbers
    tensors["module.rpn.anchor_generator.cell_anchors.0"] = torch.zeros(anchors, 4)
    names = {
        "conv": "rpn.head.conv",
        "logits": "rpn.head.cls_logits",
        "deltas": "rpn.head.bbox_pred",
        "score": "roi_heads.box.predictor.cls_score",
        "loc": "roi_heads.box.predictor.bbox_pred",
    }
    for (layer, part), numbers in rest.items():
        tensors[f"module.{names[layer]}.{part}"] = numbers
    return {"model": tensors, "optimizer": {}, "scheduler": {}, "iteration": 90000}, trunk, rest


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


def detectron2_file(anchors, columns, norm_parts=NORM):
    trunk, rest = resnet(norm_parts), heads(anchors, columns)
    tensors = {}
    for (stage, block, layer, part), numbers in trunk.items():
        if stage == 1:
            layer_name = "backbone.stem.conv1"
        else:
            where = "roi_heads.res5" if stage == 5 else f"backbone.res{stage}"
            layer_name = f"{where}.{block}." + ("shortcut" if layer == 0 else f"conv{layer}")
        tensors[f"{layer_name}.weight" if part == "conv" else f"{layer_name}.norm.{part}"] = numbers
    names = {
        "conv": "proposal_generator.rpn_head.conv",
        "logits": "proposal_generator.rpn_head.objectness_logits",
        "deltas": "proposal_generator.rpn_head.anchor_deltas",
        "score": "roi_heads.box_predictor.cls_score",
        "loc": "roi_heads.box_predictor.bbox_pred",
    }
    for (layer, part), numbers in rest.items():
        tensors[f"{names[layer]}.{part}"] = numbers
    tensors["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(anchors, 4)
    tensors["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    tensors["pixel_std"] = torch.ones(3, 1, 1)
    return tensors, trunk, rest


def background_first(rest):
    """C classes and then background → background and then the classes; boxes likewise, of zeros for background."""
    result = dict(rest)
    for part in ("weight", "bias"):
        score, loc = rest["score", part], rest["loc", part]
        result["score", part] = torch.stack([score[CLASSES], *score[:CLASSES]])
        result["loc", part] = torch.cat([torch.zeros_like(loc[:4]), loc])
    return result


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
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
    assert not [note for note in report.notes if "differs" in note]
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


def detectron_file(whole):
    trunk, rest = resnet(("weight", "bias")), heads(9)
    arrays = {}
    for (stage, block, layer, part), numbers in trunk.items():
        if stage == 1:
            base = "conv1" if part == "conv" else "res_conv1"
        else:
            base = f"res{stage}_{block}_branch" + ("1" if layer == 0 else f"2{'abc'[layer - 1]}")
        ending = {"conv": "w", "weight": "bn_s", "bias": "bn_b"}[part]
        arrays[f"{base}_{ending}"] = numbers.numpy()
        if whole:
            arrays[f"{base}_{ending}_momentum"] = np.zeros(1, np.float32)
    arrays["conv1_b"] = np.linspace(-1, 1, 64, dtype=np.float32)
    if whole:
        names = {
            "conv": "conv_rpn",
            "logits": "rpn_cls_logits",
            "deltas": "rpn_bbox_pred",
            "score": "cls_score",
            "loc": "bbox_pred",
        }
        arrays |= {f"{names[layer]}_{part[0]}": numbers.numpy() for (layer, part), numbers in rest.items()}
        return {"blobs": arrays, "cfg": "MODEL: …"}, trunk, rest
    arrays |= {"fc1000_w": np.zeros((1000, 2048), np.float32), "fc1000_b": np.zeros(1000, np.float32)}
    return arrays, trunk, rest


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


def torchvision_resnet():
    tensors = {}
    for (stage, block, layer, part), numbers in resnet().items():
        prefix = "" if stage == 1 else f"layer{stage - 1}.{block}."
        number = 1 if stage == 1 else layer
        kinds = ("downsample.0", "downsample.1") if stage > 1 and layer == 0 else (f"conv{number}", f"bn{number}")
        tensors[prefix + (f"{kinds[0]}.weight" if part == "conv" else f"{kinds[1]}.{part}")] = numbers
    return {**tensors, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}


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
