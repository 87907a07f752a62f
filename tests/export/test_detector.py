"""Whole detectors as files: ONNX in ONNX Runtime and programs of torch.export, against ``forward_padded``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fasterrcnn import build, checkpoints, cli, export
from fasterrcnn.build import SYSTEMS
from fasterrcnn.export import KEY, takes_scales, to_onnx, to_pt2

SIZES = [(1, 64, 64), (2, 128, 160), (3, 97, 241), (1, 33, 320)]  # batch, height, width
CLASS_NAMES = ("apple", "pear", "plum")


def needs_onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package}, of the extra 'onnx', is not installed")


def detector(system, **overrides):
    """Untrained, in evaluation mode; larger weights make it find things of all scores."""
    torch.manual_seed(0)
    model = build(system, num_classes=3, backbone="tiny", **overrides).eval()
    model.class_names = CLASS_NAMES
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return model


def batch_of(model, batch, height, width, seed):
    """Arguments of ``forward_padded``: noise, images of several sizes in one batch."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, 3, height, width, generator=generator)
    sizes = torch.tensor([[height - 5 * i, width - 7 * i] for i in range(batch)])
    scales = torch.linspace(0.5, 1, batch, dtype=torch.float64)
    return (images, sizes, scales) if takes_scales(model) else (images, sizes)


@torch.no_grad()
def settled(model, *size):
    """A batch on which rounding decides nothing: noise far above it leaves labels and count as they are.

    Another runtime adds up convolutions in another order, and so does another processor. Where an IoU lies within that
    of a threshold, or two scores within it of each other, no agreement could be asked for.
    """
    for seed in range(20):
        images, *rest = batch_of(model, *size, seed)
        found = model.forward_padded(images, *rest)
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        moved = [model.forward_padded(images + amount * noise, *rest) for amount in (-2e-6, 1e-6, 3e-6)]
        if all(
            torch.equal(found.count, other.count)
            and torch.equal(found.labels, other.labels)
            and torch.allclose(found.boxes, other.boxes, atol=0.01)
            for other in moved
        ):
            return (images, *rest), found
    raise AssertionError("no batch without a close decision")


def check_onnx(model, path):
    from onnx_session import Session

    session = Session(str(path))
    for size in SIZES:
        arguments, expected = settled(model, *size)
        boxes, labels, scores, count = session(*arguments)
        assert count.tolist() == expected.count.tolist()
        assert min(count) > 10
        np.testing.assert_array_equal(labels, expected.labels.numpy())
        np.testing.assert_allclose(boxes, expected.boxes.numpy(), rtol=0, atol=1e-3)
        np.testing.assert_allclose(scores, expected.scores.numpy(), rtol=0, atol=1e-3)


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.app, ["export", *map(str, arguments)])
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


def test_onnx_from_the_command_line(tmp_path, monkeypatch):
    needs_onnx()
    monkeypatch.chdir(tmp_path)
    model = detector("classic_vgg16")
    checkpoints.save(model, Path("detector.safetensors"))
    output = run("--weights", "detector.safetensors")
    assert "detector.onnx: classic_vgg16, images, image_sizes, scales → boxes, labels, scores, count" in output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["detector.onnx", "detector.safetensors"]
    check_onnx(model, "detector.onnx")
    run_as_the_document_says()


def run_as_the_document_says():
    """The example of the document, with the file detector.onnx in the working folder."""
    document = Path(__file__).resolve().parents[2] / "docs" / "deployment" / "onnx.md"
    (example,) = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    noise = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    Image.fromarray(noise).save("photo.jpg")
    names = {}
    exec(example, names)
    assert names["rules"] == {
        "system": "classic_vgg16",
        "class_names": list(CLASS_NAMES),
        "min_size": 320,
        "max_size": 480,
        "fixed_size": None,
    }
    boxes = names["boxes"]
    assert len(boxes) == len(names["names"]) > 0
    assert set(names["names"]) <= set(CLASS_NAMES)
    assert (boxes >= 0).all()
    assert (boxes <= np.array([90, 70, 90, 70]) + 1e-3).all()


@pytest.mark.slow
@pytest.mark.parametrize("system", [*(name for name in SYSTEMS if name != "classic_vgg16"), "rpn_only"])
def test_onnx_of_every_system(system, tmp_path):
    needs_onnx()
    model = detector("resnet50_c4", rpn_only=True) if system == "rpn_only" else detector(system)
    model.train()
    to_onnx(model, tmp_path / "model.onnx")
    assert model.training
    check_onnx(model.eval(), tmp_path / "model.onnx")


def check_pt2(model, path):
    extra_files = {f"{KEY}.json": ""}
    program = torch.export.load(path, extra_files=extra_files).module()
    assert json.loads(extra_files[f"{KEY}.json"])["class_names"] == list(CLASS_NAMES)
    for size in SIZES:
        arguments = batch_of(model, *size, seed=0)
        with torch.no_grad():
            for actual, expected in zip(program(*arguments), model.forward_padded(*arguments), strict=True):
                assert torch.equal(actual, expected)


@pytest.mark.slow
def test_pt2_from_the_command_line(tmp_path):
    model = detector("resnet50_c4")
    checkpoints.save(model, tmp_path / "c4.safetensors")
    path = tmp_path / "new" / "c4.pt2"
    output = run("--weights", tmp_path / "c4.safetensors", "--format", "pt2", "--out", path)
    assert f"{path}: resnet50_c4, images, image_sizes → boxes, labels, scores, count" in output
    check_pt2(model, path)


@pytest.mark.slow
def test_pt2_with_scales(tmp_path):
    model = detector("classic_vgg16")
    to_pt2(model, tmp_path / "model.pt2")
    check_pt2(model, tmp_path / "model.pt2")


def test_without_the_packages_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    checkpoints.save(detector("classic_vgg16"), tmp_path / "classic.safetensors")
    output = run("--weights", tmp_path / "classic.safetensors", code=2)
    assert 'pip install "fasterrcnn-ops[onnx]"' in output
    assert not (tmp_path / "classic.onnx").exists()


def test_what_onnx_does_not_take_is_refused(tmp_path):
    needs_onnx()
    with pytest.raises(ValueError, match=r"no negative NMS thresholds, the detector has -0\.5"):
        to_onnx(detector("resnet50_c4", nms_threshold=-0.5), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="does not take bfloat16"):
        to_onnx(detector("resnet50_c4").to(torch.bfloat16), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (["--out", "new.pt2"], "pt2 new.pt2"),
        (["--out", "new.onnx"], "onnx new.onnx"),
        (["--out", "new"], "onnx new"),
        (["--format", "onnx", "--out", "new.pt2"], "onnx new.pt2"),
        (["--format", "pt2"], "pt2 classic.pt2"),
        ([], "onnx classic.onnx"),
    ],
)
def test_the_format_is_that_of_the_file_to_write(options, written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.save(detector("classic_vgg16"), Path("classic.safetensors"))
    calls = []
    for form in ("onnx", "pt2"):
        monkeypatch.setattr(export, f"to_{form}", lambda _, path, form=form: calls.append(f"{form} {path}"))
    run("--weights", "classic.safetensors", *options)
    assert calls == [written]


def test_missing_weights_are_a_usage_error(tmp_path):
    assert "no such file" in run("--weights", tmp_path / "none.safetensors", code=2)
