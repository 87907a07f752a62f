"""The second stage: features of each proposal, the head that classifies and refines them, and detections."""

from fasterrcnn.roi.detections import DetectionLayer
from fasterrcnn.roi.features import RoIPooler
from fasterrcnn.roi.head import RoIHeads

__all__ = ["DetectionLayer", "RoIHeads", "RoIPooler"]
