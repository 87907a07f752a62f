"""What a backbone is: anyone can bring one.

A backbone is any ``nn.Module`` with

* ``forward(images [B, 3, H, W]) -> features [B, out_channels, ⌈H/stride⌉ or ⌊H/stride⌋, …]``,
* ``out_channels``: channels of those features,
* ``stride``: input pixels per feature-map location, and
* ``roi_stage() -> RoIStage``: builds the layers a pooled RoI passes through before the two predictors. They belong to
  the trunk because published trunks bring them along (fc6 and fc7 of VGG, layer4 of ResNet), and they are built by a
  method because the detector, not the backbone, stores their parameters (each parameter is in a state dict once).

Optional:

* ``rpn_channels``: hidden width of the RPN that suits the backbone (512 without it), and
* ``stages() -> list[Module]``: its parts from the input on, for ``frozen_stages``, and
* ``pretrained``: a :class:`PretrainedSource`, for ``pretrained=True`` and ``weights=``.

Example:
    >>> from torch import nn
    >>> from fasterrcnn import FasterRCNN
    >>> from fasterrcnn.backbone.base import RoIStage
    >>> class Mine(nn.Module):
    ...     out_channels, stride = 64, 16
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = nn.Conv2d(3, 64, 16, stride=16)
    ...     def forward(self, images):
    ...         return self.conv(images)
    ...     def roi_stage(self):
    ...         return RoIStage(7, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 64)
    >>> detector = FasterRCNN(num_classes=3, backbone=Mine())
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass
class RoIStage:
    """The second-stage layers of a backbone.

    Attributes:
        pooled_size: Side of the square RoI grid the layers expect, in cells.
        module: Maps [K, out_channels, pooled_size, pooled_size] to [K, out_features], or to a map for ``pool``.
        out_features: Length of the vector per RoI.
        pool: Maps what ``module`` gives to [K, out_features, 1, 1]; None where it gives vectors.
    """

    pooled_size: int
    module: nn.Module
    out_features: int
    pool: nn.Module | None = None

    def flat(self) -> nn.Module:
        """``module`` and ``pool`` as one module that gives vectors [K, out_features]."""
        return self.module if self.pool is None else nn.Sequential(self.module, self.pool, nn.Flatten())


@dataclass(frozen=True)
class PretrainedSource:
    """Where a backbone's published ImageNet weights are and what its tensors are called there.

    Attributes:
        url: Address of a state dict saved by ``torch.save``.
        names: Pairs (prefix in the file, prefix in the detector's state dict), where ``{backbone}`` and ``{stage}``
            stand for the detector's names of the backbone and of the RoI stage.
        unused: Prefixes in the file that a detector has no use for, such as the ImageNet classifier.
    """

    url: str
    names: tuple[tuple[str, str], ...]
    unused: tuple[str, ...] = ()


@runtime_checkable
class Backbone(Protocol):
    """The protocol in types; the docstring of this module has it in words."""

    out_channels: int
    stride: int

    def forward(self, images: Tensor) -> Tensor: ...

    def roi_stage(self) -> RoIStage: ...


def check_backbone(backbone: nn.Module) -> None:
    """Raises TypeError naming what ``backbone`` lacks of the protocol."""
    missing = [name for name in ("out_channels", "stride", "roi_stage") if not hasattr(backbone, name)]
    if not isinstance(backbone, nn.Module) or missing:
        lacks = "it is no nn.Module" if not isinstance(backbone, nn.Module) else f"it lacks {', '.join(missing)}"
        raise TypeError(
            f"{type(backbone).__name__} is no backbone: {lacks}. A backbone is an nn.Module with out_channels, stride "
            "and roi_stage(); see fasterrcnn.backbone.base"
        )
