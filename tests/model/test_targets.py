"""Matching, sampling and targets, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.training import AnchorTargets, Matcher, ProposalTargets, Sampler
from fasterrcnn.training.targets import anchors_inside, check_targets, labels_of

SIZE = (100, 100)
GROUND_TRUTH = torch.tensor([[0, 0, 10, 10], [50, 50, 60, 60.0]])
# IoU with the first: 1, 0.7, 0.5, 0.2, 0; with the second: 0.4 for the last but one, 0 for the last.
BOXES = torch.tensor(
    [[0, 0, 10, 10], [0, 0, 10, 7], [0, 0, 10, 5], [0, 0, 2, 10], [50, 50, 60, 54], [80, 80, 90, 90.0]]
)


def test_matcher_thresholds():
    """0.7 is positive, 0.5 ignored, 0.2 background; 0.4 would be ignored, but is the best the second one has."""
    assert Matcher(0.7, 0.3)(BOXES, GROUND_TRUTH).tolist() == [0, 0, -2, -1, -2, -1]
    assert Matcher(0.7, 0.3, best_of_each=True)(BOXES, GROUND_TRUTH).tolist() == [0, 0, -2, -1, 1, -1]
    assert Matcher(0.5, 0.5)(BOXES, GROUND_TRUTH).tolist() == [0, 0, 0, -1, -1, -1]


def test_best_of_each_includes_ties():
    boxes = torch.tensor([[0, 0, 5, 10], [5, 0, 10, 10], [0, 0, 3, 10.0]])
    assert Matcher(0.7, 0.3, best_of_each=True)(boxes, GROUND_TRUTH[:1]).tolist() == [0, 0, -2]


def test_best_of_each_ignores_what_nothing_overlaps():
    """IoU 0 everywhere is no tie for the best."""
    far = torch.tensor([[200, 200, 210, 210.0]])
    assert Matcher(0.7, 0.3, best_of_each=True)(BOXES, far).tolist() == [-1] * 6


def test_matcher_without_ground_truth_or_boxes():
    assert Matcher(0.7, 0.3, best_of_each=True)(BOXES, torch.zeros(0, 4)).tolist() == [-1] * 6
    assert Matcher(0.7, 0.3, best_of_each=True)(torch.zeros(0, 4), GROUND_TRUTH).shape == (0,)


def test_degenerate_boxes_are_background():
    point = torch.tensor([[5, 5, 5, 5.0]])
    assert Matcher(0.5, 0.5)(point, point).tolist() == [-1]


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [(500, 500, (128, 128)), (10, 500, (10, 246)), (500, 20, (128, 20)), (0, 500, (0, 256)), (0, 0, (0, 0))],
)
def test_sample_counts(positives, negatives, expected):
    positive = torch.arange(positives + negatives) < positives
    drawn = Sampler(256, 0.5)(positive, ~positive, 0)
    assert tuple(int(mask.sum()) for mask in drawn) == expected
    assert not (drawn[0] & ~positive).any()
    assert not (drawn[1] & positive).any()


def test_anchor_targets():
    labels, deltas = AnchorTargets()(BOXES, GROUND_TRUTH, SIZE, 0)
    assert labels.tolist() == [1, 1, -1, 0, 1, 0]
    # (0, 0, 10, 7) → (0, 0, 10, 10): dy = (5 − 3.5)/7, dh = log(10/7)
    expected = torch.zeros(6, 4)
    expected[1] = torch.tensor([0, 1.5 / 7, 0, math.log(10 / 7)])
    expected[4] = torch.tensor([0, 3 / 4, 0, math.log(10 / 4)])
    torch.testing.assert_close(deltas, expected)


def test_anchor_targets_are_256_half_positive():
    many = BOXES.repeat(100, 1)
    labels, deltas = AnchorTargets()(many, GROUND_TRUTH, SIZE, 0)
    assert [(labels == value).sum().item() for value in (1, 0)] == [128, 128]
    assert not deltas[labels != 1].any()


def test_anchors_crossing_the_border_can_be_left_out():
    boxes = torch.tensor([[-1, 0, 10, 10], [0, 0, 10, 10], [70, 70, 101, 90], [70, 70, 100, 90.0]])
    labels, _ = AnchorTargets(border="ignore")(boxes, GROUND_TRUTH[:1], SIZE, 0)
    assert labels.tolist() == [-1, 1, -1, 0]
    labels, _ = AnchorTargets()(boxes, GROUND_TRUTH[:1], SIZE, 0)
    assert labels.tolist() == [1, 1, 0, 0]


def test_proposal_targets():
    """Proposals 0–2 and both ground truths are positive; targets are divided by the standard deviations .1 and .2."""
    boxes, labels, deltas = ProposalTargets()(BOXES, GROUND_TRUTH, torch.tensor([7, 3]), 0)
    assert len(boxes) == 8
    assert labels.tolist() == [7, 7, 7, 7, 3, 0, 0, 0]
    torch.testing.assert_close(boxes[:5], torch.cat([BOXES[:3], GROUND_TRUTH]))
    expected = torch.zeros(8, 4)
    expected[1] = torch.tensor([0, 1.5 / 7 / 0.1, 0, math.log(10 / 7) / 0.2])
    expected[2] = torch.tensor([0, 2.5 / 5 / 0.1, 0, math.log(2) / 0.2])
    torch.testing.assert_close(deltas, expected)


def test_proposal_targets_are_128_half_positive():
    labels = ProposalTargets()(BOXES.repeat(100, 1), GROUND_TRUTH, torch.tensor([7, 3]), 0)[1]
    assert len(labels) == 128
    assert (labels > 0).sum() == 64


def test_no_ground_truth_is_all_background():
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    boxes, labels, deltas = ProposalTargets()(BOXES, *none, 0)
    assert len(boxes) == 6
    assert not labels.any()
    assert not deltas.any()
    labels, deltas = AnchorTargets()(BOXES, none[0], SIZE, 0)
    assert labels.tolist() == [0] * 6


def test_ground_truth_can_stay_out():
    boxes, labels, _ = ProposalTargets(add_ground_truth=False)(BOXES, GROUND_TRUTH, torch.tensor([7, 3]), 0)
    assert len(boxes) == 6
    assert labels.tolist() == [7, 7, 7, 0, 0, 0]


def test_bad_rules():
    with pytest.raises(ValueError, match="negative_iou <= positive_iou"):
        Matcher(0.3, 0.7)
    with pytest.raises(ValueError, match="num_samples >= 1"):
        Sampler(0, 0.5)


def target(boxes=((0, 0, 5, 5),), labels=(1,), dtype=torch.int64):
    return {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels, dtype=dtype)}


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([], ValueError, "0 targets for 1 images"),
        ([[1]], TypeError, "target 0 must be a dict with boxes and labels, got list"),
        ([{"boxes": torch.zeros(0, 4)}], TypeError, r"got \['boxes'\]"),
        ([target(labels=(1, 2))], ValueError, r"got \[1, 4\] and \[2\]"),
        ([target(dtype=torch.float32)], TypeError, "must be int64, got torch.float32"),
        ([target(boxes=((5, 0, 5, 5),))], ValueError, "box 0 of target 0 must be finite with x1 < x2"),
        ([target(boxes=((0, 0, math.nan, 5),))], ValueError, "must be finite"),
        ([target(labels=(0,))], ValueError, "labels of target 0 must be in 1…3, got 0…0"),
        ([target(labels=(4,))], ValueError, "got 4…4"),
    ],
)
def test_unusable_targets(targets, error, message):
    with pytest.raises(error, match=message):
        check_targets([torch.zeros(3, 10, 10)], targets, 3)


def test_usable_targets():
    check_targets([0, 0], [target(), target(boxes=torch.zeros(0, 4).tolist() or [[0, 0, 1, 1]])], 3)
    check_targets([0], [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}], 3)


def test_border_keep_ignore_exclude():
    """The best anchor of the ground truth crosses the border; the best inside has an IoU of 0.5.

    "keep" counts the former; "ignore" leaves it out and nothing is positive; "exclude" makes the latter positive.
    """
    anchors = torch.tensor([[-1, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 2], [95, 50, 105, 60], [60, 60, 70, 70.0]])
    expected = {"keep": [1, -1, 0, 0, 0], "ignore": [-1, -1, 0, -1, 0], "exclude": [-1, 1, 0, -1, 0]}
    for border, labels in expected.items():
        found, deltas = AnchorTargets(border=border)(anchors, GROUND_TRUTH[:1], SIZE, 0)
        assert found.tolist() == labels, border
        assert deltas.isfinite().all()
        assert deltas.any(dim=1).tolist() == [label == 1 for label in labels]


@pytest.mark.parametrize(("inclusive", "inside"), [(True, [True, False]), (False, [True, True])])
def test_inside_when_the_last_pixel_counts(inclusive, inside):
    """Of 100 pixels the last is number 99."""
    boxes = torch.tensor([[0, 0, 99, 99], [0, 0, 100, 99.0]])
    assert anchors_inside(boxes, SIZE, inclusive=inclusive).tolist() == inside
    targets = AnchorTargets(coder=BoxCoder(inclusive=inclusive), border="ignore")
    truth = torch.tensor([[0, 0, 99, 98.0]])
    assert (targets(boxes, truth, SIZE, 0)[0] == 1).tolist() == inside


def test_border_without_ground_truth():
    anchors = torch.tensor([[-1, 0, 10, 10], [0, 0, 10, 5.0]])
    for border in ("ignore", "exclude"):
        labels, _ = AnchorTargets(border=border)(anchors, torch.zeros(0, 4), SIZE, 0)
        assert labels.tolist() == [-1, 0]


def test_unknown_border():
    with pytest.raises(ValueError, match="border must be 'keep', 'ignore' or 'exclude', got 'drop'"):
        AnchorTargets(border="drop")


def test_targets_in_three_steps():
    """Match, sample, encode: what a call does, one after another."""
    many = BOXES.repeat(100, 1)
    targets = AnchorTargets()
    expected = targets(many, GROUND_TRUTH, SIZE, 3)
    matches = targets.match(many, GROUND_TRUTH, SIZE)
    labels = labels_of(matches)
    assert labels[:6].tolist() == [1, 1, -1, 0, 1, 0]
    sampled = targets.sample(labels, 3)
    assert torch.equal(sampled, expected[0])
    assert torch.equal(targets.encode(many, GROUND_TRUTH, sampled, matches), expected[1])

    targets, classes = ProposalTargets(add_ground_truth=False), torch.tensor([7, 3])
    boxes, labels, deltas = targets(many, GROUND_TRUTH, classes, 3)
    all_labels, matches = targets.match(many, GROUND_TRUTH, classes)
    index = targets.sample(all_labels, 3)
    assert torch.equal(many[index], boxes)
    assert torch.equal(all_labels[index], labels)
    assert torch.equal(targets.encode(boxes, GROUND_TRUTH, labels, matches[index]), deltas)


def test_proposals_between_two_thresholds_do_not_count():
    """IoU 0.5 is neither positive at 0.7 nor background below 0.3."""
    targets = ProposalTargets(Matcher(0.7, 0.3), add_ground_truth=False)
    labels, _ = targets.match(BOXES, GROUND_TRUTH, torch.tensor([7, 3]))
    assert labels.tolist() == [7, 7, -1, 0, -1, 0]
    boxes, _, _ = targets(BOXES, GROUND_TRUTH, torch.tensor([7, 3]), 0)
    torch.testing.assert_close(boxes, BOXES[[0, 1, 3, 5]])
