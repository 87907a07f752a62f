"""A detector of this package on torchvision's operators, written the way torchvision's own detector goes about it.

Same modules, same parameters, same rules; what differs are the box operators and how boxes travel: index lists instead
of fixed capacity, all anchors decoded before the best are chosen, RoIs pooled from contiguous features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.generalized import GeneralizedRCNN
from fasterrcnn.image_batch import boxes_to_original
from fasterrcnn.types import Detections, ImageBatch, Size

SMALLEST_SIDE = 1e-2


def detect(model: GeneralizedRCNN, images: list[Tensor]) -> list[Detections]:
    """What ``model.detect(images)`` does, for the C4 systems in evaluation mode."""
    with torch.no_grad():
        batch = model.batcher(images)
        features = model.backbone(batch.images)
        proposals = _propose(model, features, batch)
        return _detect(model, features, proposals, batch)


def _propose(model: GeneralizedRCNN, features: Tensor, batch: ImageBatch) -> list[Tensor]:
    import torchvision

    layer = model.rpn.proposal_layer
    score_map, delta_map = model.rpn.maps(features)
    images = len(batch.sizes)
    logits = score_map.permute(0, 2, 3, 1).reshape(images, -1)
    deltas = delta_map.permute(0, 2, 3, 1).reshape(images, -1, 4)
    anchors = _anchors(model, features)
    proposals = []
    for index, size in enumerate(batch.sizes):
        boxes = _decode(deltas[index], anchors, layer.coder)
        best = logits[index].topk(min(layer.pre_nms_top_n[1], len(anchors))).indices
        boxes = _clip(boxes[best], size, layer.coder)
        sides = boxes[:, 2:] - boxes[:, :2] + layer.inclusive_sides
        large = (sides >= layer.min_size).all(dim=1).nonzero()[:, 0]
        boxes, scores = boxes[large], logits[index][best][large].sigmoid()
        keep = torchvision.ops.nms(boxes, scores, layer.nms_threshold)[: layer.post_nms_top_n[1]]
        proposals.append(boxes[keep])
    return proposals


def _detect(model: GeneralizedRCNN, features: Tensor, proposals: list[Tensor], batch: ImageBatch) -> list[Detections]:
    import torchvision

    layer, pooler = model.detection_layer, model.roi_heads.pooler
    pooled = torchvision.ops.roi_align(
        features, proposals, pooler.size, pooler.spatial_scale, pooler.sampling_ratio, pooler.aligned
    )
    logits, deltas = model.roi_heads.predict(pooled)
    counts = [len(boxes) for boxes in proposals]
    detections = []
    per_image = zip(logits.split(counts), deltas.split(counts), proposals, batch.sizes, strict=True)
    for index, (logit, delta, boxes, size) in enumerate(per_image):
        scores = logit.softmax(dim=1)[:, 1:]
        classes = scores.shape[1]
        references = boxes[:, None].expand(-1, delta.shape[1] // 4, -1).reshape(-1, 4)
        decoded = _clip(_decode(delta.reshape(-1, 4), references, layer.coder), size, layer.coder)
        decoded = decoded.view(len(boxes), -1, 4)[:, -classes:].reshape(-1, 4)
        labels = torch.arange(1, classes + 1).expand(len(boxes), -1).reshape(-1)
        scores = scores.reshape(-1)
        wanted = (scores > layer.score_threshold) & ((decoded[:, 2:] - decoded[:, :2]) >= SMALLEST_SIDE).all(dim=1)
        wanted = wanted.nonzero()[:, 0]
        decoded, scores, labels = decoded[wanted], scores[wanted], labels[wanted]
        keep = torchvision.ops.batched_nms(decoded, scores, labels, layer.nms_threshold)[: layer.max_detections]
        detections.append(Detections(boxes_to_original(decoded[keep], batch, index), labels[keep], scores[keep]))
    return detections


def _anchors(model: GeneralizedRCNN, features: Tensor) -> Tensor:
    grid = model.rpn.anchors
    y, x = torch.meshgrid(
        torch.arange(features.shape[2]) * grid.stride, torch.arange(features.shape[3]) * grid.stride, indexing="ij"
    )
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (shifts + grid.cell_anchors).reshape(-1, 4)


def _decode(deltas: Tensor, references: Tensor, coder: BoxCoder) -> Tensor:
    extent = float(coder.inclusive)
    sides = references[:, 2:] - references[:, :2] + extent
    centres = references[:, :2] + 0.5 * sides
    weights = deltas.new_tensor(coder.weights)
    deltas = deltas / weights
    centres = centres + deltas[:, :2] * sides
    sides = sides * deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp()
    return torch.cat([centres - 0.5 * sides, centres + 0.5 * sides - extent], dim=1)


def _clip(boxes: Tensor, size: Size, coder: BoxCoder) -> Tensor:
    height, width = size
    x = boxes[:, 0::2].clamp(0, width - coder.inclusive)
    y = boxes[:, 1::2].clamp(0, height - coder.inclusive)
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)
