"""Greedy non-maximum suppression: `nms`, `batched_nms` and the fixed-capacity `nms_padded`."""

from __future__ import annotations

import torch
from torch import Tensor

from fasterrcnn_ops import _library
from fasterrcnn_ops._transforms import refuse_vmap, register_vmap

_library.load()


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keep the best-scored box of every cluster of overlapping boxes.

    Walks the boxes by descending score and keeps each one whose IoU with every box kept before is at most
    `iou_threshold`.

    Args:
        boxes: [N, 4] corners (x1, y1, x2, y2) in pixels, float16, bfloat16, float32 or float64. Widths are x2 - x1,
            without a +1. Any values, any strides.
        scores: [N], one of the same dtypes, not necessarily that of the boxes. Higher is better.
        iou_threshold: Largest IoU two kept boxes may have, usually in [0, 1]; any value is accepted. Overlaps
            *strictly* above it are suppressed, so at 1 nothing is, and below 0 only the best box remains.

    Returns:
        int64 [K], the indices of the kept boxes by descending score.

    Raises:
        RuntimeError: A tensor has the wrong rank, width, length, dtype or device.

    Note:
        Empty input gives an empty result. Equal scores (0.0 and -0.0 are equal) keep the lower index first. NaN scores
        come first. An IoU of NaN (two boxes without area, NaN or infinite coordinates) never suppresses.
        float16 and bfloat16 are widened to float32 first; IoUs are computed in float32 (float64 for float64 boxes) and
        compared with the threshold in double precision, on every device. That is the decision of torchvision's CPU
        kernel; its CUDA kernel rounds the threshold to float32. So autocast changes nothing. Deterministic; not
        differentiable: the result never requires grad. The size of the result depends on the data, which costs a GPU
        one synchronisation; `nms_padded` does without.

    Source:
        Girshick et al., "Rich feature hierarchies for accurate object detection", 2014, section 2.2 (greedy,
        per class); Ren et al., "Faster R-CNN", 2015, section 3.3 (on proposals, IoU 0.7).

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 10.0]])
        >>> nms(boxes, torch.tensor([0.8, 0.9, 0.5]), 0.5)
        tensor([1, 2])
    """
    return torch.ops.fasterrcnn_ops.nms(boxes, scores, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each class, image or level at once: boxes with different ids never suppress each other.

    Ids are compared exactly and boxes are not moved, so the result equals one `nms` per id whatever the coordinates
    and the ids. (torchvision shifts the boxes of each id by a multiple of the largest coordinate, which merges ids
    when coordinates are negative and loses precision when ids are large.)

    Args:
        boxes: [N, 4], as in `nms`.
        scores: [N], as in `nms`.
        idxs: [N] ids of any integer, bool or floating dtype; any values, also negative ones. Floats are compared by
            value (0.0 equals -0.0). A NaN id equals nothing, so its box is kept and suppresses nothing.
        iou_threshold: As in `nms`.

    Returns:
        int64 [K], the indices of the kept boxes by descending score over all ids.

    Raises:
        RuntimeError: As in `nms`, and for `idxs` likewise.
        TypeError: `scores`, `idxs` or `iou_threshold` is None although there are boxes.

    Note:
        As in `nms`. With no boxes, the other arguments may be None, as in torchvision.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 10.0]])
        >>> batched_nms(boxes, torch.tensor([0.8, 0.9, 0.5]), torch.tensor([1, 1, 2]), 0.5)
        tensor([1, 2])
    """
    if scores is None or idxs is None or iou_threshold is None:
        if boxes.numel() == 0:
            return torch.empty(0, dtype=torch.int64, device=boxes.device)
        raise TypeError(f"scores, idxs and iou_threshold must be given for {boxes.shape[0]} boxes")
    return torch.ops.fasterrcnn_ops.batched_nms(boxes, scores, idxs, iou_threshold)


def nms_padded(
    boxes: Tensor, scores: Tensor, idxs: Tensor | None = None, *, iou_threshold: float, max_output: int
) -> tuple[Tensor, Tensor]:
    """`nms` (or, with `idxs`, `batched_nms`) whose output has a fixed size: the form detectors use inside.

    The walk ends as soon as `max_output` boxes are kept, so asking for the best 1000 of 12000 proposals costs less
    than all of them. The shape does not depend on the data: no synchronisation, no graph break.

    Args:
        boxes: [N, 4], as in `nms`.
        scores: [N], as in `nms`.
        idxs: [N] ids as in `batched_nms`, or None: every box competes with every other.
        iou_threshold: As in `nms`.
        max_output: Number of slots in the result, >= 0; may exceed N.

    Returns:
        keep: int64 [max_output], the first `count` entries are the kept indices by descending score, the rest are -1.
        count: int64 [], how many were kept, at most min(N, max_output).

    Raises:
        RuntimeError: As in `batched_nms`, or `max_output` is negative.

    Note:
        As in `nms`. `torch.vmap` runs it once for each entry, and only it: the others' sizes depend on the data.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 10.0]])
        >>> nms_padded(boxes, torch.tensor([0.8, 0.9, 0.5]), iou_threshold=0.5, max_output=4)
        (tensor([ 1,  2, -1, -1]), tensor(2))
    """
    return torch.ops.fasterrcnn_ops.nms_padded(boxes, scores, idxs, iou_threshold, max_output)


# Shapes without data, for torch.compile and torch.export. No autograd formula: indices have no gradient.


@torch.library.register_fake("fasterrcnn_ops::nms")
def _nms_fake(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)


@torch.library.register_fake("fasterrcnn_ops::batched_nms")
def _batched_nms_fake(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)


@torch.library.register_fake("fasterrcnn_ops::nms_padded")
def _nms_padded_fake(
    boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float, max_output: int
) -> tuple[Tensor, Tensor]:
    return boxes.new_empty(max_output, dtype=torch.int64), boxes.new_empty((), dtype=torch.int64)


# vmap: one walk for each entry, which ends at its own max_output. A single one, with the entries as classes, could not.
register_vmap("nms_padded")
refuse_vmap("nms", "use nms_padded, whose results have a fixed size")
refuse_vmap("batched_nms", "use nms_padded with idxs, whose results have a fixed size")
