"""A detector on a data set, the table, the JSON file and the curves as pictures."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch
from PIL import Image
from rectangles import Rectangles
from rich.console import Console

from fasterrcnn.evaluation import evaluate, measure
from fasterrcnn.evaluation.report import as_table, plot_precision_recall
from fasterrcnn.types import Detections

NAMES = ("apple", "blood orange", "cherry")


class Oracle:
    """Finds what the data set says, but for what ``spoil`` does to it."""

    class_names = Rectangles.class_names
    num_classes = 3

    def __init__(self, dataset, spoil=lambda detections: detections):
        self.answers = {round(float(dataset[i][0].sum()), 3): dataset[i][1] for i in range(len(dataset))}
        self.spoil = spoil
        self.batches, self.thresholds = [], []

    def detect(self, images, score_threshold=None):
        self.batches.append(len(images))
        self.thresholds.append(score_threshold)
        found = []
        for image in images:
            target = self.answers[round(float(image.sum()), 3)]
            count = len(target["labels"])
            found.append(self.spoil(Detections(target["boxes"], target["labels"], torch.linspace(0.9, 0.5, count))))
        return found


def hand_made():
    """The table of test_voc_ap.py for class 1, a perfect class 2, a class 3 without objects."""
    correct = [1, 0, 1, 1, 0, 0, 1]
    scores = [0.95, 0.90, 0.80, 0.70, 0.60, 0.50, 0.40]
    truth = [[100.0 * i, 0, 100.0 * i + 50, 50] for i in range(5)]
    objects = iter(truth)
    boxes = [next(objects) if right else [0, 500, 50, 550] for right in correct]
    target = {"boxes": torch.tensor([*truth, [0, 300, 40, 340]]), "labels": torch.tensor([1] * 5 + [2])}
    found = Detections(
        torch.tensor([*boxes, [0, 300, 40, 340]]), torch.tensor([1] * 7 + [2]), torch.tensor([*scores, 0.3])
    )
    return [found], [target]


def test_a_perfect_detector():
    dataset = Rectangles(7, 96)
    done = []
    model = Oracle(dataset)
    result = evaluate(model, dataset, batch_size=3, score_threshold=0.2, on_batch=done.append)
    assert model.batches == [3, 3, 1]
    assert done == [3, 6, 7]
    assert set(model.thresholds) == {0.2}
    assert result.voc.mean == result.voc_11point.mean == 1.0
    assert result.coco.mean == pytest.approx(1.0)
    assert result.images == 7
    assert 0 < result.seconds < 1
    assert sum(result.voc.objects) == sum(len(dataset[i][1]["labels"]) for i in range(7))


def test_wrong_classes_reach_nothing():
    dataset = Rectangles(4, 96)
    swapped = lambda found: Detections(found.boxes, found.labels % 3 + 1, found.scores)  # noqa: E731
    result = evaluate(Oracle(dataset, swapped), dataset)
    assert result.voc.mean == result.coco.mean == 0.0


def test_models_and_data_that_do_not_fit():
    dataset = Rectangles(2, 96)
    model = Oracle(dataset)
    model.class_names = ("a", "b", "c")
    with pytest.raises(ValueError, match="the model detects a, b, c, the data set has red, green, blue"):
        evaluate(model, dataset)
    model.class_names, model.num_classes = None, 4
    with pytest.raises(ValueError, match="4 classes, the data set 3"):
        evaluate(model, dataset)
    with pytest.raises(ValueError, match="no images"):
        evaluate(model, Rectangles(0))


def test_json_of_the_hand_made_table(tmp_path):
    result = measure(*hand_made(), NAMES)
    result.save(tmp_path / "evaluation.json")
    record = json.loads((tmp_path / "evaluation.json").read_text())
    area, points = 0.2 + 0.2 * 3 / 4 + 0.2 * 3 / 4 + 0.2 * 4 / 7, (3 + 4 * 3 / 4 + 2 * 4 / 7) / 11
    apple, orange, cherry = record["classes"]
    assert apple == {
        "name": "apple",
        "objects": 5,
        "coco": pytest.approx(apple["coco_50"]),  # boxes are exact or far off
        "coco_50": pytest.approx((21 + 40 * 3 / 4 + 20 * 4 / 7) / 101, abs=1e-6),
        "voc": pytest.approx(area),
        "voc_11point": pytest.approx(points),
    }
    assert (orange["voc"], orange["coco"]) == (1.0, 1.0)
    assert cherry == {
        "name": "cherry",
        "objects": 0,
        "coco": None,
        "coco_50": None,
        "voc": None,
        "voc_11point": None,
    }
    assert record["voc"] == {"area": pytest.approx((area + 1) / 2), "11point": pytest.approx((points + 1) / 2)}
    assert record["images"] == 1
    assert record["seconds_per_image"] is None


def test_table_has_a_row_per_class():
    text = io.StringIO()
    Console(file=text, width=120).print(as_table(measure(*hand_made(), NAMES, seconds=0.012)))
    rows = {line.split("│")[1].strip(): line for line in text.getvalue().splitlines() if line.startswith("│")}
    assert list(rows) == [*NAMES, "mean"]
    assert "0.614" in rows["apple"]
    assert "0.649" in rows["apple"]
    assert "1.000" in rows["blood orange"]
    assert "–" in rows["cherry"]
    assert "0.807" in rows["mean"]
    assert "12 ms each" in text.getvalue()


def test_curves(tmp_path):
    result = measure(*hand_made(), NAMES)
    files = plot_precision_recall(result, tmp_path / "plots")
    assert [file.name for file in files] == [
        "precision_recall.png",
        "precision_recall_apple.png",
        "precision_recall_blood_orange.png",
        "precision_recall_cherry.png",
    ]
    pixels = []
    for file in files:
        with Image.open(file) as picture:
            assert picture.size == (600, 480)
            pixels.append(picture.convert("RGB").tobytes())
    assert len(set(pixels)) == 4


def test_the_curve_behind_the_numbers():
    curve = measure(*hand_made(), NAMES).curves[0]
    assert curve.recall.tolist() == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6, 0.6, 0.8])
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4, 3 / 5, 3 / 6, 4 / 7])
    assert curve.envelope.tolist() == pytest.approx([1, 3 / 4, 3 / 4, 3 / 4, 3 / 5, 4 / 7, 4 / 7])
    assert curve.scores.tolist() == pytest.approx([0.95, 0.90, 0.80, 0.70, 0.60, 0.50, 0.40])
    empty = measure(*hand_made(), NAMES).curves[2]
    assert (empty.objects, len(empty.recall)) == (0, 0)
    assert math.isnan(empty.average("11point"))
