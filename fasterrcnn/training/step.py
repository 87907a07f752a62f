"""One training step: losses, gradients, clipping, update; in float32 or in automatic mixed precision."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fasterrcnn.training.failure import NonFiniteError
from fasterrcnn.training.schedule import TrainConfig, learning_rate, make_optimizer
from fasterrcnn.types import Target
from fasterrcnn.weights import load_state


class Stepper:
    """A model, its optimiser and, in float16, its loss scaling.

    Args:
        model: A detector; frozen parameters (``requires_grad`` False) stay out of the optimiser.
        config: How to train.
        total: Steps of the whole run, which schedules need.

    Raises:
        ValueError: A precision that the model's device has not.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, total: int) -> None:
        self.model, self.config, self.total = model, config, total
        self.optimizer = make_optimizer(model, config)
        device = model.device.type
        if config.precision == "float16" and device != "cuda":
            raise ValueError(f"precision 'float16' needs CUDA, the model is on {device}; 'bfloat16' runs there")
        self.scaler = torch.amp.GradScaler(device, enabled=config.precision == "float16")

    def __call__(self, images: list[Tensor], targets: list[Target], step: int) -> dict[str, float]:
        """Takes step ``step`` (0 is the first); returns the losses by name and their sum as "loss".

        Raises:
            NonFiniteError: A loss or the gradient is not finite. No parameter has changed then. In float16 a gradient
                that is too large for the loss scaling only skips the update, as the scaling needs it.
        """
        config, model = self.config, self.model
        rate = learning_rate(config, step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seed = step_seed(config, step)
        torch.manual_seed(seed)  # dropout and the like
        model.generator.manual_seed(seed)
        mixed = config.precision != "float32"
        dtype = getattr(torch, config.precision) if mixed else None
        with torch.autocast(model.device.type, dtype, enabled=mixed):
            terms = model(images, targets)
        loss = torch.stack(list(terms.values())).sum()
        # One read-back for all.
        numbers = torch.stack([*terms.values(), loss]).detach().tolist()
        values = dict(zip([*terms, "loss"], numbers, strict=True))
        if not math.isfinite(values["loss"]):
            listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
            message = f"the loss of step {step + 1} is not finite ({listed}). {_advice(rate)}"
            raise NonFiniteError(message, values)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm or math.inf)
        # One such update would put NaN into every parameter, and into the next checkpoint. Loss scaling begins with
        # gradients that are too large by design, and skips those; below 1 it has nothing left to try.
        given_up = not self.scaler.is_enabled() or self.scaler.get_scale() < 1
        if given_up and not math.isfinite(norm):
            raise NonFiniteError(f"the gradient of step {step + 1} is not finite. {_advice(rate)}", values)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return values

    def state(self) -> dict[str, Any]:
        """What going on needs, for :meth:`restore`."""
        return {
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any], *, source: Path) -> None:
        """Goes back to a state.

        Raises:
            ValueError: It is another model's; the message names the source and what does not fit.
        """
        load_state(self.model, state["model"], source=source)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def _advice(rate: float) -> str:
    return (
        f"The parameters and the last checkpoint are from before it; a lower learning rate (now {rate:g}) or a longer "
        "warm-up usually helps"
    )


def step_seed(config: TrainConfig, step: int) -> int:
    """What everything random of a step is seeded with."""
    return mixed_seed(config.seed, step)


def mixed_seed(*parts: int) -> int:
    """A 63-bit seed out of several numbers; neighbouring numbers give unrelated seeds (SplitMix64)."""
    value = 0
    for part in parts:
        value = (value + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value >> 1
