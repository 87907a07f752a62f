"""Data sets, all of one shape: see :mod:`fasterrcnn.data.dataset`."""

from fasterrcnn.data.dataset import DetectionDataset, collate
from fasterrcnn.data.synthetic import SyntheticScenes
from fasterrcnn.data.transforms import horizontal_flip, read_image, to_pil, to_tensor

__all__ = [
    "DetectionDataset",
    "SyntheticScenes",
    "collate",
    "horizontal_flip",
    "read_image",
    "to_pil",
    "to_tensor",
]
