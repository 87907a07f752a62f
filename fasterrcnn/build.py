"""The named systems, each a page of constructor arguments."""

from __future__ import annotations

from typing import Any

from torch import nn

from fasterrcnn.model import FasterRCNN

# With the tiny backbone the classic system is one for small pictures of small objects: anchors of 24 to 160 pixels
# instead of 128 to 512, RoIAlign because rounding to 16 pixels is coarse for them, and counts to match.
TINY = {
    "anchor_scales": (1.5, 3, 6, 10),
    "rpn_post_nms_top_n": (300, 100),
    "rpn_min_size": 8.0,
    "rpn_samples": 128,
    "roi_pooling": "align",
    "roi_samples": 64,
    "min_size": 320,
    "max_size": 480,
    "image_mean": (0.485, 0.456, 0.406),
    "image_std": (0.229, 0.224, 0.225),
}

SYSTEMS = {"classic_vgg16": "vgg", "classic_resnet50": "resnet50"}


def build(name: str, *, num_classes: int, backbone: str | nn.Module | None = None, **overrides: Any) -> FasterRCNN:
    """Builds a system by name.

    Args:
        name: "classic_vgg16" or "classic_resnet50".
        num_classes: Background not counted, ≥ 1.
        backbone: Instead of the system's own: "vgg", "resnet50", "tiny", or a module (see
            :mod:`fasterrcnn.backbone.base`). "tiny" also brings arguments that suit small objects, ``TINY``.
        **overrides: Constructor arguments of :class:`FasterRCNN`.

    Returns:
        The detector, in training mode unless ``mode="predict"``.

    Raises:
        ValueError: Unknown name.
    """
    if name not in SYSTEMS:
        raise ValueError(f"unknown system {name!r}; known: {', '.join(SYSTEMS)}")
    backbone = SYSTEMS[name] if backbone is None else backbone
    arguments = {**(TINY if backbone == "tiny" else {}), **overrides}
    model = FasterRCNN(num_classes, backbone=backbone, **arguments)
    model.system = name
    return model
