"""Soft non-maximum suppression: overlapping boxes lose score instead of their place."""

from __future__ import annotations

import torch
from torch import Tensor

from fasterrcnn_ops import _library
from fasterrcnn_ops._transforms import refuse_vmap

_library.load()

_METHODS = ("naive", "linear", "gaussian")  # their position is the operator's number for them


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    *,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Select boxes by descending score, lowering the scores of those that overlap each selected one.

    The best remaining box is selected, the scores of all others are multiplied by a weight that depends on their IoU
    with it, boxes whose score falls below `min_score` are dropped, and so on until none is left.

    Args:
        boxes: [N, 4] corners (x1, y1, x2, y2) in pixels, float16, bfloat16, float32 or float64. Widths are x2 - x1,
            without a +1. Any values, any strides.
        scores: [N], one of the same dtypes, not necessarily that of the boxes. Higher is better.
        iou_threshold: For "naive" and "linear": IoUs of at least this lower a score. Usually in (0, 1].
        sigma: For "gaussian": how far IoU reaches, > 0. 0.5 is usual.
        min_score: Boxes with less are dropped, also those that had less from the start; only the first box selected
            is selected whatever its score.
        method: The weight at an IoU o. "linear": 1 - o where o >= `iou_threshold`, else 1. "gaussian":
            exp(-o² / `sigma`). "naive": 0 where o >= `iou_threshold`, else 1, which is plain NMS (with >= for >).
        max_output: Stop after this many selections; None: no limit.

    Returns:
        keep: int64 [K], the indices of the selected boxes in order of selection.
        scores: [K], dtype of `scores`: their scores when selected. They descend, where no score is negative or NaN.

    Raises:
        ValueError: Unknown `method`.
        RuntimeError: A tensor has the wrong rank, width, length, dtype or device; `sigma` is not positive;
            `max_output` is negative.

    Note:
        Empty input gives empty results. Of equal scores (0.0 and -0.0 are equal) the lower index is selected first;
        NaN scores come before all others and stay NaN. A NaN IoU (two boxes without area, NaN or infinite coordinates)
        lowers nothing. Computed in float32, or in float64 where boxes or scores are, to which `iou_threshold`, `sigma`
        and `min_score` are rounded first. Results are those of mmcv's ``soft_nms`` with ``offset=0``, whose order of
        equal scores depends on what it moved before, and which turns scores to NaN at a NaN IoU with "gaussian".
        Deterministic; not differentiable: the results never require grad. The size of the results depends on the data.
        On CUDA one launch selects all, and one synchronisation learns how many.

        Source: Bodla et al., "Soft-NMS – Improving Object Detection With One Line of Code", 2017, section 3.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [20.0, 0.0, 30.0, 10.0]])
        >>> soft_nms(boxes, torch.tensor([0.75, 0.5, 0.375]), method="linear")
        (tensor([0, 2, 1]), tensor([0.7500, 0.3750, 0.2500]))
    """
    if method not in _METHODS:
        raise ValueError(f"method: expected one of {', '.join(_METHODS)}, got {method!r}")
    return torch.ops.fasterrcnn_ops.soft_nms(
        boxes.detach(), scores.detach(), iou_threshold, sigma, min_score, _METHODS.index(method), max_output
    )


@torch.library.register_fake("fasterrcnn_ops::soft_nms")
def _soft_nms_fake(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor]:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64), scores.new_empty(kept)


refuse_vmap("soft_nms", "call it once for each entry")
