"""Measures of how well detections agree with the ground truth."""

from fasterrcnn.evaluation.coco import CocoPrecision, coco_average_precision
from fasterrcnn.evaluation.run import Evaluation, evaluate, measure
from fasterrcnn.evaluation.voc_ap import (
    AveragePrecision,
    PrecisionRecall,
    average_precision,
    match_detections,
    mean_average_precision,
    precision_recall,
    precision_recall_curves,
)

__all__ = [
    "AveragePrecision",
    "CocoPrecision",
    "Evaluation",
    "PrecisionRecall",
    "average_precision",
    "coco_average_precision",
    "evaluate",
    "match_detections",
    "mean_average_precision",
    "measure",
    "precision_recall",
    "precision_recall_curves",
]
