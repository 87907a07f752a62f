"""fasterrcnn_ops.numpy against what NumPy users have: powerboxes (plain and with its R-tree), OpenCV, torchvision.

Boxes are float32 with whole coordinates, so that OpenCV's (x, y, width, height) holds the same boxes exactly; every
rival gets the layout and dtypes it wants, made before the clock starts. Rivals that are not installed are left out.
"""

from __future__ import annotations

import cases
import numpy as np
import pytest
import torch

import fasterrcnn_ops.numpy as ops
from fasterrcnn_ops.reference import boxes as boxes_reference
from fasterrcnn_ops.reference import nms as reference

try:
    import torchvision.ops as torchvision_ops
except ImportError:  # the `race` fixture leaves it out
    torchvision_ops = None
try:
    import powerboxes
except ImportError:
    powerboxes = None
try:
    import cv2
except ImportError:
    cv2 = None

RIVALS = ("ours", "reference", "torchvision", "powerboxes", "powerboxes_rtree", "opencv")


def same_indices(found, expected: torch.Tensor) -> None:
    assert np.asarray(found).tolist() == expected.tolist()


def installed(implementations: dict) -> dict:
    missing = {"powerboxes": powerboxes is None, "powerboxes_rtree": powerboxes is None, "opencv": cv2 is None}
    return {name: call for name, call in implementations.items() if not missing.get(name, False)}


def whole_boxes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """-> boxes float32 [N, 4] of whole pixels, at least one wide, and scores float32 [N], no two alike."""
    boxes = cases.rpn_like(n)[0].numpy().round()
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    scores = (np.random.default_rng(0).permutation(n) + 1).astype(np.float32) / n  # OpenCV drops scores of 0
    return boxes, scores


@pytest.mark.parametrize("n", [100, 1000, 6000])
def test_nms(race, n):
    threshold = 0.7001  # no quotient of whole areas comes near it: rivals round it in different ways
    boxes, scores = whole_boxes(n)
    scores64 = scores.astype(np.float64)  # the dtype powerboxes takes
    corner_and_size = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    boxes_tensor, scores_tensor = torch.from_numpy(boxes), torch.from_numpy(scores)
    race(
        f"numpy.nms/rpn_{n}_at_0.7",
        installed(
            {
                "ours": lambda: ops.nms(boxes, scores, threshold),
                "reference": lambda: reference.nms(boxes_tensor, scores_tensor, threshold),
                "torchvision": lambda: torchvision_ops.nms(boxes_tensor, scores_tensor, threshold),
                "powerboxes": lambda: powerboxes.nms(boxes, scores64, threshold, 0.0),
                "powerboxes_rtree": lambda: powerboxes.rtree_nms(boxes, scores64, threshold, 0.0),
                "opencv": lambda: cv2.dnn.NMSBoxes(corner_and_size, scores, 0.0, threshold),
            }
        ),
        same_indices,
    )


@pytest.mark.parametrize(("n", "classes"), [(4000, 80)])
def test_batched_nms(race, n, classes):
    threshold = 0.5001
    boxes, scores = whole_boxes(n)
    labels = cases.detections_like(n, classes)[2].numpy()
    corner_and_size = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels)
    race(
        f"numpy.batched_nms/{n}_boxes_{classes}_classes",
        installed(
            {
                "ours": lambda: ops.batched_nms(boxes, scores, labels, threshold),
                "reference": lambda: reference.batched_nms(*tensors, threshold),
                "torchvision": lambda: torchvision_ops.batched_nms(*tensors, threshold),
                "opencv": lambda: cv2.dnn.NMSBoxesBatched(corner_and_size, scores, labels, 0.0, threshold),
            }
        ),
        same_indices,
    )


@pytest.mark.parametrize(("n", "m"), [(1000, 1000)])
def test_box_iou(race, n, m):
    """powerboxes computes 1 - IoU in float64; the clock stops before the results are made comparable."""
    boxes1, boxes2 = whole_boxes(n)[0], whole_boxes(m)[0]
    tensors = torch.from_numpy(boxes1), torch.from_numpy(boxes2)

    def same_values(found, expected: torch.Tensor) -> None:
        values = np.asarray(found)
        np.testing.assert_allclose(1 - values if values.dtype == np.float64 else values, expected.numpy(), atol=1e-6)

    race(
        f"numpy.box_iou/{n}_by_{m}",
        installed(
            {
                "ours": lambda: ops.box_iou(boxes1, boxes2),
                "reference": lambda: boxes_reference.box_iou(*tensors),
                "torchvision": lambda: torchvision_ops.box_iou(*tensors),
                "powerboxes": lambda: powerboxes.iou_distance(boxes1, boxes2),
            }
        ),
        same_values,
    )
