"""Every system with the tiny backbone, and batches in fixed shapes to train it on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fasterrcnn
from fasterrcnn.model import TwoStageDetector

SYSTEMS = {
    "classic_vgg16": {"min_size": 96},
    "classic_resnet50": {"min_size": 96, "roi_pooling": "align"},
    "resnet50_c4": {"min_size": 96},
    "resnet50_c4_sigmoid": {"min_size": 96},
    "stepwise_vgg16": {"image_size": (96, 128)},
    "rpn_only": {"min_size": 96, "rpn_only": True},
}
COUNTS = (3, 0, 1)  # ground truths of each image


def tiny(name: str, **overrides: Any) -> TwoStageDetector:
    torch.manual_seed(0)
    system = "resnet50_c4" if name == "rpn_only" else name
    return fasterrcnn.build(system, num_classes=3, backbone="tiny", **{**SYSTEMS[name], **overrides})


def batch(counts: tuple[int, ...] = COUNTS, extra: int = 0) -> tuple[Tensor, ...]:
    """Images [B, 3, 96, 128], sizes, boxes [B, M, 4], labels [B, M], seeds; rubbish wherever there is padding."""
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(len(counts), 3, 96, 128, generator=generator)
    sizes = torch.tensor([[96, 128], [96, 100], [80, 128]] * len(counts))[: len(counts)]
    most = max(counts, default=0) + extra
    corner = torch.rand(len(counts), most, 2, generator=generator) * 40
    side = 20 + torch.rand(len(counts), most, 2, generator=generator) * 36
    boxes = torch.cat([corner, corner + side], dim=2)
    labels = torch.randint(1, 4, (len(counts), most), generator=generator)
    for image, count in enumerate(counts):
        labels[image, count:] = 0
        boxes[image, count:] = torch.tensor([0.0, 0, 128, 96])
    return images, sizes, boxes, labels, torch.arange(len(counts)) + 17
