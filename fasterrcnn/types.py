"""The small typed records that travel between the stages of a detector.

Letters used in every shape of this package: B images of a batch, H × W pixels, A anchors per location, N anchors of an
image, K proposal slots of an image, C foreground classes, M ground-truth boxes, D detections. Boxes are
(x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int]
"""(height, width) in pixels."""

Target = dict[str, Tensor]
"""Ground truth of one image: ``boxes`` float[M, 4] in pixels and ``labels`` int64[M] in 1…C."""

Losses = dict[str, Tensor]
"""Scalar losses by name: ``loss_objectness``, ``loss_rpn_box_reg``, ``loss_classifier``, ``loss_box_reg``."""


@dataclass
class ImageBatch:
    """Images of one size, and what is needed to find the way back to the originals.

    Attributes:
        images: float[B, 3, H, W], resized, padded with zeros at the right and the bottom; normalised or not yet.
        sizes: (height, width) of the part of each image that is not padding.
        original_sizes: (height, width) of each image as it was given.
        scales: Resize factor of each image; 0.5 means half as large as the original.
        targets: Ground truth with boxes in pixels of ``images``; empty where there is none.
    """

    images: Tensor
    sizes: list[Size]
    original_sizes: list[Size]
    scales: list[float]
    targets: list[Target] = field(default_factory=list)

    @property
    def padded_size(self) -> Size:
        """(height, width) of ``images``."""
        return self.images.shape[-2], self.images.shape[-1]

    def image_sizes(self) -> Tensor:
        """``sizes`` as int64[B, 2], on the device of the images."""
        return torch.tensor(self.sizes).to(self.images.device, non_blocking=True)

    def image_scales(self) -> Tensor:
        """``scales`` as float64[B], on the device of the images."""
        return torch.tensor(self.scales, dtype=torch.float64).to(self.images.device, non_blocking=True)


@dataclass
class Proposals:
    """Boxes worth a second look, in fixed-capacity form: K slots per image of which the first ``count`` are in use.

    Attributes:
        boxes: float[B, K, 4] in pixels of the batch, best first; unused slots are 0.
        scores: float[B, K], the probability of being an object in 0…1; unused slots are 0.
        count: int64[B], the number of slots in use, on the device of the boxes.
    """

    boxes: Tensor
    scores: Tensor
    count: Tensor

    def valid(self) -> Tensor:
        """bool[B, K]: which slots are in use. Reads nothing back to the host."""
        slots = torch.arange(self.boxes.shape[1], device=self.count.device)
        return slots < self.count[:, None]


class PaddedDetections(NamedTuple):
    """What was found in a batch, in fixed-capacity form: D slots per image of which the first ``count`` are in use.

    Attributes:
        boxes: float[B, D, 4] in pixels of the batch, best first; unused slots are 0, here and below.
        labels: int64[B, D] in 1…C.
        scores: float[B, D] in 0…1, descending.
        count: int64[B], the number of slots in use.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    count: Tensor


@dataclass
class Detections:
    """What was found in one image, best first.

    Attributes:
        boxes: float[D, 4] in pixels of the original image.
        labels: int64[D] in 1…C.
        scores: float[D] in 0…1, descending.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on another device."""
        return Detections(self.boxes.to(device), self.labels.to(device), self.scores.to(device))
