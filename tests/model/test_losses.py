"""Losses, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fasterrcnn.training import StageLoss, smooth_l1

LOGITS = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [5.0, -5.0], [math.log(3), 0.0]])
LABELS = torch.tensor([1, 1, -1, 0])
DELTAS = torch.tensor([[0.5, 0, 0, 0], [0, 3, 0, 0], [9, 9, 9, 9], [9, 9, 9, 9.0]])


def test_smooth_l1():
    """½ d² below β, |d| − ½ above; the two agree at β."""
    prediction = torch.tensor([0.5, -3.0, 1.0])
    assert smooth_l1(prediction, torch.zeros(3)).item() == pytest.approx(0.125 + 2.5 + 0.5)
    assert smooth_l1(prediction, torch.zeros(3), beta=0.5).item() == pytest.approx(0.25 + 2.75 + 0.75)
    assert smooth_l1(prediction, torch.zeros(3), beta=0).item() == pytest.approx(4.5)


def test_rpn_loss():
    """Three samples: −log ½, −log ¾, −log ¾; box loss 0.125 + 2.5 of the two positives over three samples."""
    classification, box = StageLoss()(LOGITS, DELTAS, LABELS, torch.zeros(4, 4))
    assert classification.item() == pytest.approx((math.log(2) + 2 * math.log(4 / 3)) / 3)
    assert box.item() == pytest.approx(2.625 / 3)


def test_other_families():
    """Over the positives, times λ = 10, β = 1/9."""
    _, box = StageLoss(box_weight=10.0, normalizer="positives")(LOGITS, DELTAS, LABELS, torch.zeros(4, 4))
    assert box.item() == pytest.approx(10 * 2.625 / 2)
    _, box = StageLoss(beta=1 / 9)(LOGITS, DELTAS, LABELS, torch.zeros(4, 4))
    assert box.item() == pytest.approx((0.5 - 1 / 18 + 3 - 1 / 18) / 3)


def test_sigmoid():
    logits = torch.tensor([[math.log(3)], [0.0], [50.0]])
    classification, _ = StageLoss()(logits, torch.zeros(3, 4), torch.tensor([1, 0, -1]), torch.zeros(3, 4))
    assert classification.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_class_specific_columns():
    """Of 4(C+1) columns those of the label count, and those of background never."""
    deltas = torch.full((3, 12), 100.0)
    deltas[0, 8:12] = torch.tensor([0.0, 0, 0, 1])
    deltas[1, 4:8] = torch.tensor([0.0, 0, 2, 0])
    _, box = StageLoss()(torch.zeros(3, 3), deltas, torch.tensor([2, 1, 0]), torch.zeros(3, 4))
    assert box.item() == pytest.approx((0.5 + 1.5) / 3)


@pytest.mark.parametrize("labels", [[-1, -1, -1, -1], [0, 0, 0, 0]])
def test_nothing_to_learn_is_zero_and_differentiable(labels):
    logits, deltas = LOGITS.clone().requires_grad_(), DELTAS.clone().requires_grad_()
    classification, box = StageLoss()(logits, deltas, torch.tensor(labels), torch.zeros(4, 4))
    assert box.item() == 0
    assert (classification.item() == 0) == (labels[0] == -1)
    (classification + box).backward()
    assert not deltas.grad.any()
    assert logits.grad.isfinite().all()


def test_no_samples():
    logits, deltas = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 12, requires_grad=True)
    losses = StageLoss()(logits, deltas, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert [loss.item() for loss in losses] == [0, 0]


def test_bad_normalizer():
    with pytest.raises(ValueError, match="'sampled' or 'positives', got 'all'"):
        StageLoss(normalizer="all")
