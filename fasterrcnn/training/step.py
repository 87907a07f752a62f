"""One training step: losses, gradients, clipping, update; of one batch or of several parts, on one process or many."""

from __future__ import annotations

import math
import warnings
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fasterrcnn.distributed import processes, rank, summed
from fasterrcnn.training.average import MovingAverage
from fasterrcnn.training.batch_norm import synchronised
from fasterrcnn.training.failure import NonFiniteError
from fasterrcnn.training.normalizers import Normalizer, normalized
from fasterrcnn.training.sampling import image_seeds
from fasterrcnn.training.schedule import TrainConfig, learning_rate, make_optimizer
from fasterrcnn.types import Losses, Target
from fasterrcnn.weights import load_state


class Stepper:
    """A model, its optimiser and, where wanted, loss scaling (float16) and a moving average of the weights.

    Within :func:`fasterrcnn.distributed.joined` a step is of the images of all processes. With ``accumulate`` it has
    several parts one after another. Either gives the losses and the gradients of the whole batch at once
    (:mod:`fasterrcnn.training.normalizers`), and each image's sampling depends on its place in the whole batch alone.

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
        self.average = None if config.ema_decay is None else MovingAverage(model, config.ema_decay)
        self.parallel = model if processes() == 1 else _parallel(model)

    def __call__(self, images: list[Tensor], targets: list[Target], step: int) -> dict[str, float]:
        """Takes a step.

        Args:
            images, targets: This process's, ``batch_size × accumulate`` of each.
            step: Its number; 0 is the first.

        Returns:
            The losses of all processes' images by name and their sum as "loss".

        Raises:
            NonFiniteError: A loss or the gradient is not finite, in any process. No parameter has changed then. In
                float16 a gradient that is too large for the loss scaling only skips the update, as the scaling needs
                it.
        """
        config, model = self.config, self.model
        rate = learning_rate(config, step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts = [
            (images[first : first + config.batch_size], targets[first : first + config.batch_size], first)
            for first in range(0, len(images), config.batch_size)
        ]
        self.optimizer.zero_grad(set_to_none=True)
        with (
            synchronised(model, config.sync_bn and processes() > 1),
            normalized(model, len(parts) * processes(), known=len(parts) > 1) as normalizers,
        ):
            if len(parts) > 1:
                self._count(normalizers, parts, step)
            means = sum(self._backward(part, step, len(parts), last=part is parts[-1]) for part in parts)
        names = [*self._names, "loss"]
        # One read-back for all.
        own, everyone = torch.stack([means, summed(means) / processes()]).tolist()
        values = dict(zip(names, everyone, strict=True))
        if not math.isfinite(values["loss"]):
            listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
            message = f"the loss of step {step + 1} is not finite ({listed}). {_advice(rate)}"
            raise NonFiniteError(message, values, here=not math.isfinite(own[-1]))
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm or math.inf)
        # One such update would put NaN into every parameter, and into the next checkpoint. Loss scaling begins with
        # gradients that are too large by design, and skips those; below 1 it has nothing left to try.
        given_up = not self.scaler.is_enabled() or self.scaler.get_scale() < 1
        if given_up and not math.isfinite(norm):
            raise NonFiniteError(f"the gradient of step {step + 1} is not finite. {_advice(rate)}", values)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(model)
        return values

    def _losses(self, model: nn.Module, part: tuple[list[Tensor], list[Target], int], step: int) -> Losses:
        images, targets, first = part
        seed = step_seed(self.config, step)
        # Dropout and the like: other numbers in every part.
        torch.manual_seed(seed if (rank(), first) == (0, 0) else mixed_seed(seed, rank(), first))
        # The sampling has a seed for each image of the whole batch; those of the images before are passed over.
        self.model.generator.manual_seed(seed)
        before = rank() * self.config.batch_size * self.config.accumulate + first
        image_seeds(before, self.model.generator)
        mixed = self.config.precision != "float32"
        dtype = getattr(torch, self.config.precision) if mixed else None
        with torch.autocast(self.model.device.type, dtype, enabled=mixed):
            return model(images, targets)

    @torch.no_grad()
    def _count(self, normalizers: list[Normalizer], parts: list, step: int) -> None:
        """Lets the normalizers count the samples of all parts; the model stays as it is."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        with ExitStack() as counting:
            for normalizer in normalizers:
                counting.enter_context(normalizer.count())
            for part in parts:
                self._losses(self.model, part, step)
        for buffer, value in buffers:
            buffer.copy_(value)

    def _backward(self, part: tuple[list[Tensor], list[Target], int], step: int, parts: int, *, last: bool) -> Tensor:
        """Adds a part's gradients; returns its share of the losses and of their sum, [terms + 1]."""
        alone = self.parallel is not self.model and not last  # gradients meet after the last part
        with self.parallel.no_sync() if alone else nullcontext():
            terms = self._losses(self.parallel, part, step)
            loss = torch.stack(list(terms.values())).sum() / parts
            self.scaler.scale(loss).backward()
        self._names = tuple(terms)
        return torch.cat([torch.stack(list(terms.values())).detach() / parts, loss.detach()[None]])

    def averaged(self) -> AbstractContextManager[None]:
        """While this lasts, the model has the weights that are evaluated and saved for use."""
        return nullcontext() if self.average is None else self.average.applied(self.model)

    def finish(self) -> None:
        """Leaves the model with the weights that were saved for use."""
        if self.average is not None:
            self.model.load_state_dict(self.average.average)

    def state(self) -> dict[str, Any]:
        """What going on needs, for :meth:`restore`."""
        return {
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state(),
        }

    def restore(self, state: dict[str, Any], *, source: Path) -> None:
        """Goes back to a state.

        Raises:
            ValueError: It is another model's; the message names the source and what does not fit.
        """
        load_state(self.model, state["model"], source=source)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.restore(state["average"])


def _parallel(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the option's new name is not in torch 2.11
        # They are equal in all processes, but for the statistics of BatchNorm that is not synchronised.
        return DistributedDataParallel(model, broadcast_buffers=False)


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
