"""The documented commands: every system learns the shapes with the tiny trunk. The whole of it takes minutes each."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

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
DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def documented_commands() -> dict[str, list[str]]:
    """The arguments of each training command in the table of docs/training.md, by system."""
    rows = re.findall(r"^\| `fasterrcnn (train [^`]+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    commands = [shlex.split(row) for row in rows]
    return {command[command.index("--system") + 1]: command for command in commands}


def test_every_system_has_a_documented_command():
    assert documented_commands().keys() == SYSTEMS.keys()
    for command in documented_commands().values():
        assert [word for word in command if word.startswith("--")] == ["--system", "--backbone", "--data", "--out"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_learns_two_pictures_by_heart(tmp_path, name):
    """The recipe in seconds: the same detector and rates on two pictures, whose shapes it then finds."""
    config = changed(default_config(name, "tiny"), {"train": {"steps": 60, "batch_size": 2, "warmup_steps": 5}})
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


@pytest.mark.recipes
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_documented_command_keeps_its_promise(tmp_path, name):
    """Train, evaluate on pictures neither training nor validation had, from the file alone."""
    command = documented_commands()[name]
    for arguments in (
        [*command[: command.index("--out")], "--out", tmp_path],
        ["eval", "--weights", tmp_path / "model.safetensors", "--data", "shapes", "--split", "test", "--out", tmp_path],
    ):
        result = CliRunner().invoke(cli.app, [*map(str, arguments)])
        assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["voc"]["area"] >= PROMISED_MAP
    assert record["coco"]["at_50"] >= PROMISED_MAP
