"""Tensors from files into detectors, other projects' files included; nothing in a file is ever run.

``files`` reads what is in a file, ``pickles`` the part of pickle that needs, ``families`` says whose file it is and
gives its tensors this package's names and conventions, ``stem`` fits a first convolution to a detector's colours, and
``place`` puts tensors into a detector.
"""

from __future__ import annotations

from fasterrcnn.weights.families import DETECTRON2
from fasterrcnn.weights.files import read_safetensors, read_tensors
from fasterrcnn.weights.place import LoadReport, check_state, load, load_pretrained, load_state

__all__ = [
    "DETECTRON2",
    "LoadReport",
    "check_state",
    "load",
    "load_pretrained",
    "load_state",
    "read_safetensors",
    "read_tensors",
]
