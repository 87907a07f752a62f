"""Learning rates, the optimiser's groups, and what a configuration refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rectangles import Rectangles
from small_training import small_model

from fasterrcnn.training.loop import TrainConfig, learning_rate, make_optimizer
from fasterrcnn.training.step import Stepper


def test_learning_rate():
    config = TrainConfig(steps=100, lr=1.0, warmup_steps=10)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.505)
    assert max(rates) == rates[9]
    assert 0.01 < rates[99] < 0.011
    assert learning_rate(replace(config, schedule="constant"), 99, 100) == 1.0


def test_learning_rate_in_steps():
    config = TrainConfig(steps=20, lr=0.8, warmup_steps=4, schedule="multistep", milestones=(10, 15), gamma=0.5)
    rates = [learning_rate(config, step, 20) for step in range(20)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8] + [0.8] * 6 + [0.4] * 5 + [0.2] * 5)


def test_the_optimizer_follows_the_schedule():
    """What the loop hands the optimiser, step by step."""
    config = TrainConfig(
        steps=4, batch_size=2, optimizer="sgd", lr=0.01, warmup_steps=2, schedule="multistep", milestones=(3,)
    )
    model, rates = small_model(), []
    stepper = Stepper(model.train(), config, 4)
    dataset = Rectangles(2, 64)
    images, targets = zip(*(dataset[i] for i in range(2)), strict=True)
    for step in range(4):
        stepper(list(images), list(targets), step)
        rates.append({group["lr"] for group in stepper.optimizer.param_groups})
    assert all(len(groups) == 1 for groups in rates)
    assert [rate for groups in rates for rate in groups] == pytest.approx([0.005, 0.01, 0.01, 0.001])


def test_classic_recipe():
    """The paper's numbers: SGD, rate 0.001, momentum 0.9, decay 0.0005, one image per step."""
    config = TrainConfig.classic(steps=1)
    optimizer = make_optimizer(small_model(), config)
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 0.0]
    assert (config.lr, config.batch_size) == (1e-3, 1)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(small_model().parameters()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either steps or epochs"),
        ({"steps": 1, "epochs": 1}, "either steps or epochs"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 1, "lr": -1.0}, "lr must be positive, got -1"),
        ({"steps": 1, "num_workers": -1}, "num_workers must not be negative"),
        ({"steps": 1, "optimizer": "lion"}, "'adamw' or 'sgd', got 'lion'"),
        ({"steps": 1, "schedule": "step"}, "'cosine', 'multistep' or 'constant', got 'step'"),
        ({"steps": 1, "precision": "half"}, "'float32', 'bfloat16' or 'float16', got 'half'"),
        ({"steps": 1, "momentum": 1.0}, "momentum must be in 0…1"),
        ({"steps": 1, "schedule": "multistep"}, "milestones belong to the schedule 'multistep', which needs some"),
        ({"steps": 1, "milestones": (5,)}, "milestones belong to the schedule 'multistep'"),
        ({"steps": 1, "schedule": "multistep", "milestones": (5, 5)}, "milestones must be ascending"),
        ({"steps": 1, "clip_grad_norm": 0.0}, "clip_grad_norm must be positive"),
    ],
)
def test_bad_configurations(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**arguments)
