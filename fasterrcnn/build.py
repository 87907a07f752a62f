"""The named systems, each a page of constructor arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fasterrcnn.classic import FasterRCNN
from fasterrcnn.generalized import SIGMOID, c4
from fasterrcnn.model import TwoStageDetector
from fasterrcnn.stepwise import StepwiseRCNN

IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class System:
    """How a system is made.

    Attributes:
        make: Takes ``num_classes``, ``backbone`` and the arguments.
        backbone: The name of its own.
        arguments: Where it differs from what ``make`` has as defaults.
        tiny: What else differs with the tiny backbone: then the system is one for small pictures of small objects, with
            anchors of 24 to 160 pixels instead of 128 to 512, and counts to match.
    """

    make: Callable[..., TwoStageDetector]
    backbone: str
    arguments: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)


# Also RoIAlign, because rounding to 16 pixels is coarse for small objects.
CLASSIC_TINY = {
    "anchor_scales": (1.5, 3, 6, 10),
    "rpn_post_nms_top_n": (300, 100),
    "rpn_min_size": 8.0,
    "rpn_samples": 128,
    "roi_pooling": "align",
    "roi_samples": 64,
    "min_size": 320,
    "max_size": 480,
    **IMAGENET,
}
C4_TINY = {
    "anchor_sizes": (24, 48, 96, 160),
    "rpn_post_nms_top_n": (300, 100),
    "rpn_samples": 128,
    "roi_samples": 64,
    "frozen_stages": 0,
    "min_size": 320,
    "max_size": 480,
}
STEPWISE_TINY = {
    "image_size": (320, 320),
    "anchor_sizes": (24, 48, 96, 160),
    "rpn_post_nms_top_n": (300, 100),
    "rpn_min_size": 8.0,
    "rpn_samples": 128,
    "roi_samples": 64,
    "roi_positive_iou": 0.5,
    "roi_add_ground_truth": True,
    "head_channels": (128, 128),
    **IMAGENET,
}

SYSTEMS = {
    "classic_vgg16": System(FasterRCNN, "vgg", tiny=CLASSIC_TINY),
    "classic_resnet50": System(FasterRCNN, "resnet50", tiny=CLASSIC_TINY),
    "resnet50_c4_sigmoid": System(c4, "resnet50", SIGMOID, {**C4_TINY, "rpn_min_size": 8.0}),
    "resnet50_c4": System(c4, "resnet50", tiny=C4_TINY),
    "stepwise_vgg16": System(StepwiseRCNN, "vgg", tiny=STEPWISE_TINY),
}


def build(name: str, *, num_classes: int, backbone: str | nn.Module | None = None, **overrides: Any) -> nn.Module:
    """Builds a system by name.

    Args:
        name: "classic_vgg16", "classic_resnet50", "resnet50_c4_sigmoid", "resnet50_c4" or "stepwise_vgg16".
        num_classes: Background not counted, ≥ 1.
        backbone: Instead of the system's own: "vgg", "resnet50", "tiny", or a module (see
            :mod:`fasterrcnn.backbone.base`). "tiny" also brings arguments that suit small objects.
        **overrides: Arguments of :class:`fasterrcnn.FasterRCNN` (classic), :func:`fasterrcnn.generalized.c4` or
            :class:`fasterrcnn.stepwise.StepwiseRCNN`; :func:`default_arguments` lists them with their values.

    Returns:
        The detector, in training mode.

    Raises:
        ValueError: Unknown name.
        TypeError: An argument the system does not have.
    """
    system = find_system(name)
    backbone = system.backbone if backbone is None else backbone
    unknown = sorted(overrides.keys() - inspect.signature(system.make).parameters.keys())
    if unknown:
        raise TypeError(f"{name} has no argument {', '.join(unknown)}; it has {', '.join(default_arguments(name))}")
    model = system.make(num_classes, backbone=backbone, **{**_differences(system, backbone), **overrides})
    model.system = name
    return model


def default_arguments(name: str, backbone: str | nn.Module | None = None) -> dict[str, Any]:
    """All arguments that shape a system, by name, with the values ``build`` gives them.

    Args:
        name: As in :func:`build`.
        backbone: As in :func:`build`; the tiny backbone has values of its own.

    Returns:
        Numbers, strings, booleans, None and tuples of them, in the order of the constructor; without ``num_classes``,
        ``backbone`` and where initial weights come from.
    """
    system = find_system(name)
    skipped = {"num_classes", "backbone", "pretrained", "weights"}
    parameters = inspect.signature(system.make).parameters
    defaults = {key: p.default for key, p in parameters.items() if key not in skipped}
    return {**defaults, **_differences(system, system.backbone if backbone is None else backbone)}


def find_system(name: str) -> System:
    """The system of a name; ValueError lists those there are."""
    if name not in SYSTEMS:
        raise ValueError(f"unknown system {name!r}; known: {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def _differences(system: System, backbone: str | nn.Module) -> dict[str, Any]:
    return {**system.arguments, **(system.tiny if backbone == "tiny" else {})}
