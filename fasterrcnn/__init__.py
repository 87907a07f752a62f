"""Faster R-CNN detectors on the operators of :mod:`fasterrcnn_ops`."""

from __future__ import annotations

from fasterrcnn import export
from fasterrcnn.build import build, default_arguments
from fasterrcnn.classic import FasterRCNN
from fasterrcnn.cuda_graphs import CudaGraphed
from fasterrcnn.generalized import GeneralizedRCNN
from fasterrcnn.padded import PaddedDetector
from fasterrcnn.stepwise import StepwiseRCNN
from fasterrcnn.types import Detections, PaddedDetections
from fasterrcnn_ops import __version__

__all__ = [
    "CudaGraphed",
    "Detections",
    "FasterRCNN",
    "GeneralizedRCNN",
    "PaddedDetections",
    "PaddedDetector",
    "StepwiseRCNN",
    "__version__",
    "build",
    "default_arguments",
    "export",
]
