"""VOC average precision against tables computed by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from fasterrcnn.evaluation.voc_ap import average_precision, match_detections, mean_average_precision


def _found(boxes, labels, scores):
    return SimpleNamespace(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels),
        scores=torch.tensor(scores),
    )


def _truth(boxes, labels, **more):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        **more,
    }


# rank  score  right  precision  recall (of 5 objects)   best precision from here on
# 1     .95    yes    1/1        0.2                      1
# 2     .90    no     1/2        0.2                      2/3
# 3     .80    yes    2/3        0.4                      2/3
# 4     .70    yes    3/4        0.6                      3/4   -> so ranks 2…4 have envelope 3/4
# 5     .60    no     3/5        0.6                      3/5
# 6     .50    no     3/6        0.6                      4/7
# 7     .40    yes    4/7        0.8                      4/7
SCORES = torch.tensor([0.95, 0.90, 0.80, 0.70, 0.60, 0.50, 0.40])
CORRECT = torch.tensor([1, 0, 1, 1, 0, 0, 1])


def test_area_of_the_hand_computed_table():
    expected = 0.2 * 1 + 0.2 * 3 / 4 + 0.2 * 3 / 4 + 0.2 * 4 / 7
    assert average_precision(SCORES, CORRECT, 5) == pytest.approx(expected, abs=1e-12)


def test_eleven_points_of_the_hand_computed_table():
    # recalls 0, .1, .2 -> 1; .3 … .6 -> 3/4; .7, .8 -> 4/7; .9, 1 -> 0
    expected = (3 * 1 + 4 * 3 / 4 + 2 * 4 / 7) / 11
    assert average_precision(SCORES, CORRECT, 5, method="11point") == pytest.approx(expected, abs=1e-12)


def test_order_of_the_input_does_not_matter():
    shuffle = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    assert average_precision(SCORES[shuffle], CORRECT[shuffle], 5) == average_precision(SCORES, CORRECT, 5)


def test_extremes():
    assert average_precision(torch.tensor([0.9, 0.8]), torch.tensor([1, 1]), 2) == 1.0
    assert average_precision(torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), 2) == 0.0
    assert average_precision(torch.zeros(0), torch.zeros(0), 3) == 0.0
    assert average_precision(torch.zeros(0), torch.zeros(0), 3, method="11point") == 0.0
    assert math.isnan(average_precision(torch.zeros(0), torch.zeros(0), 0))
    with pytest.raises(ValueError, match="method"):
        average_precision(SCORES, CORRECT, 5, method="12point")


def test_a_second_detection_of_an_object_is_a_false_alarm():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
    truth = torch.tensor([[0.0, 0, 10, 10]])
    assert match_detections(boxes, torch.tensor([0.5, 0.9, 0.8]), truth).tolist() == [0, 1, 0]


def test_a_detection_looks_only_at_the_object_it_overlaps_most():
    # the second detection overlaps object 0 most (0.9) although object 1 (0.53) is still free: a false alarm,
    # as in VOC's kit
    truth = torch.tensor([[0.0, 0, 10, 10], [0, 4, 10, 14]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 1, 10, 11]])
    assert match_detections(boxes, torch.tensor([0.9, 0.8]), truth).tolist() == [1, 0]


def test_iou_equal_to_the_threshold_counts():
    truth = torch.tensor([[0.0, 0, 10, 10]])
    half = torch.tensor([[0.0, 0, 10, 5]])
    assert match_detections(half, torch.ones(1), truth, iou_threshold=0.5).tolist() == [1]
    assert match_detections(half, torch.ones(1), truth, iou_threshold=0.51).tolist() == [0]


def test_mean_over_classes_and_images_by_hand():
    targets = [
        _truth([[0, 0, 10, 10], [20, 20, 40, 40]], [1, 2]),
        _truth([[5, 5, 25, 25]], [1]),
        _truth([], []),
    ]
    detections = [
        _found([[0, 0, 10, 10], [20, 20, 40, 41]], [1, 2], [0.9, 0.6]),
        _found([[100, 100, 120, 120]], [1], [0.8]),
        _found([[0, 0, 9, 9]], [2], [0.7]),
    ]
    # class 1: right (.9), wrong (.8), 2 objects -> AP 0.5; class 2: wrong (.7), right (.6), 1 object -> AP 0.5;
    # class 3: absent
    result = mean_average_precision(detections, targets, 3)
    assert result.per_class[:2] == (0.5, 0.5)
    assert math.isnan(result.per_class[2])
    assert result.mean == 0.5
    assert result.objects == (2, 1, 0)


def test_a_box_of_the_wrong_class_finds_nothing():
    result = mean_average_precision([_found([[0, 0, 10, 10]], [2], [1.0])], [_truth([[0, 0, 10, 10]], [1])], 2)
    assert result.mean == 0.0


def test_difficult_objects_neither_help_nor_harm():
    targets = [_truth([[0, 0, 10, 10], [50, 50, 60, 60]], [1, 1], difficult=torch.tensor([False, True]))]
    both = _found([[50, 50, 60, 60], [0, 0, 10, 10]], [1, 1], [0.9, 0.8])
    result = mean_average_precision([both], targets, 1)
    assert result.mean == 1.0
    assert result.objects == (1,)


def test_nothing_at_all():
    result = mean_average_precision([], [], 2)
    assert math.isnan(result.mean)
    with pytest.raises(ValueError, match="one each per image"):
        mean_average_precision([], [_truth([], [])], 2)
