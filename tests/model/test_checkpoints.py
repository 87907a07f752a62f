"""Detectors in files of their own."""

from __future__ import annotations

import json
import os

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

import fasterrcnn
from fasterrcnn import checkpoints
from fasterrcnn.backbone import RoIStage
from fasterrcnn.build import SYSTEMS
from fasterrcnn.weights import load_state


def tiny(**overrides):
    return fasterrcnn.build("classic_vgg16", num_classes=3, backbone="tiny", **overrides)


@pytest.fixture
def saved(tmp_path):
    model = tiny(anchor_scales=(2, 5), min_size=96, score_threshold=0.2).eval()
    model.class_names = ("cat", "dog", "grüner Hügel")
    checkpoints.save(model, tmp_path / "model.safetensors")
    return model, tmp_path / "model.safetensors"


def rewrite(path, tensors=None, **metadata):
    """The same file with other tensors or metadata."""
    with safe_open(path, framework="pt") as file:
        old = dict(file.metadata())
    tensors = safetensors.torch.load_file(path) if tensors is None else tensors
    safetensors.torch.save_file(tensors, path, metadata={**old, **metadata})


def test_there_and_back(saved):
    model, path = saved
    loaded = checkpoints.load_model(path)
    assert not loaded.training
    assert loaded.class_names == model.class_names
    assert loaded.num_classes == 3
    assert (loaded.system, loaded.backbone_name) == ("classic_vgg16", "tiny")
    assert loaded.batcher == model.batcher
    assert loaded.detection_layer == model.detection_layer
    assert torch.equal(loaded.rpn.anchors.cell_anchors, model.rpn.anchors.cell_anchors)
    for (name, ours), (_, theirs) in zip(loaded.state_dict().items(), model.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    image = torch.rand(3, 96, 96)
    assert torch.equal(loaded.detect([image])[0].boxes, model.detect([image])[0].boxes)


def test_metadata(saved):
    _, path = saved
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "fasterrcnn 1"
    assert (metadata["system"], metadata["backbone"], metadata["num_classes"]) == ("classic_vgg16", "tiny", "3")
    assert json.loads(metadata["class_names"]) == ["cat", "dog", "grüner Hügel"]
    assert json.loads(metadata["overrides"])["min_size"] == 96


def test_every_argument_survives(tmp_path):
    """What the tiny preset sets is in the file as well: a changed preset does not change old files."""
    model = tiny(ratios=(1,), seed=5, rpn_channels=32)
    checkpoints.save(model, tmp_path / "m.safetensors")
    loaded = checkpoints.load_model(tmp_path / "m.safetensors")

    def plain(arguments):
        return json.loads(json.dumps(arguments))

    assert plain(loaded.arguments) == plain(model.arguments)
    assert model.arguments["roi_pooling"] == "align"


@pytest.mark.parametrize("argument", [{"weights": "/other/file"}, {"pretrained": True}])
def test_a_file_opens_no_other(saved, argument):
    """Arguments that say where initial weights come from are none of a detector's."""
    model, path = saved
    rewrite(path, overrides=json.dumps({**model.arguments, **argument}))
    with pytest.raises(ValueError, match=rf"{path} .*'{next(iter(argument))}' is no part of a detector"):
        checkpoints.load_model(path)


def test_resnet_system(tmp_path):
    """With the tiny trunk in it: the name, not the size, is what is tested."""
    model = fasterrcnn.build("classic_resnet50", num_classes=1, backbone="tiny")
    checkpoints.save(model, tmp_path / "m.safetensors")
    assert checkpoints.load_model(tmp_path / "m.safetensors").system == "classic_resnet50"


def test_unfit_tensors_are_listed(saved):
    _, path = saved
    tensors = safetensors.torch.load_file(path)
    del tensors["rpn.conv1.bias"]
    tensors["extra"] = torch.zeros(1)
    tensors["head.score.bias"] = torch.zeros(7)
    rewrite(path, tensors)
    with pytest.raises(ValueError, match=r"tensors of .*model\.safetensors are not this model's") as error:
        checkpoints.load_model(path)
    for part in ("1 missing (rpn.conv1.bias)", "1 unknown (extra)", "head.score.bias [7] instead of [4]"):
        assert part in str(error.value)


def test_nothing_is_loaded_from_an_unfit_file():
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: tensor + 1 for name, tensor in before.items() if name != "rpn.conv1.bias"}
    with pytest.raises(ValueError, match="1 missing"):
        load_state(model, tensors, source="memory")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_every_name_is_listed():
    with pytest.raises(ValueError, match=r"missing \(.*rpn\.conv1\.\{weight, bias\}.*head\.score\.\{weight, bias\}\)"):
        load_state(tiny(), {}, source="memory")


def test_foreign_files(saved, tmp_path):
    _, path = saved
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no detector of this package"):
        checkpoints.load_model(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        checkpoints.load_model(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        checkpoints.load_model(tmp_path / "none.safetensors")
    torch.save({}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth is no detector of this package, .* `fasterrcnn convert`"):
        checkpoints.load_model(tmp_path / "other.pth")
    rewrite(path, format="fasterrcnn 9")
    with pytest.raises(ValueError, match="its format is 'fasterrcnn 9'"):
        checkpoints.load_model(path)


def test_failed_save_keeps_the_old_file(saved, monkeypatch):
    model, path = saved
    old = path.read_bytes()

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"cannot write .*model\.safetensors: No space left"):
        checkpoints.save(model, path)
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_files_have_ordinary_permissions(saved):
    umask = os.umask(0)
    os.umask(umask)
    assert saved[1].stat().st_mode & 0o777 == 0o666 & ~umask


class Own(nn.Module):
    """A backbone of one's own."""

    out_channels, stride, rpn_channels = 8, 16, 8

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 16, stride=16)

    def forward(self, images):
        return self.conv(images)

    def roi_stage(self):
        return RoIStage(2, nn.Sequential(nn.Flatten(), nn.Linear(32, 6)), 6)


def test_custom_backbone(tmp_path):
    model = fasterrcnn.FasterRCNN(2, backbone=Own())
    checkpoints.save(model, tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="backbone Own, which is not built in: give it as backbone="):
        checkpoints.load_model(tmp_path / "own.safetensors")
    loaded = checkpoints.load_model(tmp_path / "own.safetensors", backbone=Own())
    assert torch.equal(loaded.extractor.conv.weight, model.extractor.conv.weight)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_comes_back(system, tmp_path):
    """From the file alone: same arguments, same parameters, same detections."""
    torch.manual_seed(0)
    model = fasterrcnn.build(system, num_classes=2, backbone="tiny", nms_threshold=0.45, seed=3)
    model.class_names = ("cat", "dog")
    checkpoints.save(model, tmp_path / "model.safetensors")
    again = checkpoints.load_model(tmp_path / "model.safetensors")
    assert type(again) is type(model)
    assert (again.system, again.arguments, again.class_names) == (system, model.arguments, ("cat", "dog"))
    image = torch.rand(3, 90, 120)
    (before,), (after,) = model.detect([image], score_threshold=0.0), again.detect([image], score_threshold=0.0)
    assert len(before) > 0
    assert torch.equal(before.boxes, after.boxes)
    assert torch.equal(before.scores, after.scores)


def test_rpn_only_comes_back(tmp_path):
    model = fasterrcnn.build("resnet50_c4", num_classes=2, backbone="tiny", rpn_only=True)
    checkpoints.save(model, tmp_path / "model.safetensors")
    assert checkpoints.load_model(tmp_path / "model.safetensors").roi_heads is None
