"""Published ImageNet weights, in files the tests write, and state dicts of whole detectors as initial weights."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

import fasterrcnn
from fasterrcnn.backbone import PretrainedSource, RoIStage
from fasterrcnn.build import SYSTEMS


def tiny(**overrides):
    return fasterrcnn.build("classic_vgg16", num_classes=3, backbone="tiny", **overrides)


class Own(nn.Module):
    """A backbone of one's own with published weights, small enough to write files for."""

    out_channels, stride, rpn_channels = 8, 16, 8
    pretrained = PretrainedSource(
        "https://example.org/own-0badcafe.pth",
        (("stem.", "extractor.conv."), ("fc6.", "head.classifier.1.")),
        ("fc8.",),
    )

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 16, stride=16)

    def forward(self, images):
        return self.conv(images)

    def roi_stage(self):
        return RoIStage(2, nn.Sequential(nn.Flatten(), nn.Linear(32, 6)), 6)


def published() -> dict[str, torch.Tensor]:
    return {
        "stem.weight": torch.rand(8, 3, 16, 16),
        "stem.bias": torch.rand(8),
        "fc6.weight": torch.rand(6, 32),
        "fc6.bias": torch.rand(6),
        "fc8.weight": torch.rand(1000, 6),
    }


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's cache in a folder of the test's, and no way to the network."""

    def no_network(*_, **__):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def assert_loaded(model, tensors):
    assert torch.equal(model.extractor.conv.weight, tensors["stem.weight"])
    assert torch.equal(model.head.classifier[1].weight, tensors["fc6.weight"])
    assert torch.equal(model.head.classifier[1].bias, tensors["fc6.bias"])


def test_pretrained_from_the_cache(hub):
    tensors = published()
    torch.save(tensors, hub / "own-0badcafe.pth")
    model = fasterrcnn.FasterRCNN(2, backbone=Own(), pretrained=True)
    assert_loaded(model, tensors)
    assert model.rpn.conv1.bias.abs().sum() == 0  # what is not in the file keeps its initialisation


def test_pretrained_is_downloaded_when_it_is_not_there(hub):
    with pytest.raises(AssertionError, match="a download was tried"):
        fasterrcnn.FasterRCNN(2, backbone=Own(), pretrained=True)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_a_local_file(tmp_path, suffix):
    tensors, path = published(), tmp_path / f"own.{suffix}"
    torch.save(tensors, path) if suffix == "pth" else safetensors.torch.save_file(tensors, path)
    assert_loaded(fasterrcnn.FasterRCNN(2, backbone=Own(), weights=path), tensors)


def test_weights_of_a_whole_detector(tmp_path):
    """A state dict of this family's own training code has the same names."""
    model = fasterrcnn.FasterRCNN(2, backbone=Own())
    torch.save(model.state_dict(), tmp_path / "detector.pth")
    loaded = fasterrcnn.FasterRCNN(2, backbone=Own(), weights=str(tmp_path / "detector.pth"))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_unfit_published_weights(tmp_path):
    tensors = published()
    tensors["stem.weight"] = torch.zeros(9, 3, 16, 16)
    tensors["neck.weight"] = tensors.pop("fc6.weight")
    torch.save(tensors, tmp_path / "own.pth")
    with pytest.raises(ValueError, match=r"tensors of .*own\.pth are not this model's") as error:
        fasterrcnn.FasterRCNN(2, backbone=Own(), weights=tmp_path / "own.pth")
    for part in ("missing (head.classifier.1.weight)", "unknown (neck.weight)", "[9, 3, 16, 16] instead of"):
        assert part in str(error.value)


def test_backbone_without_published_weights(tmp_path):
    with pytest.raises(ValueError, match="no published weights for the backbone tiny"):
        tiny(pretrained=True)
    torch.save(published(), tmp_path / "own.pth")
    with pytest.raises(ValueError, match="holds no whole detector"):
        tiny(weights=tmp_path / "own.pth")


def published_names(system: str) -> dict[str, str]:
    """Name in the published file → name in the detector, written out rather than taken from the code under test."""
    if system.endswith("vgg16"):
        trunk = "extractor" if system == "classic_vgg16" else "backbone"
        numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
        layers = {f"features.{n}": f"{trunk}.{n}" for n in numbers}
        if system == "classic_vgg16":  # the step-by-step system's linear layers are its own
            layers |= {"classifier.0": "head.classifier.0", "classifier.3": "head.classifier.2"}
        return {f"{a}.{p}": f"{b}.{p}" for a, b in layers.items() for p in ("weight", "bias")}
    if system == "classic_resnet50":
        prefixes = ("extractor.4", "extractor.5", "extractor.6", "head.classifier.0")
        convs, norms = {"conv1": "extractor.0"}, {"bn1": "extractor.1"}
    else:
        body, head = "backbone.body", "roi_heads.box.feature_extractor.head"
        prefixes = (f"{body}.layer1", f"{body}.layer2", f"{body}.layer3", f"{head}.layer4")
        convs, norms = {"conv1": f"{body}.stem.conv1"}, {"bn1": f"{body}.stem.bn1"}
    for number, (count, ours) in enumerate(zip((3, 4, 6, 3), prefixes, strict=True), start=1):
        layer = f"layer{number}"
        for block in range(count):
            for i in (1, 2, 3):
                convs[f"{layer}.{block}.conv{i}"] = f"{ours}.{block}.conv{i}"
                norms[f"{layer}.{block}.bn{i}"] = f"{ours}.{block}.bn{i}"
        convs[f"{layer}.0.downsample.0"] = f"{ours}.0.downsample.0"
        norms[f"{layer}.0.downsample.1"] = f"{ours}.0.downsample.1"
    parameters = ("weight", "bias", "running_mean", "running_var")
    return {f"{a}.weight": f"{b}.weight" for a, b in convs.items()} | {
        f"{a}.{p}": f"{b}.{p}" for a, b in norms.items() for p in parameters
    }


VGG = ("vgg16-397923af.pth", ("classifier.6.weight", "classifier.6.bias"))
RESNET = ("resnet50-19c8e357.pth", ("fc.weight", "fc.bias"))
FILES = {
    "classic_vgg16": VGG,
    "classic_resnet50": RESNET,
    "resnet50_c4_sigmoid": RESNET,
    "resnet50_c4": RESNET,
    "stepwise_vgg16": ("vgg16-397923af.pth", (*VGG[1], "classifier.0.weight", "classifier.3.bias")),
}
TRUNKS = ("extractor.", "head.classifier.", "backbone.", "roi_heads.box.feature_extractor.")


@pytest.mark.parametrize("system", FILES)
def test_published_files_of_every_system(system, hub, monkeypatch):
    """Every tensor of the file has a place and the right shape there; on the meta device, which has all but numbers."""
    file, rest = FILES[system]
    with torch.device("meta"):
        expected = fasterrcnn.build(system, num_classes=2).state_dict()
    names = published_names(system)
    # Old files have no counters of batches.
    trunk = {n for n in expected if n.startswith(TRUNKS)}
    assert set(names.values()) == {n for n in trunk if not n.endswith("num_batches_tracked")}
    tensors = {theirs: expected[ours] for theirs, ours in names.items()} | {n: torch.empty(1) for n in rest}
    asked = []

    def from_cache(url, **options):
        asked.append((url, options))
        return tensors

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", from_cache)
    with torch.device("meta"):
        fasterrcnn.build(system, num_classes=2, pretrained=True)
    ((url, options),) = asked
    assert url == f"https://download.pytorch.org/models/{file}"
    assert options["weights_only"] is True
    assert options["check_hash"] is True


def test_published_file_in_the_cache(hub):
    """ResNet-50 for real: a file of the published name, in which every tensor has a number of its own."""
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in fasterrcnn.build("classic_resnet50", num_classes=2).state_dict().items()}
    names = published_names("classic_resnet50")
    numbers = {ours: float(i) for i, ours in enumerate(names.values())}
    # Expanded tensors: the file holds one number for each.
    file = {theirs: torch.tensor(numbers[ours]).expand(shapes[ours]) for theirs, ours in names.items()}
    torch.save({**file, "fc.weight": torch.zeros(1)}, hub / "resnet50-19c8e357.pth")
    model = fasterrcnn.build("classic_resnet50", num_classes=2, pretrained=True)
    for name, tensor in model.state_dict().items():
        if name in numbers:
            assert (tensor == numbers[name]).all(), name
    assert 0.005 < model.rpn.conv1.weight.std() < 0.02


def test_every_system_is_tested():
    assert FILES.keys() == SYSTEMS.keys()


class OwnOfOthers(Own):
    """The same trunk with the placeholders that let every system find its own names."""

    pretrained = PretrainedSource(
        Own.pretrained.url, (("stem.", "{backbone}.conv."), ("fc6.", "{stage}.1.")), Own.pretrained.unused
    )


@pytest.mark.parametrize(
    ("system", "trunk", "stage"),
    [
        ("resnet50_c4_sigmoid", "backbone.body", "roi_heads.box.feature_extractor.head.1"),
        ("resnet50_c4", "backbone.body", "roi_heads.box.feature_extractor.head.1"),
        ("stepwise_vgg16", "backbone", None),
    ],
)
def test_values_of_a_file_in_the_new_systems(system, trunk, stage, tmp_path):
    """The numbers arrive; the step-by-step system has no use for the RoI stage's, and the rest keeps its own."""
    tensors = published()
    torch.save(tensors, tmp_path / "own.pth")
    model = fasterrcnn.build(system, num_classes=2, backbone=OwnOfOthers(), weights=tmp_path / "own.pth")
    state = model.state_dict()
    assert torch.equal(state[f"{trunk}.conv.weight"], tensors["stem.weight"])
    assert torch.equal(state[f"{trunk}.conv.bias"], tensors["stem.bias"])
    if stage is None:
        assert not [n for n, t in state.items() if t.shape == (6, 32)]
    else:
        assert torch.equal(state[f"{stage}.weight"], tensors["fc6.weight"])
    assert not state["rpn.head.score.bias" if stage is None else "rpn.head.cls_logits.bias"].any()


@pytest.mark.parametrize("system", ["resnet50_c4_sigmoid", "resnet50_c4", "stepwise_vgg16"])
def test_weights_of_a_whole_detector_of_the_new_systems(system, tmp_path):
    model = fasterrcnn.build(system, num_classes=2, backbone="tiny")
    torch.save(model.state_dict(), tmp_path / "detector.pth")
    loaded = fasterrcnn.build(system, num_classes=2, backbone="tiny", weights=tmp_path / "detector.pth")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    with pytest.raises(ValueError, match="not this model's"):
        fasterrcnn.build(system, num_classes=3, backbone="tiny", weights=tmp_path / "detector.pth")


def test_a_file_in_an_rpn_of_its_own(tmp_path):
    """Without RoI heads the layers meant for them have no place, and nothing is missing."""
    tensors = published()
    torch.save(tensors, tmp_path / "own.pth")
    model = fasterrcnn.build(
        "resnet50_c4", num_classes=2, backbone=OwnOfOthers(), weights=tmp_path / "own.pth", rpn_only=True
    )
    assert torch.equal(model.trunk.conv.weight, tensors["stem.weight"])
