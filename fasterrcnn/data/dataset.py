"""What every data set of the project looks like, be it generated, PASCAL VOC or COCO."""

from __future__ import annotations

from typing import Protocol, TypedDict, runtime_checkable

import torch


class Target(TypedDict):
    """Ground truth of one image with M objects.

    Attributes:
        boxes: float32 [M, 4], x1, y1, x2, y2 in pixels of the image: corners of the continuous rectangle, so a box
            that covers exactly the pixel (0, 0) is (0, 0, 1, 1).
        labels: int64 [M], 1…C; 0 is the background and never appears here.
    """

    boxes: torch.Tensor
    labels: torch.Tensor


@runtime_checkable
class DetectionDataset(Protocol):
    """A map-style data set for detectors.

    Attributes:
        class_names: name of label ``i + 1`` at index ``i``.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        """Image float32 [3, H, W], RGB in 0…1, and its target."""
        ...


def collate(items: list[tuple[torch.Tensor, Target]]) -> tuple[list[torch.Tensor], list[Target]]:
    """Batch for a detector: a list of images and a list of targets, since images of one batch differ in size."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)
