"""The last step, by hand."""

from __future__ import annotations

import math

import torch

from fasterrcnn.roi import DetectionLayer, class_rows

SIZE = (100, 200)
BOXES = torch.tensor([[10, 10, 50, 50], [12, 10, 52, 50], [100, 20, 140, 60], [60, 60, 90, 90.0]])


def logits_of(probabilities) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def detect(logits, deltas=None, boxes=BOXES, valid=None, layer=None, **options):
    layer = DetectionLayer() if layer is None else layer
    deltas = torch.zeros(len(boxes), 4 * logits.shape[1]) if deltas is None else deltas
    valid = torch.ones(len(boxes), dtype=torch.bool) if valid is None else valid
    return layer(logits, deltas, boxes, valid, SIZE, **options)


PROBABILITIES = logits_of([[0.09, 0.8, 0.11], [0.2, 0.7, 0.1], [0.32, 0.08, 0.6], [0.97, 0.02, 0.01]])


def test_scores_labels_and_suppression():
    """The second box loses to the first (IoU 0.905) in either class; 0.05 drops the last one; a proposal may be two
    detections."""
    found = detect(PROBABILITIES)
    assert found.labels.tolist() == [1, 2, 2, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.8, 0.6, 0.11, 0.08]))
    torch.testing.assert_close(found.boxes, BOXES[[0, 2, 0, 2]])


def test_nms_is_per_class():
    logits = logits_of([[0.1, 0.89, 0.01], [0.1, 0.01, 0.89]])
    assert detect(logits, boxes=BOXES[:2]).labels.tolist() == [1, 2]


def test_thresholds_of_a_call():
    assert len(detect(PROBABILITIES, score_threshold=0.5)) == 2
    assert len(detect(PROBABILITIES, score_threshold=0.5, nms_threshold=0.95)) == 3
    assert len(detect(PROBABILITIES, max_detections=1)) == 1
    assert detect(PROBABILITIES, score_threshold=0.0, max_detections=0).boxes.shape == (0, 4)


def test_threshold_is_exclusive():
    logits = torch.tensor([[0.0, 0.0]])
    assert len(detect(logits, boxes=BOXES[:1], score_threshold=0.5)) == 0
    assert len(detect(logits, boxes=BOXES[:1], score_threshold=0.4999)) == 1


def test_unused_slots_do_not_count():
    valid = torch.tensor([False, True, True, True])
    found = detect(PROBABILITIES, valid=valid, score_threshold=0.5)
    torch.testing.assert_close(found.boxes, BOXES[[1, 2]])


def test_each_class_has_its_own_offsets_in_units_of_their_deviation():
    """dx = 1 · 0.1 · width and dh = 1 · 0.2 in the logarithm, in the columns of class 2 only."""
    deltas = torch.zeros(4, 12)
    deltas[2, 8], deltas[2, 11] = 1.0, 1.0
    found = detect(PROBABILITIES, deltas, score_threshold=0.5)
    half = 20 * math.exp(0.2)
    torch.testing.assert_close(found.boxes[1], torch.tensor([104, 40 - half, 144, 40 + half]))
    torch.testing.assert_close(found.boxes[0], BOXES[0])


def test_clipped_and_nothing_left_is_dropped():
    boxes = torch.tensor([[-20, 50, 30, 130], [250, 10, 290, 40.0]])
    found = detect(logits_of([[0.1, 0.9], [0.1, 0.9]]), boxes=boxes)
    assert found.boxes.tolist() == [[0, 50, 30, 100]]


def test_bad_values_are_not_detected():
    logits = torch.tensor([[0.0, math.nan], [0.0, 5.0]])
    deltas = torch.zeros(2, 8)
    deltas[1, 4] = math.nan
    assert len(detect(logits, deltas, boxes=BOXES[:2])) == 0


def test_no_proposals():
    found = detect(torch.zeros(0, 3), boxes=torch.zeros(0, 4))
    assert (found.boxes.shape, found.labels.shape, found.scores.shape) == ((0, 4), (0,), (0,))


def test_candidates_per_class():
    """Only the best of each class enter NMS; a proposal below the threshold takes up no place."""
    boxes = torch.arange(4.0)[:, None] * torch.tensor([30.0, 0, 30, 0]) + torch.tensor([0.0, 0, 20, 20])
    logits = logits_of([[0.3, 0.6, 0.1], [0.01, 0.9, 0.09], [0.5, 0.04, 0.46], [0.1, 0.7, 0.2]])
    found = detect(logits, boxes=boxes, layer=DetectionLayer(candidates_per_class=2))
    assert found.labels.tolist() == [1, 1, 2, 2]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.7, 0.46, 0.2]))
    torch.testing.assert_close(found.boxes, boxes[[1, 3, 2, 3]])
    valid = torch.tensor([True, False, True, True])
    found = detect(logits, boxes=boxes, layer=DetectionLayer(candidates_per_class=2), valid=valid)
    torch.testing.assert_close(found.scores, torch.tensor([0.7, 0.6, 0.46, 0.2]))
    assert len(detect(logits, boxes=boxes, layer=DetectionLayer(candidates_per_class=400))) == 7


def test_candidates_are_chosen_before_nms():
    """The best two of a class overlap: one is left, and the third does not move up."""
    boxes = torch.tensor([[0, 0, 20, 20], [1, 0, 21, 20], [100, 0, 120, 20.0]])
    logits = logits_of([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    assert len(detect(logits, boxes=boxes, layer=DetectionLayer(candidates_per_class=2))) == 1
    assert len(detect(logits, boxes=boxes)) == 2


def test_columns_without_background():
    """4C columns: those of label l are number l − 1."""
    deltas = torch.zeros(4, 12)
    deltas[2, 8], deltas[0, 4] = 1.0, 2.0
    with_background, without = detect(PROBABILITIES, deltas), detect(PROBABILITIES, deltas[:, 4:])
    assert torch.equal(with_background.boxes, without.boxes)
    torch.testing.assert_close(without.boxes[0], torch.tensor([18.0, 10, 58, 50]))
    torch.testing.assert_close(without.boxes[1], torch.tensor([104.0, 20, 144, 60]))


def test_rows():
    """Class-major, −1 for what is suppressed or not good enough; the same detections as in the list."""
    rows = class_rows(
        DetectionLayer(), PROBABILITIES, torch.zeros(4, 8), BOXES, torch.tensor([True, True, True, True]), SIZE
    )
    assert rows.ids[:, 0].tolist() == [0, -1, 0, -1, 1, -1, 1, -1]
    torch.testing.assert_close(rows.scores[:, 0], torch.tensor([0.8, -1, 0.08, -1, 0.11, -1, 0.6, -1]))
    nothing = torch.full((4,), -1.0)
    expected = [BOXES[0], nothing, BOXES[2], nothing] * 2
    torch.testing.assert_close(rows.boxes, torch.stack(expected))


def test_rows_have_no_bound():
    boxes = torch.arange(150.0)[:, None] * torch.tensor([1.0, 0, 1, 0]) + torch.tensor([0.0, 0, 0.9, 20])
    logits = logits_of([[0.2, 0.8]]).expand(150, 2)
    rows = class_rows(DetectionLayer(), logits, torch.zeros(150, 4), boxes, torch.ones(150, dtype=torch.bool), SIZE)
    assert (rows.ids == 0).all()
    assert len(detect(logits, torch.zeros(150, 4), boxes=boxes)) == 100


def test_rows_of_nothing():
    rows = class_rows(
        DetectionLayer(), torch.zeros(0, 3), torch.zeros(0, 8), torch.zeros(0, 4), torch.zeros(0, dtype=bool), SIZE
    )
    assert (rows.ids.shape, rows.scores.shape, rows.boxes.shape) == ((0, 1), (0, 1), (0, 4))
