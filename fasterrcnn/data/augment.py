"""Training sets: mirrored and rescaled at random, without objects nobody should learn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fasterrcnn.data.dataset import DetectionDataset
from fasterrcnn.data.transforms import horizontal_flip
from fasterrcnn.types import Target

MIN_SEEN = 0.4
"""Part of an object's area that must be left in a crop; objects cut further leave the target."""
_FILL = 0.5  # gray, about the mean of photographs
_ATTEMPTS = 10


class TrainingView:
    """A data set as training wants it.

    Difficult objects (VOC) and crowds (COCO) are left out of the targets, as the published trainings did. What is
    random is drawn from torch's generator, which :func:`fasterrcnn.training.loop.train` seeds for every image and step:
    the same pictures come in any process and after any interruption.

    Args:
        dataset: what to train on.
        flip: probability of mirroring left to right, 0…1.
        scale_jitter: least and greatest factor by which objects become larger relative to their image, drawn
            log-uniformly; None for none. See :func:`rescale`.
        group_by_aspect: let batches have images of one orientation, upright or wide, as far as numbers allow: less
            padding. Needs a data set that knows its ``sizes``; others are not grouped.

    Attributes:
        groups: 0 or 1 for every image, or None; see :func:`fasterrcnn.data.batches.epoch_batches`.

    Raises:
        ValueError: a probability or factors out of range.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        *,
        flip: float = 0.0,
        scale_jitter: tuple[float, float] | None = None,
        group_by_aspect: bool = False,
    ) -> None:
        check_augmentation(flip, scale_jitter)
        self.dataset, self.flip, self.scale_jitter = dataset, flip, scale_jitter
        self.class_names = dataset.class_names
        sizes = getattr(dataset, "sizes", None) if group_by_aspect else None
        self.groups: list[int] | None = None if sizes is None else [int(width > height) for height, width in sizes]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        """As the data set has it, then rescaled, then mirrored."""
        image, target = self.dataset[index]
        target = learnable(target)
        if self.scale_jitter is not None:
            image, target = rescale(image, target, self.scale_jitter)
        if self.flip and float(torch.rand(())) < self.flip:
            image, target = horizontal_flip(image, target)
        return image, target


def check_augmentation(flip: float, scale_jitter: Sequence[float] | None) -> None:
    """Raises ValueError for what :class:`TrainingView` cannot do."""
    if not 0 <= flip <= 1:
        raise ValueError(f"flip must be a probability, 0…1, got {flip}")
    if scale_jitter is not None and (len(scale_jitter) != 2 or not 0.1 <= scale_jitter[0] <= scale_jitter[1] <= 10):
        raise ValueError(f"scale_jitter must be two ascending factors in 0.1…10, got {list(scale_jitter)}")


def learnable(target: Target) -> Target:
    """The boxes and labels of a target that are neither difficult nor a crowd."""
    keep = torch.ones(len(target["labels"]), dtype=torch.bool)
    for key in ("difficult", "crowd"):
        if key in target:
            keep &= ~target[key].bool()
    return {"boxes": target["boxes"][keep], "labels": target["labels"][keep]}


def rescale(image: torch.Tensor, target: Target, factors: tuple[float, float]) -> tuple[torch.Tensor, Target]:
    """Makes objects larger or smaller relative to their image, which detectors resize to one size anyway.

    A factor above 1 cuts out a random part of the image, 1/factor of each side; one below 1 puts the image somewhere on
    a gray one that is 1/factor as large. No pixel is interpolated. Boxes are clipped; an object of which less than
    ``MIN_SEEN`` is left, leaves the target. A cut that would leave no object of an image that has some is drawn again,
    and after ten draws left alone.

    Args:
        image: float [3, H, W].
        target: boxes [M, 4] and labels [M]; other keys are dropped.
        factors: least and greatest factor.
    """
    low, high = (torch.tensor(float(factor)).log() for factor in factors)
    height, width = image.shape[-2:]
    for _ in range(_ATTEMPTS):
        factor = float(torch.exp(low + (high - low) * torch.rand(())))
        new_height, new_width = max(1, round(height / factor)), max(1, round(width / factor))
        y = _between(0, height - new_height)
        x = _between(0, width - new_width)
        boxes = target["boxes"] - torch.tensor([x, y, x, y], dtype=torch.float32)
        limits = torch.tensor([new_width, new_height, new_width, new_height], dtype=torch.float32)
        clipped = torch.minimum(boxes.clamp(min=0), limits)
        keep = _area(clipped) >= MIN_SEEN * _area(boxes)
        if bool(keep.any()) or len(keep) == 0:
            canvas = image.new_full((3, new_height, new_width), _FILL)
            rows, columns = (_overlap(*span) for span in ((y, new_height, height), (x, new_width, width)))
            canvas[:, rows[0], columns[0]] = image[:, rows[1], columns[1]]
            return canvas, {"boxes": clipped[keep], "labels": target["labels"][keep]}
    return image, {"boxes": target["boxes"], "labels": target["labels"]}


def _between(one: int, other: int) -> int:
    """A random whole number between two, both included."""
    low, high = min(one, other), max(one, other)
    return int(torch.randint(low, high + 1, ()))


def _overlap(start: int, new: int, old: int) -> tuple[slice, slice]:
    """Where, along one side, the old pixels from ``start`` on lie in the new image, and which of the old those are."""
    first, last = max(start, 0), min(start + new, old)
    return slice(first - start, last - start), slice(first, last)


def _area(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0]).clamp(min=0) * (boxes[:, 3] - boxes[:, 1]).clamp(min=0)
