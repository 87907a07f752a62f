"""Trunks: what turns images into a feature map, and the RoI layers each of them brings along."""

from __future__ import annotations

from torch import nn

from fasterrcnn.backbone.base import Backbone, PretrainedSource, RoIStage, check_backbone
from fasterrcnn.backbone.resnet import FrozenBatchNorm2d, ResNet50, ResNet50C4
from fasterrcnn.backbone.tiny import Tiny
from fasterrcnn.backbone.vgg import VGG16

__all__ = [
    "Backbone",
    "FrozenBatchNorm2d",
    "PretrainedSource",
    "ResNet50",
    "ResNet50C4",
    "RoIStage",
    "Tiny",
    "VGG16",
    "freeze_stages",
    "make_backbone",
]

BACKBONES = {"vgg": VGG16, "resnet50": ResNet50, "tiny": Tiny}


def make_backbone(backbone: str | nn.Module) -> nn.Module:
    """The backbone of a name ("vgg", "resnet50", "tiny"), or the module itself after a check of the protocol.

    Raises:
        ValueError: Unknown name.
        TypeError: A module without what a backbone needs.
    """
    if isinstance(backbone, str):
        if backbone not in BACKBONES:
            raise ValueError(f"unknown backbone {backbone!r}; known: {', '.join(BACKBONES)}, or a module of your own")
        return BACKBONES[backbone]()
    check_backbone(backbone)
    return backbone


def freeze_stages(backbone: nn.Module, count: int) -> None:
    """Excludes the first ``count`` stages of a backbone from training.

    Raises:
        ValueError: A negative count, or more than the backbone has.
    """
    if count == 0:
        return
    stages = backbone.stages() if hasattr(backbone, "stages") else []
    if not 0 <= count <= len(stages):
        raise ValueError(f"frozen_stages must be 0…{len(stages)} for {type(backbone).__name__}, got {count}")
    for stage in stages[:count]:
        stage.requires_grad_(False)
