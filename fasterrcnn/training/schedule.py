"""How to train: the settings of a run, and the optimiser and the learning rate they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "multistep", "constant")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are for small detectors from scratch; the published recipe is :meth:`classic`.

    Attributes:
        steps: Optimiser steps in all; give either these or ``epochs``.
        epochs: Passes over the dataset.
        batch_size: Images at a time, of each process where there are several; what is left of a pass over the data, too
            little for a step, is left out.
        accumulate: Batches whose gradients are added up for one step: the step of a batch as many times as large, but
            for rounding and BatchNorm that is not frozen, in the memory of one. Costs a second forward pass.
        optimizer: "adamw" or "sgd".
        lr: Highest learning rate.
        momentum: Of SGD.
        weight_decay: Of weights; biases and normalisation parameters are not decayed.
        warmup_steps: Steps over which the rate rises linearly.
        schedule: "cosine" to 1 % of ``lr`` at the end, "multistep" by ``milestones``, or "constant".
        milestones: Steps after which the rate is multiplied by ``gamma``, ascending ("multistep" alone).
        gamma: See ``milestones``.
        clip_grad_norm: Bound of the gradient's norm; None for no bound.
        precision: "float32", or automatic mixed precision with "bfloat16" (CPU, CUDA) or "float16" (CUDA, with loss
            scaling); parameters and the optimiser stay float32.
        freeze_bn: Keep BatchNorm in evaluation mode, as small batches need it. Parts a system freezes stay frozen
            either way.
        sync_bn: With several processes, let BatchNorm that is not frozen take its statistics over all of them.
        ema_decay: Use a moving average of the weights with this decay, such as 0.999, wherever they are evaluated or
            saved for use; None for the weights themselves.
        patience: Stop after so many evaluations in a row without a better mAP@0.5; None for not.
        num_workers: Processes that load images; 0 loads in the training process. The numbers do not depend on it.
        checkpoint_every: Steps between checkpoints.
        seed: Of everything random.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 4
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-2
    warmup_steps: int = 50
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    clip_grad_norm: float | None = 10.0
    precision: str = "float32"
    freeze_bn: bool = True
    sync_bn: bool = True
    ema_decay: float | None = None
    patience: int | None = None
    num_workers: int = 0
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        for name in ("steps", "epochs", "batch_size", "accumulate", "patience", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("warmup_steps", "num_workers", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("lr", "gamma", "clip_grad_norm"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, got {value}")
        for name in ("momentum", "ema_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must be in 0…1, got {value}")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be {_either(known)}, got {getattr(self, name)!r}")
        if list(self.milestones) != sorted(set(self.milestones)) or any(step < 1 for step in self.milestones):
            raise ValueError(f"milestones must be ascending steps of at least 1, got {self.milestones}")
        if (self.schedule == "multistep") != bool(self.milestones):
            raise ValueError(
                f"milestones belong to the schedule 'multistep', which needs some: schedule is {self.schedule!r}, "
                f"milestones are {self.milestones}"
            )

    @classmethod
    def classic(cls, **changes: Any) -> TrainConfig:
        """Fine-tuning from ImageNet weights, after the paper (section 3.1.3): SGD, rate 0.001, decay 0.0005."""
        recipe = {"batch_size": 1, "optimizer": "sgd", "lr": 1e-3, "weight_decay": 5e-4, "schedule": "constant"}
        return cls(**{**recipe, **changes})

    def images_per_step(self, processes: int = 1) -> int:
        """Images of one step, of all processes together."""
        return self.batch_size * self.accumulate * processes

    def total_steps(self, dataset_length: int, processes: int = 1) -> int:
        """Optimiser steps on a dataset of this length."""
        return (
            self.steps if self.steps is not None else self.epochs * (dataset_length // self.images_per_step(processes))
        )


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a configuration over the parameters that are not frozen; only weights of two or more dimensions
    decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Rate of step ``step`` (0 is the first) of ``total``."""
    rate = config.lr * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / max(1, total)))
    elif config.schedule == "multistep":
        rate *= config.gamma ** sum(step >= milestone for milestone in config.milestones)
    return rate


def _either(names: tuple[str, ...]) -> str:
    quoted = [repr(name) for name in names]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
