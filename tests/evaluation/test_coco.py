"""COCO's average precision: by hand on a small table, and both public evaluators against each other."""

from __future__ import annotations

import builtins
import math
from dataclasses import astuple

import pytest
import torch

from fasterrcnn.evaluation import coco_average_precision, mean_average_precision
from fasterrcnn.evaluation.coco import BACKENDS
from fasterrcnn.types import Detections


def _found(boxes, labels, scores):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes, torch.tensor(labels, dtype=torch.int64), torch.tensor(scores))


def _truth(boxes, labels):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64)}


@pytest.fixture(params=BACKENDS)
def backend(request):
    pytest.importorskip(request.param.replace("-", "_"), reason=f"{request.param} is not installed")
    return request.param


def flat(result):
    numbers = astuple(result)
    return torch.tensor([*numbers[:7], *numbers[7], *numbers[8]], dtype=torch.float64)


def random_case(seed: int, images: int = 12, classes: int = 4):
    """Objects of all sizes; detections near them, doubles, strays, wrong classes; equal scores; an image without."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*size):
        return torch.rand(*size, generator=generator)

    detections, targets = [], []
    for image in range(images):
        count = int(rand(1) * 7) if image else 0
        corner, side = rand(count, 2) * 400, 8 + rand(count, 2) ** 2 * 200
        boxes = torch.cat((corner, corner + side), 1)
        labels = 1 + (rand(count) * (classes - 1)).long()  # the last class has no object
        targets.append({"boxes": boxes, "labels": labels})
        near = boxes.repeat(2, 1) + (rand(2 * count, 4) - 0.5) * 0.3 * side.repeat(2, 2)
        stray = rand(5, 2) * 400
        found = torch.cat((near, torch.cat((stray, stray + 5 + rand(5, 2) * 90), 1)))
        kinds = torch.cat((labels, labels, 1 + (rand(5) * classes).long()))
        wrong = rand(len(kinds)) < 0.15
        kinds[wrong] = 1 + (rand(int(wrong.sum())) * classes).long()
        scores = (rand(len(found)) * 20).round() / 20
        order = scores.argsort(descending=True, stable=True)
        detections.append(Detections(found[order], kinds[order], scores[order]))
    return detections, targets


@pytest.mark.parametrize("seed", range(6))
def test_both_evaluators_agree_on_random_detections(seed):
    for name in BACKENDS:
        pytest.importorskip(name.replace("-", "_"), reason=f"{name} is not installed")
    detections, targets = random_case(seed)
    ours, theirs = (flat(coco_average_precision(detections, targets, 4, backend=name)) for name in BACKENDS)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9, equal_nan=True)
    assert 0.02 < ours[0] < 0.98
    assert math.isnan(ours[7 + 3]), "the class without an object"


def test_by_hand(backend):
    """Class 1: found exactly; class 2: one of two objects, after a false alarm.

    Class 2's precision/recall points are (0, 0) and (1/2, 1/2): best precision 1/2 up to recall 1/2. Of the recall
    points 0, 0.01 … 1 those up to 0.5 are 51 of 101.
    """
    targets = [_truth([[0, 0, 20, 20], [100, 100, 150, 150]], [1, 2]), _truth([[0, 0, 200, 100]], [2])]
    detections = [
        _found([[0, 0, 20, 20], [300, 300, 340, 340], [100, 100, 150, 150]], [1, 2, 2], [0.9, 0.8, 0.7]),
        _found([], [], []),
    ]
    result = coco_average_precision(detections, targets, 3, backend=backend)
    half = 51 / 101 / 2
    assert result.per_class[:2] == pytest.approx((1.0, half))
    assert math.isnan(result.per_class[2])
    assert result.mean == result.at_50 == result.at_75 == pytest.approx((1 + half) / 2)
    assert result.small == pytest.approx(1.0)
    assert result.large == pytest.approx(0.0)
    assert result.recall == pytest.approx(0.75)


def test_overlap_decides_how_many_thresholds_are_passed(backend):
    """IoU 0.72 passes 0.5, 0.55, 0.6, 0.65 and 0.7: five of ten."""
    result = coco_average_precision(
        [_found([[0, 0, 100, 72]], [1], [0.5])], [_truth([[0, 0, 100, 100]], [1])], 1, backend=backend
    )
    assert result.mean == pytest.approx(0.5)
    assert (result.at_50, result.at_75) == pytest.approx((1.0, 0.0))


def test_close_to_voc(backend):
    detections, targets = random_case(9, images=30)
    coco = coco_average_precision(detections, targets, 4, backend=backend)
    voc = mean_average_precision(detections, targets, 4)
    assert coco.at_50 == pytest.approx(voc.mean, abs=0.03)  # 101 recall points, and the other free object may be taken


@pytest.mark.parametrize("detections", [[_found([], [], [])], []])
def test_nothing_found_or_nothing_to_find(backend, detections):
    targets = [_truth([[0, 0, 20, 20]], [2])] * len(detections)
    result = coco_average_precision(detections, targets, 2, backend=backend)
    expected = 0.0 if detections else math.nan
    assert result.mean == pytest.approx(expected, nan_ok=True)
    assert result.small == pytest.approx(expected, nan_ok=True)
    assert math.isnan(result.large)
    assert math.isnan(result.per_class[0])
    no_objects = coco_average_precision([_found([[0, 0, 9, 9]], [1], [0.5])], [_truth([], [])], 2, backend=backend)
    assert math.isnan(no_objects.mean)


def test_inputs_are_left_alone_and_nothing_is_printed(backend, capsys):
    detections, targets = random_case(1, images=3)
    before = [found.boxes.clone() for found in detections], [target["boxes"].clone() for target in targets]
    coco_average_precision(detections, targets, 4, backend=backend)
    assert capsys.readouterr().out == ""
    assert all(torch.equal(found.boxes, boxes) for found, boxes in zip(detections, before[0], strict=True))
    assert all(torch.equal(target["boxes"], boxes) for target, boxes in zip(targets, before[1], strict=True))


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="one each per image, got 0 and 1"):
        coco_average_precision([], [_truth([], [])], 1)
    with pytest.raises(ValueError, match="unknown evaluator 'cocoapi'; known: faster-coco-eval, pycocotools"):
        coco_average_precision([], [], 1, backend="cocoapi")
    there = builtins.__import__

    def missing(name, *arguments, **more):
        if name.startswith("faster_coco_eval"):
            raise ImportError(name)
        return there(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="pip install faster-coco-eval"):
        coco_average_precision([], [], 1)
