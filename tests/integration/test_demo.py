"""``fasterrcnn demo``: the promised numbers with the shipped weights, offline; and what it says when it misses them."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import socket

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fasterrcnn import cli
from fasterrcnn.data import read_image
from fasterrcnn.data.synthetic import SyntheticScenes
from fasterrcnn.demo import DemoReport, checks, recipe, timing
from fasterrcnn.evaluation import AveragePrecision
from fasterrcnn.types import Detections
from fasterrcnn.weights import read_safetensors
from fasterrcnn_ops import box_iou


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.app, ["demo", *map(str, arguments)])
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the demonstration must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("offline")
def test_demo_keeps_its_promises(tmp_path):
    said = run("--out", tmp_path)
    for photograph in checks.PHOTOGRAPHS:
        with Image.open(tmp_path / f"{photograph.path.stem}.png") as annotated:
            assert min(annotated.size) >= 480
    assert str(tmp_path) in said
    found, total, alarms = map(int, re.search(r"Unseen coins: (\d+) of (\d+) found.*?(\d+) false alarm", said).groups())
    assert total == 12
    assert found >= 11
    assert alarms <= 1
    assert float(re.search(r"mAP@0.5 │ \d+ │ ([\d.]+)", said).group(1)) >= 0.85
    for name in timing.REFERENCES:
        assert f"│ {name} │" in said
    for photograph in checks.PHOTOGRAPHS:
        assert f"{photograph.path.stem}.png │ {'unseen' if photograph.unseen else 'seen'} │" in said


def test_boxes_of_the_unseen_coins_fit():
    # 384 × 153 pixels become 482 × 192, no multiple of the stride: boxes must fit at the right border as at the left
    model = recipe.checkpoints.load_model(recipe.WEIGHTS)
    image = read_image(checks.ASSETS / "photos" / checks.UNSEEN_COINS)
    truth = checks.load_coin_truth()["boxes"]
    found = model.detect([image], score_threshold=checks.SCORE_THRESHOLD)[0]
    iou = box_iou(truth, found.boxes).max(dim=1).values
    assert iou.mean() > 0.8
    right = truth[:, 0] > 192
    assert (iou[right].mean() - iou[~right].mean()).abs() < 0.1


def test_untrained_weights_fall_short(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "HELD_OUT_SCENES", 4)
    monkeypatch.setattr(timing, "REFERENCES", {"nms": "nms"})
    path = tmp_path / "untrained.safetensors"
    model = recipe.make_detector()
    model.class_names = SyntheticScenes.class_names
    recipe.checkpoints.save(model, path)
    said = run("--out", tmp_path, "--weights", path, code=1)
    assert "Fell short: mAP@0.5 is" in said
    assert "of 12 unseen coins found, promised are 11" in said


def test_two_sources_of_weights_are_refused(tmp_path):
    assert "leave one" in run("--train", "--weights", recipe.WEIGHTS, "--out", tmp_path, code=2)
    assert "does not exist" in run("--weights", tmp_path / "gone.safetensors", "--out", tmp_path, code=2)


def test_shipped_weights_are_small():
    assert recipe.WEIGHTS.stat().st_size < 6_000_000
    assert sum(parameter.numel() for parameter in recipe.make_detector().parameters()) < 1_500_000


def test_unseen_photographs_are_those_the_generator_never_reads():
    assert [photograph.file for photograph in checks.PHOTOGRAPHS if photograph.unseen] == [
        "coins_unseen.png",
        "camera_unseen.jpg",
    ]


def _detections(boxes, labels=None):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Detections(
        boxes, torch.ones(len(boxes), dtype=torch.int64) if labels is None else labels, torch.ones(len(boxes))
    )


def test_counting_coins():
    truth = checks.load_coin_truth()["boxes"]
    assert checks.score_coins(_detections(truth)) == checks.CoinResult(12, 0, 12)
    assert checks.score_coins(_detections(truth[:10])) == checks.CoinResult(10, 0, 12)
    assert checks.score_coins(_detections([])) == checks.CoinResult(0, 0, 12)
    twice = torch.cat((truth, truth[:2]))
    assert checks.score_coins(_detections(twice)) == checks.CoinResult(12, 2, 12), (
        "finding a coin again is a false alarm"
    )
    labels = torch.ones(12, dtype=torch.int64)
    labels[3] = 2
    assert checks.score_coins(_detections(truth, labels)) == checks.CoinResult(11, 1, 12), (
        "a coin called a cat is one too"
    )
    assert checks.score_coins(_detections(truth + 40)).found == 0


def test_a_wrong_operator_is_noticed(monkeypatch):
    monkeypatch.setattr(timing, "REFERENCES", {"nms": "nms", "box_iou": "boxes"})
    right = timing.time_operators()
    assert [row.difference < 1e-4 for row in right] == [True, True]
    true_reference = timing.reference
    monkeypatch.setattr(timing, "reference", lambda name: lambda *args: true_reference(name)(*args) + 1)
    wrong = timing.time_operators()
    assert [row.difference for row in wrong] == [math.inf, math.inf]
    report = DemoReport([], AveragePrecision(1.0, (), ()), checks.CoinResult(12, 0, 12), wrong, 0.0)
    expected = [f"{name} does not agree with its reference" for name in ("nms", "box_iou")]
    assert report.shortfalls() == expected


@pytest.mark.parametrize(
    ("precision", "found", "alarms", "problems"),
    [(0.85, 11, 1, 0), (0.849, 11, 1, 1), (math.nan, 11, 1, 1), (1.0, 10, 0, 1), (1.0, 12, 2, 1), (0.0, 0, 5, 3)],
)
def test_the_promises_themselves(precision, found, alarms, problems):
    report = DemoReport([], AveragePrecision(precision, (), ()), checks.CoinResult(found, alarms, 12), [], 0.0)
    assert len(report.shortfalls()) == problems


def test_training_is_reproducible(tmp_path):
    short = dataclasses.replace(recipe.TRAINING, steps=2, batch_size=2)
    first = recipe.train_detector(tmp_path / "a", short, progress=False)
    second = recipe.train_detector(tmp_path / "b", short, progress=False)
    (_, one), (_, two) = read_safetensors(first), read_safetensors(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert first.stat().st_size < 3_500_000
    assert [file.name for file in first.parent.iterdir()] == [first.name], "nothing left that a new run would resume"


@pytest.mark.slow
def test_training_from_scratch_keeps_the_promises(tmp_path):
    said = run("--train", "--out", tmp_path)
    assert (tmp_path / "training" / recipe.WEIGHTS.name).exists()
    assert "Fell short" not in said
    assert os.path.getsize(tmp_path / "training" / recipe.WEIGHTS.name) < 6_000_000
