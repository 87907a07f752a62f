"""Rows of the box operators: anchors, decoding, matching, suppression. N is a number of boxes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import cases
import torch
from torch import Tensor

import fasterrcnn_ops
from fasterrcnn_ops.reference import anchors as reference_anchors
from fasterrcnn_ops.reference import box_coder as reference_box_coder
from fasterrcnn_ops.reference import matching as reference_matching
from fasterrcnn_ops.reference import nms as reference_nms
from fasterrcnn_ops.reference import soft_nms as reference_soft_nms

from .agreement import all_equal, close_to, few_flipped, same_indices
from .case import IMAGE, Case, Inputs

try:
    import torchvision
    from torchvision.models.detection._utils import BoxCoder, Matcher
    from torchvision.models.detection.anchor_utils import AnchorGenerator
except ImportError:  # cases can still be listed; the stage refuses to run without
    torchvision = BoxCoder = Matcher = AnchorGenerator = None

RATIOS = (0.5, 1.0, 2.0)


def anchors_case(tiny: bool) -> Case:
    """All anchors of a five-level pyramid over an 800 × 1333 image."""
    maps = ((3, 5), (2, 3)) if tiny else ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))
    sizes, strides = (32, 64, 128, 256, 512)[: len(maps)], (4, 8, 16, 32, 64)[: len(maps)]
    generator = AnchorGenerator(tuple((size,) for size in sizes), (RATIOS,) * len(maps)) if AnchorGenerator else None
    stride_tensors: dict[torch.device, list[list[Tensor]]] = {}

    def make(device: torch.device, seed: int) -> Inputs:
        cells = [fasterrcnn_ops.cell_anchors((size,), RATIOS, rule="torchvision") for size in sizes]
        return tuple(cell.to(device) for cell in cells)

    def theirs(*cells: Tensor) -> list[Tensor]:
        device = cells[0].device
        if device not in stride_tensors:
            stride_tensors[device] = [[torch.tensor(stride, device=device)] * 2 for stride in strides]
        generator.cell_anchors = list(cells)
        return generator.grid_anchors([list(shape) for shape in maps], stride_tensors[device])

    def placed(grid_anchors: Callable[..., Tensor], *cells: Tensor) -> list[Tensor]:
        return [grid_anchors(*level) for level in zip(cells, maps, strides, strict=True)]

    count = sum(height * width for height, width in maps) * len(RATIOS)
    return Case(
        op="anchors",
        shape=f"{count}x4",
        dtype="float32",
        layout="",
        make=make,
        ours=functools.partial(placed, fasterrcnn_ops.grid_anchors),
        theirs=theirs,
        reference=functools.partial(placed, reference_anchors.grid_anchors),
        agree=all_equal,
    )


def decode_case(n: int) -> Case:
    """RPN deltas to boxes, clipped to the image."""

    def make(device: torch.device, seed: int) -> Inputs:
        boxes, _ = cases.rpn_like(n, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        deltas = torch.randn(n, 4, generator=generator) * 0.5
        return deltas.to(device), torch.cat((boxes[:, :2], boxes[:, 2:] + 1), dim=1).to(device)

    def theirs(deltas: Tensor, anchors: Tensor) -> Tensor:
        boxes = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode(deltas, [anchors])
        return torchvision.ops.clip_boxes_to_image(boxes, IMAGE).flatten(1)

    return Case(
        op="decode",
        shape=f"{n}x4",
        dtype="float32",
        layout="",
        make=make,
        ours=lambda deltas, anchors: fasterrcnn_ops.decode_boxes(deltas, anchors, image_size=IMAGE),
        theirs=theirs,
        reference=lambda deltas, anchors: reference_box_coder.decode_boxes(deltas, anchors, image_size=IMAGE),
        agree=close_to(relative=1e-5, absolute=2e-3),  # pixels; coordinates up to 1333
        theirs_in_graph=False,  # copies constants from the host
    )


def nms_case(n: int, threshold: float = 0.7) -> Case:
    def make(device: torch.device, seed: int) -> Inputs:
        return tuple(tensor.to(device) for tensor in cases.rpn_like(n, seed=seed))

    return Case(
        op="nms",
        shape=f"{n}",
        dtype="float32",
        layout="",
        make=make,
        ours=lambda boxes, scores: fasterrcnn_ops.nms(boxes, scores, threshold),
        theirs=lambda boxes, scores: torchvision.ops.nms(boxes, scores, threshold),
        reference=lambda boxes, scores: reference_nms.nms(boxes, scores, threshold),
        agree=same_indices,
        captured=lambda boxes, scores: fasterrcnn_ops.nms_padded(boxes, scores, iou_threshold=threshold, max_output=n),
        theirs_in_graph=False,  # resolves on the host, or reads a count back
        pairs=n * (n - 1) // 2,
        exact=True,
    )


def batched_nms_case(classes: int, per_class: int, threshold: float = 0.5) -> Case:
    n = classes * per_class

    def make(device: torch.device, seed: int) -> Inputs:
        boxes, scores = cases.rpn_like(n, seed=seed)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        labels = torch.arange(classes).repeat_interleave(per_class)[order]
        return boxes.to(device), scores.to(device), labels.to(device)

    return Case(
        op="batched_nms",
        shape=f"{classes}x{per_class}",
        dtype="float32",
        layout="",
        make=make,
        ours=lambda *inputs: fasterrcnn_ops.batched_nms(*inputs, threshold),
        theirs=lambda *inputs: torchvision.ops.batched_nms(*inputs, threshold),
        reference=lambda *inputs: reference_nms.batched_nms(*inputs, threshold),
        agree=same_indices,
        captured=lambda *inputs: fasterrcnn_ops.nms_padded(*inputs, iou_threshold=threshold, max_output=n),
        theirs_in_graph=False,
        pairs=classes * per_class * (per_class - 1) // 2,
        exact=True,
    )


def soft_nms_case(n: int) -> Case:
    """Linear, detections of one class; torchvision has no such operator."""

    def make(device: torch.device, seed: int) -> Inputs:
        return tuple(tensor.to(device) for tensor in cases.rpn_like(n, seed=seed))

    return Case(
        op="soft_nms",
        shape=f"{n}",
        dtype="float32",
        layout="",
        make=make,
        ours=fasterrcnn_ops.soft_nms,
        theirs=None,
        reference=reference_soft_nms.soft_nms,
        agree=all_equal,
        ours_in_graph=False,  # reads back how many are left
    )


def match_boxes_case(targets: int, boxes: int, *, rpn: bool) -> Case:
    """Ground truth against the anchors of five levels, by an RPN's rule, or against proposals by a box head's."""
    rule = {"high_threshold": 0.7, "low_threshold": 0.3} if rpn else {"high_threshold": 0.5, "low_threshold": 0.5}
    rule["allow_low_quality"] = rpn

    def make(device: torch.device, seed: int) -> Inputs:
        truth = cases.of_sizes(targets, 24, 384, seed=seed)
        if not rpn:
            return truth.to(device), cases.rpn_like(boxes, seed=seed + 1)[0].to(device)
        grids, stride = [], 4
        while (missing := boxes - sum(map(len, grids))) > 0:
            size = (-(-IMAGE[0] // stride), -(-1344 // stride))
            cells = fasterrcnn_ops.cell_anchors(8 * stride, RATIOS, rule="torchvision")
            grids.append(fasterrcnn_ops.grid_anchors(cells, size, stride)[:missing])
            stride *= 2
        return truth.to(device), torch.cat(grids).to(device)

    def theirs(truth: Tensor, candidates: Tensor) -> Tensor:
        return Matcher(*rule.values())(torchvision.ops.box_iou(truth, candidates))

    return Case(
        op="match_boxes",
        shape=f"{targets} to {boxes}",
        dtype="float32",
        layout="",
        make=make,
        ours=lambda truth, candidates: fasterrcnn_ops.match_boxes(truth, candidates, **rule),
        theirs=theirs,
        reference=lambda truth, candidates: reference_matching.match_boxes(truth, candidates, **rule),
        agree=few_flipped,
        theirs_in_graph=False,  # assigns by masks, whose size it reads back
        pairs=targets * boxes,
        exact=True,
    )
