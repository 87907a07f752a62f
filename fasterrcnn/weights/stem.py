"""A first convolution, fitted to the colours a detector gives its trunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# The first convolution in torchvision's trunks → where a constant added to its output goes, and with which sign.
_SHIFTS = {"conv1.weight": ("bn1.running_mean", -1.0), "features.0.weight": ("features.0.bias", 1.0)}


@dataclass(frozen=True)
class InputRule:
    """What a trunk gets to see.

    Attributes:
        channels: "rgb" or "bgr".
        value_range: The largest value before normalisation.
        mean, std: Of the normalisation, in that order and range.
    """

    channels: str
    value_range: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> InputRule:
        """The rule of a detector built with these arguments."""
        return cls(
            arguments.get("image_channels", "rgb"),
            float(arguments.get("image_range", 1.0)),
            tuple(arguments.get("image_mean", (0.0, 0.0, 0.0))),
            tuple(arguments.get("image_std", (1.0, 1.0, 1.0))),
        )

    def in_words(self) -> str:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{self.channels.upper()} 0–{self.value_range:g}, mean ({mean}), deviation ({std})"


def fit_stem(trunk: dict[str, Tensor], theirs: InputRule, ours: InputRule) -> str | None:
    """Changes the first convolution of a trunk so that it gives for our input what it gave for theirs.

    Done where the order of colours or their range differ. The same pixel is x in our normalisation and a·x + b in
    theirs, so weights are multiplied by a, and what b contributes goes where the convolution's bias goes. Exact but for
    pixels at the border, where padding is the mean colour of one rule or the other. Where only mean and deviation
    differ nothing is changed: families that feed ImageNet weights unnormalised images mean it.

    Args:
        trunk: By torchvision's names; changed in place.
        theirs: What the file's trunk was trained on.
        ours: What the detector gives it.

    Returns:
        What was done or is worth knowing, in words; None if the rules agree.
    """
    if theirs.in_words() == ours.in_words():  # files have float32
        return None
    if (theirs.channels, theirs.value_range) == (ours.channels, ours.value_range):
        return f"the file's trunk was trained on {theirs.in_words()}; this detector gives it {ours.in_words()}"
    conv = next((name for name in _SHIFTS if name in trunk), None)
    if conv is None or trunk[conv].ndim != 4 or trunk[conv].shape[1] != 3:
        return None  # reported as missing or misshapen
    order = [0, 1, 2] if theirs.channels == ours.channels else [2, 1, 0]
    scale = theirs.value_range / ours.value_range
    means, stds = ([values[c] for c in order] for values in (theirs.mean, theirs.std))
    like = {"dtype": torch.float64, "device": trunk[conv].device}
    factor = torch.tensor([o * scale / t for o, t in zip(ours.std, stds, strict=True)], **like)
    shift = torch.tensor([(m * scale - t) / s for m, t, s in zip(ours.mean, means, stds, strict=True)], **like)
    weight = trunk[conv][:, order].double()
    trunk[conv] = (weight * factor[:, None, None]).to(trunk[conv].dtype)
    where, sign = _SHIFTS[conv]
    if where in trunk and trunk[where].shape == weight.shape[:1]:
        trunk[where] = (trunk[where].double() + sign * (weight.sum((2, 3)) @ shift)).to(trunk[where].dtype)
    return f"first convolution changed from {theirs.in_words()} to {ours.in_words()}"
