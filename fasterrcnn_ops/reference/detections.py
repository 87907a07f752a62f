"""Detections from the outputs of a box head, defined: pure PyTorch, the public functions' signatures.

Girshick, "Fast R-CNN", 2015, section 2.3. Like the proposals' definition it has shapes that depend on shapes alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasterrcnn_ops.reference.box_coder import decode_boxes
from fasterrcnn_ops.reference.nms import nms_padded


def select_detections(*arguments, **options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, labels, scores and count; see :func:`fasterrcnn_ops.select_detections`."""
    return select_detections_with_proposal(*arguments, **options)[:4]


def select_detections_with_proposal(
    class_logits: Tensor,
    box_deltas: Tensor,
    proposals: Tensor,
    count: Tensor,
    image_sizes: Tensor | Sequence[tuple[float, float]],
    *,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
    inclusive: bool = False,
    min_size: float = 1e-2,
    candidates_per_class: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """And the proposal of each; see :func:`fasterrcnn_ops.select_detections_with_proposal`."""
    image_sizes = torch.as_tensor(image_sizes, device=proposals.device)
    dtype = torch.promote_types(torch.promote_types(class_logits.dtype, box_deltas.dtype), proposals.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    batch, slots = proposals.shape[:2]
    classes, columns = class_logits.shape[-1] - 1, box_deltas.shape[-1] // 4
    class_logits = class_logits.reshape(batch, slots, class_logits.shape[-1])
    box_deltas = box_deltas.reshape(batch, slots, box_deltas.shape[-1])
    scores = class_logits.to(dtype).softmax(dim=2)[..., 1:]  # [B, K, C]
    deltas, anchors = box_deltas.to(dtype).reshape(batch * slots, 4 * columns), proposals.to(dtype).reshape(-1, 4)
    boxes = decode_boxes(deltas, anchors, weights, inclusive=inclusive).view(batch, slots, columns, 2, 2)
    boxes = boxes[:, :, columns - classes :].clamp(min=0)  # without background's
    limits = image_sizes.to(dtype).flip(1) - int(inclusive)
    boxes = torch.minimum(boxes, limits[:, None, None, None]).flatten(3)  # [B, K, C, 4]

    used = torch.arange(slots, device=count.device) < count[:, None]
    sides = boxes[..., 2:] - boxes[..., :2]
    wanted = (scores > score_threshold) & used[..., None] & boxes.isfinite().all(dim=3) & (sides >= min_size).all(dim=3)
    if candidates_per_class is not None:
        order = torch.where(wanted, scores, -1.0).argsort(dim=1, descending=True, stable=True)
        wanted = wanted.scatter(1, order[:, candidates_per_class:], False)

    # Candidate k·C + c; what is not wanted comes last.
    scores, order = torch.where(wanted, scores, -1.0).flatten(1).sort(dim=1, descending=True, stable=True)
    boxes = boxes.flatten(1, 2)
    out_boxes, out_scores = boxes.new_zeros(batch, max_detections, 4), scores.new_zeros(batch, max_detections)
    labels = torch.zeros(batch, max_detections, dtype=torch.int64, device=boxes.device)
    proposal, found = torch.full_like(labels, -1), labels.new_zeros(batch)
    for image in range(batch if scores.shape[1] else 0):
        keep, _ = nms_padded(
            boxes[image][order[image]],
            scores[image],
            order[image] % classes,
            iou_threshold=nms_threshold,
            max_output=max_detections,
        )
        index = keep.clamp(min=0)
        used = (keep >= 0) & (scores[image][index] >= 0)
        candidate = order[image][index]
        out_boxes[image] = torch.where(used[:, None], boxes[image][candidate], 0.0)
        out_scores[image] = torch.where(used, scores[image][index], 0.0)
        labels[image] = torch.where(used, candidate % classes + 1, 0)
        proposal[image] = torch.where(used, candidate // classes, -1)
        found[image] = used.sum()
    return out_boxes, labels, out_scores, found, proposal
