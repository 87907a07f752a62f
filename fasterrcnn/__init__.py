"""Faster R-CNN detectors on the operators of :mod:`fasterrcnn_ops`."""

from __future__ import annotations

from fasterrcnn.build import build
from fasterrcnn.model import FasterRCNN
from fasterrcnn.types import Detections
from fasterrcnn_ops import __version__

__all__ = ["Detections", "FasterRCNN", "__version__", "build"]
