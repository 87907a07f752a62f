"""Measures of how well detections agree with the ground truth."""

from fasterrcnn.evaluation.voc_ap import AveragePrecision, average_precision, match_detections, mean_average_precision

__all__ = ["AveragePrecision", "average_precision", "match_detections", "mean_average_precision"]
