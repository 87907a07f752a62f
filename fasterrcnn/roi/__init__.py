"""The second stage: features of each proposal, the head that classifies and refines them, and detections."""

from fasterrcnn.roi.detections import ClassRows, DetectionLayer, class_rows
from fasterrcnn.roi.features import RoIPooler
from fasterrcnn.roi.head import ClassicHead, GeneralizedRoIHeads, RoIHeads, StepwiseHead

__all__ = [
    "ClassRows",
    "ClassicHead",
    "DetectionLayer",
    "GeneralizedRoIHeads",
    "RoIHeads",
    "RoIPooler",
    "StepwiseHead",
    "class_rows",
]
