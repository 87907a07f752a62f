"""The documented commands: every system learns the shapes with the tiny trunk. The whole of it takes minutes each."""

from __future__ import annotations

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from fasterrcnn import cli
from fasterrcnn.build import SYSTEMS
from fasterrcnn.config import changed, default_config
from fasterrcnn.data.shapes import Shapes
from fasterrcnn.training.loop import train
from fasterrcnn.training.run import build_detector
from fasterrcnn_ops import box_iou

PROMISED_MAP = 0.8


@pytest.mark.parametrize("name", SYSTEMS)
def test_learns_two_pictures_by_heart(tmp_path, name):
    """The recipe in seconds: the same detector and rates on two pictures, whose shapes it then finds."""
    config = changed(
        default_config(name, "tiny"), {"train": {"steps": 40, "batch_size": 2, "warmup_steps": 5}, "data": {}}
    )
    model = build_detector(config, 3)
    dataset = Shapes(2, seed=4)
    history = []
    train(
        model, dataset, tmp_path, config.train, on_step=lambda _, losses: history.append(losses["loss"]), progress=False
    )
    assert all(map(math.isfinite, history))
    assert sum(history[-5:]) < 0.4 * sum(history[:5])
    for image, target in (dataset[i] for i in range(2)):
        found = model.detect([image])[0]
        overlap = box_iou(target["boxes"], found.boxes)
        same = target["labels"][:, None] == found.labels
        best = torch.where(same, overlap, 0.0).max(dim=1).values
        assert best.min() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_documented_command_keeps_its_promise(tmp_path, name):
    """Train, evaluate on pictures neither training nor validation had, from the file alone."""
    for arguments in (
        ["train", "--system", name, "--backbone", "tiny", "--data", "shapes", "--out", tmp_path],
        ["eval", "--weights", tmp_path / "model.safetensors", "--data", "shapes", "--split", "test", "--out", tmp_path],
    ):
        result = CliRunner().invoke(cli.app, [*map(str, arguments)])
        assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["voc"]["area"] >= PROMISED_MAP
    assert record["coco"]["at_50"] >= PROMISED_MAP
