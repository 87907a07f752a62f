"""Proposals from the maps of an RPN head, defined: pure PyTorch, the public function's signature.

Ren et al., "Faster R-CNN", 2015, section 3.3. Every shape depends on shapes alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasterrcnn_ops.reference.anchors import grid_anchors
from fasterrcnn_ops.reference.box_coder import decode_boxes
from fasterrcnn_ops.reference.nms import nms_padded


def generate_proposals(
    objectness: Sequence[Tensor],
    deltas: Sequence[Tensor],
    cell_anchors: Sequence[Tensor],
    strides: Sequence[float | tuple[float, float]],
    image_sizes: Tensor | Sequence[tuple[float, float]],
    *,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_threshold: float,
    min_size: float | Tensor = 1e-3,
    score_threshold: float = 0.0,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    anchor_offset: float = 0.0,
    inclusive: bool = False,
    inclusive_sides: bool = False,
    filter_before_topk: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes ``[B, P, 4]``, scores ``[B, P]`` and count ``[B]``; see :func:`fasterrcnn_ops.generate_proposals`."""
    device = objectness[0].device
    pairs = [(stride, stride) if isinstance(stride, (int, float)) else stride for stride in strides]
    image_sizes = torch.as_tensor(image_sizes, device=device)
    min_sizes = torch.as_tensor(min_size, dtype=torch.float64, device=device) - int(inclusive_sides)
    dtype = torch.promote_types(objectness[0].dtype, torch.float32)
    batch = objectness[0].shape[0]
    limits = (image_sizes.to(dtype).flip(1) - int(inclusive))[:, None, None]  # [B, 1, 1, 2] as (x, y)
    min_side = min_sizes.to(dtype).expand(batch)[:, None]  # [B, 1]

    def decoded(level_deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Clipped boxes [B, N, 4] and which of them are boxes of the wanted size."""
        flat = decode_boxes(level_deltas.reshape(-1, 4), anchors.reshape(-1, 4), weights, inclusive=inclusive)
        corners = flat.view(batch, level_deltas.shape[1], 2, 2).clamp(min=0)
        boxes = torch.minimum(corners, limits).flatten(2)
        sides = boxes[..., 2:] - boxes[..., :2]
        return boxes, boxes.isfinite().all(dim=2) & (sides >= min_side[..., None]).all(dim=2)

    selected = []
    for level, (logits, maps, cells, stride) in enumerate(zip(objectness, deltas, cell_anchors, pairs, strict=True)):
        anchors = grid_anchors(cells.to(dtype), tuple(logits.shape[2:]), stride, offset=anchor_offset)  # [N, 4]
        anchors = anchors.expand(batch, -1, -1)
        logits = logits.to(dtype).permute(0, 2, 3, 1).flatten(1)  # [B, N] in the order (y W + x) A + a
        maps = maps.to(dtype).permute(0, 2, 3, 1).reshape(*logits.shape, 4)
        wanted = ~logits.isnan()
        if filter_before_topk:
            wanted = wanted & decoded(maps, anchors)[1]
        # Two stable sorts: by logit, then the wanted before the others.
        order = torch.where(wanted, logits, -torch.inf).sort(dim=1, descending=True, stable=True).indices
        order = order.gather(1, wanted.gather(1, order).byte().sort(dim=1, descending=True, stable=True).indices)
        order = order[:, :pre_nms_top_n]
        wanted = wanted.gather(1, order)
        rows = order[..., None].expand(-1, -1, 4)
        logits = torch.where(wanted, logits.gather(1, order), 0.0)
        selected.append((logits, maps.gather(1, rows), anchors.gather(1, rows), wanted, torch.full_like(order, level)))
    logits, level_deltas, anchors, wanted, levels = (torch.cat(parts, dim=1) for parts in zip(*selected, strict=True))

    scores = torch.stack([torch.sigmoid(row) for row in logits]) if batch else logits
    boxes, usable = decoded(level_deltas, anchors)
    usable = usable & wanted & (scores >= score_threshold)
    scores, order = torch.where(usable, scores, -1.0).sort(dim=1, descending=True, stable=True)
    boxes, levels = boxes.gather(1, order[..., None].expand(-1, -1, 4)), levels.gather(1, order)

    all_boxes, all_scores = boxes.new_zeros(batch, post_nms_top_n, 4), scores.new_zeros(batch, post_nms_top_n)
    count = torch.zeros(batch, dtype=torch.int64, device=boxes.device)
    for image in range(batch if scores.shape[1] else 0):
        keep, _ = nms_padded(
            boxes[image], scores[image], levels[image], iou_threshold=nms_threshold, max_output=post_nms_top_n
        )
        index = keep.clamp(min=0)
        used = (keep >= 0) & (scores[image][index] >= 0)  # what is not usable comes last
        all_boxes[image] = torch.where(used[:, None], boxes[image][index], 0.0)
        all_scores[image] = torch.where(used, scores[image][index], 0.0)
        count[image] = used.sum()
    return all_boxes, all_scores, count
