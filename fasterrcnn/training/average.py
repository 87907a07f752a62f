"""A moving average of the weights, which detects better than the last weights of a noisy training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """The exponential moving average of a model's parameters and buffers.

    After t updates the decay is min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten.

    Args:
        model: Whose; the average begins with its present state.
        decay: Part that the average keeps at each update, 0…1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the model's present state; what is not floating point, such as counters, is copied."""
        self.updates += 1
        kept = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - kept)
            else:
                self.average[name].copy_(tensor)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model has the average for a while."""
        own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.average)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state(self) -> dict[str, int | dict[str, Tensor]]:
        """What going on needs."""
        return {"updates": self.updates, "average": self.average}

    def restore(self, state: dict) -> None:
        """Goes back to a state."""
        self.updates = state["updates"]
        for name, tensor in self.average.items():
            tensor.copy_(state["average"][name])
