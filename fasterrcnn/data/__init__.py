"""Data sets, all of one shape: see :mod:`fasterrcnn.data.dataset`."""

from fasterrcnn.data.augment import TrainingView
from fasterrcnn.data.catalog import open_dataset
from fasterrcnn.data.coco import CocoDataset
from fasterrcnn.data.dataset import DetectionDataset, collate
from fasterrcnn.data.export import write_coco, write_voc
from fasterrcnn.data.images import read_image, to_tensor
from fasterrcnn.data.problems import DataError
from fasterrcnn.data.synthetic import SyntheticScenes
from fasterrcnn.data.transforms import horizontal_flip, to_pil
from fasterrcnn.data.voc import VocDataset

__all__ = [
    "CocoDataset",
    "DataError",
    "DetectionDataset",
    "SyntheticScenes",
    "TrainingView",
    "VocDataset",
    "collate",
    "horizontal_flip",
    "open_dataset",
    "read_image",
    "to_pil",
    "to_tensor",
    "write_coco",
    "write_voc",
]
