"""What the README shows runs."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import padded_cases
import pytest
import torch

import fasterrcnn

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def block_with(text: str) -> str:
    (found,) = [block for block in BLOCKS if text in block]
    return found


def test_every_block_is_tested():
    assert len(BLOCKS) == 8


def test_as_torchvision():
    boxes = torch.tensor([[0.0, 0.0, 32.0, 32.0], [1.0, 0.0, 32.0, 32.0], [64.0, 0.0, 96.0, 64.0]])
    names = {"boxes": boxes, "scores": torch.tensor([0.5, 0.9, 0.4]), "feature_map": torch.rand(1, 8, 10, 10)}
    exec(block_with("roi_align"), names)
    assert names["keep"].tolist() == [1, 2]
    assert names["features"].shape == (3, 8, 7, 7)


def test_numpy():
    anchors = [[0.0, 0.0, 32.0, 32.0], [1.0, 0.0, 32.0, 32.0], [64.0, 0.0, 96.0, 64.0]]
    names = {"deltas": np.zeros((3, 4)), "anchors": anchors, "scores": [0.5, 0.9, 0.4], "labels": [1, 1, 2]}
    exec(block_with("fasterrcnn_ops.numpy"), names)
    assert names["boxes"].tolist() == anchors
    assert names["keep"].tolist() == [1, 2]


def test_fixed_capacity_of_nothing():
    names = {"boxes": torch.empty(0, 4), "scores": torch.empty(0)}
    exec(block_with("nms_padded"), names)
    assert torch.equal(names["proposals"], torch.zeros(1000, 4))


def test_fixed_capacity():
    boxes = torch.tensor([[0.0, 0.0, 32.0, 32.0], [1.0, 0.0, 32.0, 32.0], [64.0, 0.0, 96.0, 64.0]])
    names = {"boxes": boxes, "scores": torch.tensor([0.5, 0.9, 0.4])}
    exec(block_with("nms_padded"), names)
    assert names["keep"].shape == (1000,)
    assert int(names["count"]) == 2
    assert torch.equal(names["proposals"][:2], boxes[[1, 2]])
    assert not names["proposals"][2:].any()


@pytest.mark.slow
def test_detector():
    names = {
        "image": torch.rand(3, 64, 80),
        "boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]),
        "labels": torch.tensor([3]),
    }
    exec(block_with("fasterrcnn.build"), names)
    assert sorted(names["losses"]) == ["loss_box_reg", "loss_classifier", "loss_objectness", "loss_rpn_box_reg"]
    assert names["detections"].boxes.shape[1] == 4


def deployment_names() -> dict[str, object]:
    images, image_sizes = padded_cases.BATCHES[1]
    model = padded_cases.tiny("resnet50_c4")
    return {"fasterrcnn": fasterrcnn, "torch": torch, "model": model, "images": images, "image_sizes": image_sizes}


@pytest.mark.slow
def test_compile(monkeypatch):
    """Without Inductor, which tests/model/test_compile.py waits for once."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    names = deployment_names()
    exec(block_with("torch.compile("), names)
    assert names["boxes"].shape == (4, 100, 4)
    assert names["count"].min() > 0


@pytest.mark.slow
def test_export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = deployment_names()
    exec(block_with("torch.export.export("), names)
    count = torch.export.load("detector.pt2").module()(names["images"], names["image_sizes"])[3]
    assert count.min() > 0


@pytest.mark.slow
def test_onnx(tmp_path, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package}, of the extra 'onnx', is not installed")
    monkeypatch.chdir(tmp_path)
    model = fasterrcnn.build("resnet50_c4", num_classes=3, backbone="tiny").eval()
    images, image_sizes = torch.rand(3, 3, 64, 96), torch.tensor([[64, 96], [60, 80], [50, 96]])
    names = {"fasterrcnn": fasterrcnn, "model": model, "images": images.numpy(), "image_sizes": image_sizes.numpy()}
    exec(block_with("onnxruntime.InferenceSession"), names)
    assert names["boxes"].shape == (3, 100, 4)


@pytest.mark.filterwarnings("ignore:CudaGraphed:RuntimeWarning")
def test_cuda_graphs():
    model = fasterrcnn.build("resnet50_c4", num_classes=2, backbone="tiny", min_size=64, max_size=100)
    names = {"model": model, "image": torch.rand(3, 48, 60)}
    exec(block_with("CudaGraphed"), names)
    assert [shape[0] for shape in names["graphed"].shapes] == [1, 1]
    assert names["detections"][0].boxes.shape[1] == 4
