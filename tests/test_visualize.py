"""Drawing detections."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn.visualize import class_colour, draw


def _detections(boxes, labels, scores):
    return SimpleNamespace(
        boxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels), scores=torch.tensor(scores)
    )


def test_box_is_drawn_on_its_pixels_and_the_input_stays():
    image = torch.zeros(3, 500, 600)
    picture = draw(image, _detections([[100.0, 200, 300, 400]], [1], [0.9]), ["coin"])
    assert picture.size == (600, 500)
    pixels = np.asarray(picture)
    colour = class_colour(1)
    for y, x in ((300, 100), (300, 299), (200, 250), (399, 200)):
        assert tuple(pixels[y, x]) == colour
    for y, x in ((300, 99), (300, 300), (400, 200), (300, 200)):
        assert tuple(pixels[y, x]) == (0, 0, 0)
    assert image.abs().max() == 0


def test_small_pictures_are_enlarged_by_whole_factors():
    picture = draw(torch.zeros(3, 150, 380), _detections([[10.0, 20, 60, 70]], [1], [0.9]), ["coin"])
    assert picture.size == (380 * 4, 150 * 4)
    assert tuple(np.asarray(picture)[150, 40]) == class_colour(1)
    assert draw(torch.zeros(3, 150, 380), _detections([], [], []), ["coin"], enlarge=False).size == (380, 150)


def test_labels_stay_on_the_picture():
    boxes = [[0.0, 0, 100, 100], [560.0, 0, 600, 30], [500.0, 480, 600, 500], [-20.0, -20, 700, 600]]
    picture = draw(
        torch.zeros(3, 500, 600), _detections(boxes, [1, 2, 3, 9], [0.1, 0.2, 0.3, 0.4]), ["a" * 30, "b", "c"]
    )
    assert picture.size == (600, 500)
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 4


def test_ground_truth_mappings_and_pillow_images():
    picture = draw(
        Image.new("L", (640, 480), 128),
        {"boxes": torch.tensor([[10.0, 50, 60, 90]]), "labels": torch.tensor([2])},
        ["coin", "cat"],
    )
    assert picture.mode == "RGB"
    assert tuple(np.asarray(picture)[60, 10]) == class_colour(2)


def test_nothing_found_changes_nothing():
    image = torch.rand(3, 480, 500, generator=torch.Generator().manual_seed(0))
    expected = image.mul(255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(draw(image, _detections([], [], []), [])), expected)


@pytest.mark.parametrize("label", range(1, 21))
def test_colours_of_the_first_classes_differ(label):
    others = [class_colour(other) for other in range(1, 21) if other != label]
    distance = min(sum(abs(a - b) for a, b in zip(class_colour(label), other, strict=True)) for other in others)
    assert distance > 20
