"""Matching: which target each anchor or proposal stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from fasterrcnn_ops import _library
from fasterrcnn_ops._transforms import register_vmap

__all__ = ["match_boxes"]

_library.load()


def match_boxes(
    targets: Tensor,
    boxes: Tensor,
    *,
    high_threshold: float,
    low_threshold: float,
    allow_low_quality: bool = False,
    min_low_quality: float = 0.0,
) -> Tensor:
    """The target that each box overlaps best, by thresholds on their IoU; no matrix of all pairs is made.

    Args:
        targets: ``[M, 4]`` (x1, y1, x2, y2) in pixels, the ground truth; floating point. Of a batch ``[B, M, 4]``, in
            which images with fewer targets are filled up: a target with a NaN coordinate is none, and gets no box.
        boxes: ``[N, 4]``, likewise: anchors or proposals. With a batch ``[B, N, 4]``, or ``[N, 4]`` for every image.
            Grid anchors in their own order are fastest, because neighbours in the list are then neighbours in the
            image.
        high_threshold: A box whose best IoU is at least this stands for that target.
        low_threshold: A box whose best IoU is below this is background; at most ``high_threshold``.
        allow_low_quality: Each target also gets the boxes that overlap it best, all of them where several tie, however
            low that IoU. Such a box stands for the target that *it* overlaps best.
        min_low_quality: Least IoU for which ``allow_low_quality`` holds. At 0 a target that no box overlaps has its
            best, 0, with every box, and so leaves no background at all; any positive number leaves such targets out.

    Returns:
        int64 ``[N]``, or ``[B, N]``: index of a target, -1 (background) or -2 (between the thresholds). Of equal IoUs
        the target with the lower index counts.

    Raises:
        RuntimeError: a shape, dtype or device does not fit, ``low_threshold`` is above ``high_threshold``, or a
            threshold is NaN.

    Note:
        * Decisions are those of torchvision's ``Matcher`` on its ``box_iou``, to the last bit: float32 IoUs (float64
          where a float64 tensor takes part) against thresholds rounded to that type. Two things differ: without targets
          everything is background, where torchvision raises; and an IoU that is not a number (two boxes without area,
          NaN coordinates of a box) counts as 0, where torchvision takes it for the best there is.
        * Each image of a batch gets what it gets alone.
        * Deterministic, independent of the number of threads, not differentiable.

    Source:
        Ren et al., "Faster R-CNN", 2015, section 3.1.2 (0.7 and 0.3, with low-quality matches, for anchors).

    Example:
        >>> targets = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 5.0], [50.0, 50.0, 60.0, 60.0]])
        >>> match_boxes(targets, boxes, high_threshold=0.7, low_threshold=0.3)
        tensor([ 0, -2, -1])
    """
    return torch.ops.fasterrcnn_ops.match_boxes(
        targets, boxes, float(high_threshold), float(low_threshold), allow_low_quality, float(min_low_quality)
    )


@torch.library.register_fake("fasterrcnn_ops::match_boxes")
def _match_boxes_fake(targets, boxes, high_threshold, low_threshold, allow_low_quality, min_low_quality=0.0):
    return boxes.new_empty((*targets.shape[:-2], boxes.shape[-2]), dtype=torch.int64)


register_vmap("match_boxes")
