"""Average precision of COCO, computed by a public evaluator: faster-coco-eval, or pycocotools where that is wanted.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, and the evaluation its server uses: 101 recall
points, IoU 0.5…0.95 in steps of 0.05, at most 100 detections per image. Both evaluators give the same numbers; a test
compares them.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

BACKENDS = ("faster-coco-eval", "pycocotools")


@dataclass(frozen=True)
class CocoPrecision:
    """COCO's numbers, each 0…1 and NaN where there is nothing to find.

    Attributes:
        mean: average precision over IoU 0.5…0.95 and all classes, "mAP" of COCO.
        at_50, at_75: at IoU 0.5 and 0.75 alone.
        small, medium, large: of objects of less than 32², up to 96², and more square pixels.
        recall: average recall with at most 100 detections per image.
        per_class: ``mean`` of label ``i + 1`` at index ``i``.
        per_class_50: likewise at IoU 0.5.
    """

    mean: float
    at_50: float
    at_75: float
    small: float
    medium: float
    large: float
    recall: float
    per_class: tuple[float, ...]
    per_class_50: tuple[float, ...]


def coco_average_precision(
    detections: Sequence[Any],
    targets: Sequence[Mapping[str, torch.Tensor]],
    num_classes: int,
    *,
    backend: str = "faster-coco-eval",
) -> CocoPrecision:
    """COCO's average precision.

    Args:
        detections: one per image, with ``boxes`` [D, 4] (x1, y1, x2, y2 in pixels), ``labels`` [D] (1…C) and
            ``scores`` [D], such as :class:`fasterrcnn.types.Detections`. The best 100 of an image count.
        targets: one per image, with ``boxes`` [M, 4] and ``labels`` [M], and optionally ``crowd`` and ``difficult``
            bool [M] and ``area`` [M]. Crowds are not to be found, and detections inside them do not count; VOC's
            difficult objects are treated likewise. Areas decide between small, medium and large; by default those of
            the boxes.
        num_classes: C, background not counted.
        backend: "faster-coco-eval" or "pycocotools".

    Raises:
        ValueError: unequal numbers of images, or an unknown evaluator.
        ImportError: the evaluator is not installed; the message says how to get it.
    """
    if len(detections) != len(targets):
        raise ValueError(
            f"detections and targets: expected one each per image, got {len(detections)} and {len(targets)}"
        )
    dataset, evaluator = _evaluator(backend)
    found = [
        {"image_id": image, "category_id": label, "bbox": _xywh(box), "score": score}
        for image, item in enumerate(detections, 1)
        for box, label, score in zip(
            item.boxes.detach().cpu().tolist(), item.labels.tolist(), item.scores.detach().cpu().tolist(), strict=True
        )
    ]
    if not found or not any(bool((~ignored(target)).any()) for target in targets):
        return _without_detections(targets, num_classes)
    with contextlib.redirect_stdout(io.StringIO()):  # they print what we return
        truth = dataset()
        truth.dataset = _ground_truth(targets, num_classes)
        truth.createIndex()
        run = evaluator(truth, truth.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    numbers = [math.nan if value < 0 else float(value) for value in run.stats]
    # [IoU thresholds, recalls, classes, areas, most detections]; -1 where a class has no object
    precision = np.asarray(run.eval["precision"])[:, :, :, 0, -1]
    mean, at_50, at_75, small, medium, large = numbers[:6]
    return CocoPrecision(
        *(mean, at_50, at_75, small, medium, large, numbers[8]),
        per_class=tuple(_mean_of(precision[:, :, index]) for index in range(num_classes)),
        per_class_50=tuple(_mean_of(precision[0, :, index]) for index in range(num_classes)),
    )


def _evaluator(backend: str) -> tuple[Any, Any]:
    """The dataset and evaluation classes of an evaluator; both have the same interface."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown evaluator {backend!r}; known: {', '.join(BACKENDS)}")
    try:
        if backend == "pycocotools":
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval

            return COCO, COCOeval
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError(f"COCO's average precision needs {backend}: pip install {backend}") from error


def _ground_truth(targets: Sequence[Mapping[str, torch.Tensor]], num_classes: int) -> dict[str, Any]:
    annotations = []
    for image, target in enumerate(targets, 1):
        items = (target["boxes"].tolist(), target["labels"].tolist(), ignored(target).tolist(), _areas(target).tolist())
        for box, label, crowd, area in zip(*items, strict=True):
            x, y, width, height = _xywh(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": [x, y, width, height],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    return {
        "info": {},
        "images": [{"id": image} for image in range(1, len(targets) + 1)],
        "categories": [{"id": label, "name": str(label)} for label in range(1, num_classes + 1)],
        "annotations": annotations,
    }


def _without_detections(targets: Sequence[Mapping[str, torch.Tensor]], num_classes: int) -> CocoPrecision:
    """The evaluators take no empty lists: 0 for what there is to find, NaN for what there is not."""
    keep = [~ignored(target) for target in targets]
    none = torch.zeros(0, dtype=torch.int64)
    labels = torch.cat([none, *(target["labels"].cpu()[k] for target, k in zip(targets, keep, strict=True))])
    area = torch.cat([none.double(), *(_areas(target)[k] for target, k in zip(targets, keep, strict=True))])

    def zero(present: torch.Tensor) -> float:
        return 0.0 if bool(present.any()) else math.nan

    every = zero(labels > 0)
    sizes = [zero(area < 32**2), zero((area >= 32**2) & (area < 96**2)), zero(area >= 96**2)]
    classes = tuple(zero(labels == label) for label in range(1, num_classes + 1))
    return CocoPrecision(every, every, every, *sizes, every, classes, classes)


def ignored(target: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """bool [M]: objects that are neither to be found nor wrong to find, difficult ones and crowds."""
    result = torch.zeros(len(target["labels"]), dtype=torch.bool)
    for key in ("difficult", "crowd"):
        if key in target:
            result |= target[key].cpu().bool()
    return result


def _areas(target: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """float64 [M], in pixels²."""
    if "area" in target:
        return target["area"].cpu().double()
    boxes = target["boxes"].cpu().double()
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _mean_of(values: np.ndarray) -> float:
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else math.nan
