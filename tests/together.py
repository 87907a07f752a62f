"""Trains a small detector in several processes at once, as torchrun starts them.

    python together.py < plan.json

The plan is a list of {"name", "folder", "processes", "config", "batch_norm", "own_numbers", "spoiled", "images"}: a
training each, one after another. Everything is imported once; the processes are forks. Each leaves
``<folder>/<name>/<rank>.pt`` with the losses of every step and the parameters, or ``error`` in it. "own_numbers" lets
every process divide by its own numbers of samples, which is wrong; "spoiled" has an image of NaN; "images" is their
number, or a list with that of each process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # which optimisers import
from rectangles import Rectangles
from torch import nn

import fasterrcnn
from fasterrcnn import distributed
from fasterrcnn.backbone.tiny import Tiny
from fasterrcnn.training import normalizers
from fasterrcnn.training.loop import TrainConfig, train

TIMEOUT = 60  # seconds for one training
CONFIG = {"steps": 3, "batch_size": 4, "optimizer": "sgd", "lr": 0.01, "warmup_steps": 1, "checkpoint_every": 2}


class Uneven(Rectangles):
    """Some images have no objects, and some processes therefore fewer samples than others."""

    spoiled = False  # whether image 5 is all NaN

    def __getitem__(self, index: int):
        if index == 99:
            raise OSError("image 99 is not readable")
        image, target = super().__getitem__(index)
        if self.spoiled and index == 5:
            image = image * torch.nan
        if index % 3 == 0:
            target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        return image, target


class Normed(Tiny):
    """The tiny trunk with one BatchNorm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(self.out_channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(images))


def small_model(batch_norm: bool = False) -> nn.Module:
    """A detector whose losses are divided by numbers that differ from image to image."""
    torch.manual_seed(0)
    options = {"rpn_post_nms_top_n": (50, 30), "roi_samples": 64, "min_size": None, "max_size": None}
    model = fasterrcnn.build("classic_vgg16", num_classes=3, backbone=Normed() if batch_norm else "tiny", **options)
    model.roi_loss = replace(model.roi_loss, normalizer="positives")
    return model


def carry_out(plan: list[dict]) -> None:
    """Runs the trainings."""
    for scenario in plan:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        children = [os.fork() or _run(scenario, rank, port) for rank in range(scenario["processes"])]
        deadline = time.monotonic() + TIMEOUT
        while children:
            children = [child for child in children if os.waitpid(child, os.WNOHANG)[0] == 0]
            if time.monotonic() > deadline:
                for child in children:
                    os.kill(child, signal.SIGKILL)
                raise TimeoutError(scenario["name"])
            time.sleep(0.01)


def _run(scenario: dict, rank: int, port: int) -> None:
    folder = Path(scenario["folder"]) / scenario["name"]
    folder.mkdir(parents=True, exist_ok=True)
    if scenario["processes"] > 1:
        os.environ.update(
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(scenario["processes"])
        )
    if scenario.get("own_numbers"):
        normalizers.Normalizer.__call__ = lambda self, counts: counts.clamp(min=1)
    losses: list[dict[str, float]] = []
    found: dict = {"losses": losses}
    try:
        with distributed.joined():
            model = small_model(scenario.get("batch_norm", False))
            images = scenario.get("images", 9)
            dataset = Uneven(images[rank] if isinstance(images, list) else images, 64, noisy=True)
            dataset.spoiled = scenario.get("spoiled", False)
            config = TrainConfig(**{**CONFIG, **scenario["config"]})
            out = folder / f"out{rank}"  # as on machines that share nothing
            train(model, dataset, out, config, on_step=lambda _, values: losses.append(values), progress=False)
            found.update(parameters=model.state_dict(), wrote=out.exists())
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    finally:
        torch.save(found, folder / f"{rank}.pt")
        os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    carry_out(json.load(sys.stdin))
