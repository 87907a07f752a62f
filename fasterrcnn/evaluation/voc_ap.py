"""Average precision of PASCAL VOC.

Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.2 (11-point form, used
until VOC2009), and the development kit of VOC2010 (area under the whole precision/recall curve, used since).

Letters: D detections and M ground-truth objects of one image, C classes, N detections of one class over all images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fasterrcnn.evaluation.coco import ignored
from fasterrcnn_ops import box_iou


class _Detections(Protocol):
    """Anything with ``boxes`` [D, 4], ``labels`` [D] and ``scores`` [D], such as
    :class:`fasterrcnn.types.Detections`."""

    boxes: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True)
class AveragePrecision:
    """Result of :func:`mean_average_precision`.

    Attributes:
        mean: mean of ``per_class`` over the classes that occur in the ground truth, 0…1; NaN when none does.
        per_class: average precision of label ``i + 1`` at index ``i``, 0…1; NaN for a class without (non-difficult)
            ground truth.
        objects: number of (non-difficult) ground-truth objects of each class.
    """

    mean: float
    per_class: tuple[float, ...]
    objects: tuple[int, ...]


def match_detections(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    gt_boxes: torch.Tensor,
    gt_difficult: torch.Tensor | None = None,
    iou_threshold: float = 0.5,
) -> torch.Tensor:
    """Decide for the detections of one class in one image which are right.

    VOC's rule: in descending score (ties: lower index first) each detection looks at the ground truth it overlaps
    most. It is right when that IoU reaches the threshold and the object was not found yet; a second detection of an
    object is a false alarm, even when it also overlaps another object. Detections whose best object is difficult do
    not count at all.

    Args:
        boxes: [D, 4], x1, y1, x2, y2 in pixels.
        scores: [D].
        gt_boxes: [M, 4].
        gt_difficult: bool [M]; default none.
        iou_threshold: 0…1; IoU equal to it counts as found.

    Returns:
        int64 [D]: 1 right, 0 false alarm, −1 not counted, in the order of the input.
    """
    verdict = torch.zeros(len(boxes), dtype=torch.int64)
    if len(gt_boxes) == 0 or len(boxes) == 0:
        return verdict
    iou = box_iou(boxes.double(), gt_boxes.double())
    best_iou, best = iou.nan_to_num(0.0).max(dim=1)  # zero-area pairs have IoU NaN and overlap nothing
    found = set()
    for detection in scores.argsort(descending=True, stable=True).tolist():
        truth = int(best[detection])
        if best_iou[detection] < iou_threshold:
            continue
        if gt_difficult is not None and gt_difficult[truth]:
            verdict[detection] = -1
        elif truth not in found:
            found.add(truth)
            verdict[detection] = 1
    return verdict


def average_precision(scores: torch.Tensor, correct: torch.Tensor, num_objects: int, *, method: str = "area") -> float:
    """Average precision of one class.

    Args:
        scores: [N], any order.
        correct: bool or 0/1 [N], whether each detection is right.
        num_objects: number of ground-truth objects, those never detected included.
        method: "area": area under the precision/recall curve made monotone from the right; "11point": mean of the best
            precision at recalls of at least 0, 0.1, …, 1.

    Returns:
        0…1; NaN when there is no object.

    Raises:
        ValueError: unknown method.
    """
    return precision_recall(scores, correct, num_objects).average(method)


@dataclass(frozen=True)
class PrecisionRecall:
    """The precision/recall curve of one class: its points as detections are added, best first.

    Attributes:
        scores: float64 [N], descending; equal scores keep the order of the input.
        precision: float64 [N], part of the first n + 1 detections that are right.
        recall: float64 [N], part of the objects found by them; NaN when there is no object.
        objects: number of ground-truth objects, those never detected included.
    """

    scores: torch.Tensor
    precision: torch.Tensor
    recall: torch.Tensor
    objects: int

    @property
    def envelope(self) -> torch.Tensor:
        """float64 [N], the best precision at this recall or any higher one: the running maximum from the right."""
        return self.precision.flip(0).cummax(0).values.flip(0) if len(self.precision) else self.precision

    def average(self, method: str = "area") -> float:
        """Average precision, 0…1 (NaN without objects); see :func:`average_precision`."""
        if method not in ("area", "11point"):
            raise ValueError(f'method: expected "area" or "11point", got {method!r}')
        if self.objects == 0:
            return math.nan
        if method == "11point":
            # the small slack keeps 3 of 10 objects at "recall 0.3" in spite of rounding
            points = (self.envelope[self.recall >= step / 10 - 1e-9] for step in range(11))
            return sum(float(reached[0]) if len(reached) else 0.0 for reached in points) / 11
        steps = self.recall.diff(prepend=self.recall.new_zeros(1))
        return float((steps * self.envelope).sum())


def precision_recall(scores: torch.Tensor, correct: torch.Tensor, num_objects: int) -> PrecisionRecall:
    """The curve of one class.

    Args:
        scores: [N], any order.
        correct: bool or 0/1 [N], whether each detection is right.
        num_objects: number of ground-truth objects, those never detected included.
    """
    order = scores.argsort(descending=True, stable=True)
    hits = correct[order].double().cumsum(0)
    precision = hits / torch.arange(1, len(hits) + 1, dtype=torch.float64)
    recall = hits / num_objects if num_objects else torch.full_like(hits, math.nan)
    return PrecisionRecall(scores[order].double(), precision, recall, num_objects)


def precision_recall_curves(
    detections: Sequence[_Detections],
    targets: Sequence[Mapping[str, Any]],
    num_classes: int,
    iou_threshold: float = 0.5,
) -> list[PrecisionRecall]:
    """The curve of each class, label ``i + 1`` at index ``i``; arguments as :func:`mean_average_precision` has them.

    Raises:
        ValueError: unequal numbers of images.
    """
    if len(detections) != len(targets):
        raise ValueError(
            f"detections and targets: expected one each per image, got {len(detections)} and {len(targets)}"
        )
    curves = []
    for label in range(1, num_classes + 1):
        scores, verdicts, count = [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)], 0
        for found, target in zip(detections, targets, strict=True):
            mine, truth = found.labels.cpu() == label, target["labels"].cpu() == label
            difficult = ignored(target)[truth]
            count += int((~difficult).sum())
            image_scores = found.scores.detach().cpu().float()[mine]
            boxes = found.boxes.detach().cpu()[mine]
            verdicts.append(
                match_detections(boxes, image_scores, target["boxes"].cpu()[truth], difficult, iou_threshold)
            )
            scores.append(image_scores)
        all_scores, verdict = torch.cat(scores), torch.cat(verdicts)
        counted = verdict >= 0
        curves.append(precision_recall(all_scores[counted], verdict[counted], count))
    return curves


def mean_average_precision(
    detections: Sequence[_Detections],
    targets: Sequence[Mapping[str, Any]],
    num_classes: int,
    iou_threshold: float = 0.5,
    *,
    method: str = "area",
) -> AveragePrecision:
    """Mean over classes of the average precision of VOC.

    Args:
        detections: one per image.
        targets: one per image, with ``boxes`` [M, 4], ``labels`` int64 [M] (1…C) and optionally ``difficult`` and
            ``crowd``, both bool [M]: objects that are neither required nor counted against a detection.
        num_classes: C, background not counted.
        iou_threshold: 0…1.
        method: see :func:`average_precision`.

    Raises:
        ValueError: unequal numbers of images, or an unknown method.
    """
    return summarise(precision_recall_curves(detections, targets, num_classes, iou_threshold), method=method)


def summarise(curves: Sequence[PrecisionRecall], *, method: str = "area") -> AveragePrecision:
    """Average precision of each curve and their mean."""
    per_class = tuple(curve.average(method) for curve in curves)
    present = [value for value in per_class if not math.isnan(value)]
    mean = sum(present) / len(present) if present else math.nan
    return AveragePrecision(mean, per_class, tuple(curve.objects for curve in curves))
