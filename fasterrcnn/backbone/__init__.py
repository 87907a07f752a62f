"""Trunks: what turns images into a feature map, and the RoI layers each of them brings along."""

from __future__ import annotations

from torch import nn

from fasterrcnn.backbone.base import Backbone, PretrainedSource, RoIStage, check_backbone
from fasterrcnn.backbone.resnet import ResNet50
from fasterrcnn.backbone.tiny import Tiny
from fasterrcnn.backbone.vgg import VGG16

__all__ = ["Backbone", "PretrainedSource", "ResNet50", "RoIStage", "Tiny", "VGG16", "make_backbone"]

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
