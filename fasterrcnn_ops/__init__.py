"""Box and RoI operators for two-stage detectors, in C++ and CUDA.

Names load on first use, so that importing this package costs nothing: the first torch operator registers all of them,
and so does ``import fasterrcnn_ops.torch_ops``, which is what loading an exported program needs.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fasterrcnn_ops.anchors import cell_anchors, grid_anchors
    from fasterrcnn_ops.box_coder import decode_boxes, encode_boxes
    from fasterrcnn_ops.boxes import (
        box_area,
        box_convert,
        box_iou,
        clip_boxes_to_image,
        complete_box_iou,
        distance_box_iou,
        generalized_box_iou,
        remove_small_boxes,
    )
    from fasterrcnn_ops.detections import select_detections, select_detections_with_proposal
    from fasterrcnn_ops.matching import match_boxes
    from fasterrcnn_ops.multi_scale_roi_align import MultiScaleRoIAlign, multi_scale_roi_align
    from fasterrcnn_ops.nms import batched_nms, nms, nms_padded
    from fasterrcnn_ops.proposals import generate_proposals
    from fasterrcnn_ops.roi_align import RoIAlign, roi_align
    from fasterrcnn_ops.roi_pool import RoIPool, roi_pool
    from fasterrcnn_ops.sampling import sample_candidates
    from fasterrcnn_ops.soft_nms import soft_nms

_MODULE_OF = {
    "cell_anchors": "anchors",  # the anchor boxes of one feature map location, by each family's rule
    "grid_anchors": "anchors",  # cell anchors at every location of a feature map
    "encode_boxes": "box_coder",  # boxes -> regression deltas against anchors
    "decode_boxes": "box_coder",  # regression deltas -> boxes, clamped and clipped
    "box_area": "boxes",  # area of each box
    "box_convert": "boxes",  # between xyxy, xywh and cxcywh
    "box_iou": "boxes",  # pairwise intersection over union
    "generalized_box_iou": "boxes",  # pairwise GIoU
    "distance_box_iou": "boxes",  # pairwise DIoU
    "complete_box_iou": "boxes",  # pairwise CIoU
    "clip_boxes_to_image": "boxes",  # clamp boxes to the image
    "remove_small_boxes": "boxes",  # indices of the boxes with both sides large enough
    "match_boxes": "matching",  # target of each box by IoU thresholds, without an N x M matrix
    "sample_candidates": "sampling",  # a fixed number of positives and negatives, by a hash of seed and number
    "nms": "nms",  # non-maximum suppression
    "batched_nms": "nms",  # NMS within each class, exact ids
    "nms_padded": "nms",  # NMS of fixed capacity: indices padded with -1, and a count
    "generate_proposals": "proposals",  # the proposals of each image, from the maps of an RPN head
    "select_detections": "detections",  # the detections of each image, from the outputs of a box head
    "select_detections_with_proposal": "detections",  # and the proposal each of them came from
    "roi_align": "roi_align",  # RoI features by bilinear averaging
    "RoIAlign": "roi_align",  # roi_align as a module
    "multi_scale_roi_align": "multi_scale_roi_align",  # roi_align on the level of a pyramid that fits each RoI
    "MultiScaleRoIAlign": "multi_scale_roi_align",  # multi_scale_roi_align of named maps, as a module
    "roi_pool": "roi_pool",  # RoI features by quantised max pooling
    "RoIPool": "roi_pool",  # roi_pool as a module
    "soft_nms": "soft_nms",  # NMS that lowers scores instead of dropping boxes
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module(f"{__name__}.torch_ops")
    globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """Keeps ``fasterrcnn_ops.nms`` the function: importing the submodule of that name would put itself in its place."""

    def __setattr__(self, name: str, value) -> None:
        if not (isinstance(value, types.ModuleType) and name in _MODULE_OF):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
