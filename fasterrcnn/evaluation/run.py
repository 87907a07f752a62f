"""A detector on a whole data set: its detections, and every measure of them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fasterrcnn import distributed
from fasterrcnn.data.dataset import DetectionDataset
from fasterrcnn.evaluation.coco import CocoPrecision, coco_average_precision
from fasterrcnn.evaluation.voc_ap import AveragePrecision, PrecisionRecall, precision_recall_curves, summarise
from fasterrcnn.files import write_text
from fasterrcnn.types import Detections, Target


@dataclass(frozen=True)
class Evaluation:
    """What a detector reached on a data set.

    Attributes:
        class_names: name of label ``i + 1`` at index ``i``.
        images: number of images.
        seconds: duration of the detection per image, on average.
        coco: COCO's numbers.
        voc: VOC's average precision at IoU 0.5, area under the curve.
        voc_11point: likewise by the 11-point form.
        curves: precision and recall of each class at IoU 0.5.
    """

    class_names: tuple[str, ...]
    images: int
    seconds: float
    coco: CocoPrecision
    voc: AveragePrecision
    voc_11point: AveragePrecision
    curves: tuple[PrecisionRecall, ...]

    def as_record(self) -> dict[str, Any]:
        """The numbers for JSON; NaN, where there was nothing to find, is None."""
        names = self.class_names
        coco = asdict(self.coco)
        per_class = [
            {
                "name": name,
                "objects": self.voc.objects[i],
                "coco": self.coco.per_class[i],
                "coco_50": self.coco.per_class_50[i],
                "voc": self.voc.per_class[i],
                "voc_11point": self.voc_11point.per_class[i],
            }
            for i, name in enumerate(names)
        ]
        record = {
            "images": self.images,
            "seconds_per_image": self.seconds,
            "coco": {name: value for name, value in coco.items() if not name.startswith("per_class")},
            "voc": {"area": self.voc.mean, "11point": self.voc_11point.mean},
            "classes": per_class,
        }
        return _without_nan(record)

    def save(self, path: Path) -> None:
        """Writes :meth:`as_record` as JSON."""
        write_text(path, json.dumps(self.as_record(), indent=2, allow_nan=False) + "\n")


def evaluate(
    model: nn.Module,
    dataset: DetectionDataset,
    *,
    batch_size: int = 8,
    score_threshold: float | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Detects on every image of a data set and measures the result.

    Within :func:`fasterrcnn.distributed.joined` every process detects on a part of the images; all get the same result.

    Args:
        model: a detector; its mode and its generators are left as they are.
        dataset: images and ground truth.
        batch_size: images at a time.
        score_threshold: detections below do not count; None for the model's own threshold.
        on_batch: called with the number of images done so far, by this process.

    Raises:
        ValueError: the model's classes are not the data set's, or the data set is empty, or another one in another
            process.
    """
    distributed.agreed(len(dataset), "the number of images to evaluate on")
    if len(dataset) == 0:
        raise ValueError("the data set has no images")
    if model.class_names is not None and tuple(model.class_names) != tuple(dataset.class_names):
        raise ValueError(
            f"the model detects {', '.join(model.class_names)}, the data set has {', '.join(dataset.class_names)}"
        )
    if model.num_classes != len(dataset.class_names):
        raise ValueError(f"the model has {model.num_classes} classes, the data set {len(dataset.class_names)}")
    detections: list[Detections] = []
    targets: list[Target] = []
    seconds = 0.0
    mine = range(distributed.rank(), len(dataset), distributed.processes())
    for first in range(0, len(mine), batch_size):
        images, batch = zip(*(dataset[i] for i in mine[first : first + batch_size]), strict=True)
        start = time.perf_counter()
        detections += [found.to("cpu") for found in model.detect(list(images), score_threshold=score_threshold)]
        seconds += time.perf_counter() - start
        targets += batch
        if on_batch is not None:
            on_batch(len(targets))
    parts = distributed.gathered((detections, targets, seconds))
    seconds = sum(part[2] for part in parts) / len(dataset)
    # Process r had the images r, r + P, r + 2 P, …
    detections, targets = (
        [parts[i % len(parts)][kind][i // len(parts)] for i in range(len(dataset))] for kind in (0, 1)
    )
    return distributed.from_main(lambda: measure(detections, targets, dataset.class_names, seconds=seconds))


def measure(
    detections: Sequence[Detections],
    targets: Sequence[Target],
    class_names: Sequence[str],
    *,
    seconds: float = math.nan,
) -> Evaluation:
    """Every measure of detections that are already there.

    Args:
        detections, targets: one each per image.
        class_names: of all classes.
        seconds: duration of the detection per image.
    """
    count = len(class_names)
    curves = precision_recall_curves(detections, targets, count)
    return Evaluation(
        class_names=tuple(class_names),
        images=len(targets),
        seconds=seconds,
        coco=coco_average_precision(detections, targets, count),
        voc=summarise(curves),
        voc_11point=summarise(curves, method="11point"),
        curves=tuple(curves),
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
