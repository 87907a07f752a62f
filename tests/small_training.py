"""A training of a few steps on a tiny detector, for the tests that look at what it leaves."""

from __future__ import annotations

from pathlib import Path

import torch
from rectangles import Rectangles
from torch import nn

import fasterrcnn
from fasterrcnn.backbone.tiny import Tiny
from fasterrcnn.training.loop import TrainConfig, train

CONFIG = TrainConfig(steps=6, batch_size=2, warmup_steps=2, checkpoint_every=2, seed=3)


def small_model(seed: int = 0, **overrides):
    torch.manual_seed(seed)
    arguments = {"rpn_post_nms_top_n": (50, 30), "roi_samples": 16, "min_size": None, "max_size": None, **overrides}
    return fasterrcnn.build("classic_vgg16", num_classes=3, **{"backbone": "tiny", **arguments})


class WithBatchNorm(Tiny):
    """The tiny trunk with one batch norm behind it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(self.out_channels)


def run(out_dir: Path, config: TrainConfig = CONFIG, *, dataset=None, model=None, on_step=None, **options):
    """Trains a fresh model; returns its parameters and the loss of each step."""
    model = small_model() if model is None else model
    history = {}

    def record(step, losses):
        history[step] = losses
        if on_step is not None:
            on_step(step, losses)

    dataset = Rectangles(5, 64, noisy=True) if dataset is None else dataset
    train(model, dataset, out_dir, config, on_step=record, progress=False, **options)
    return model.state_dict(), history


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
