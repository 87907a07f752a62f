"""What every data set of the project looks like, be it generated, PASCAL VOC or COCO."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from fasterrcnn.types import Target


@runtime_checkable
class DetectionDataset(Protocol):
    """A map-style data set for detectors.

    Attributes:
        class_names: name of label ``i + 1`` at index ``i``.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        """Image float32 [3, H, W], RGB in 0…1, and its target.

        Boxes are float32 [M, 4], x1, y1, x2, y2 in pixels of the image: corners of the continuous rectangle, so the box
        of the pixel (0, 0) alone is (0, 0, 1, 1). Labels are int64 [M] in 1…C; 0 is background and never appears.
        """
        ...


def collate(items: list[tuple[torch.Tensor, Target]]) -> tuple[list[torch.Tensor], list[Target]]:
    """Batch for a detector: a list of images and a list of targets, since images of one batch differ in size."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)
