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


def test_columns_without_background():
    """4C columns: those of label l are number l − 1."""
    deltas = torch.full((3, 8), 100.0)
    deltas[0, 4:8] = torch.tensor([0.0, 0, 0, 1])
    deltas[1, 0:4] = torch.tensor([0.0, 0, 2, 0])
    deltas.requires_grad_()
    _, box = StageLoss()(torch.zeros(3, 3), deltas, torch.tensor([2, 1, 0]), torch.zeros(3, 4))
    assert box.item() == pytest.approx((0.5 + 1.5) / 3)
    box.backward()
    assert deltas.grad.nonzero().tolist() == [[0, 7], [1, 2]]


def test_one_class_without_background():
    """4C columns with C = 1 are four, which serve all classes anyway."""
    deltas = torch.tensor([[0.0, 0, 0, 1], [9, 9, 9, 9]])
    _, box = StageLoss()(torch.zeros(2, 2), deltas, torch.tensor([1, 0]), torch.zeros(2, 4))
    assert box.item() == pytest.approx(0.25)


def test_with_and_without_background_agree():
    """Of the same numbers; background's columns never count."""
    generator = torch.Generator().manual_seed(0)
    deltas, targets = torch.randn(50, 20, generator=generator), torch.randn(50, 4, generator=generator)
    logits, labels = torch.randn(50, 6, generator=generator), torch.randint(0, 6, (50,), generator=generator)
    with_background = torch.cat([torch.full((50, 4), 1e3), deltas], dim=1)
    assert StageLoss()(logits, deltas, labels, targets) == StageLoss()(logits, with_background, labels, targets)
