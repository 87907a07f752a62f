"""The data sets a command can name, and their splits."""

from __future__ import annotations

from fasterrcnn.data.dataset import DetectionDataset
from fasterrcnn.data.shapes import Shapes
from fasterrcnn.data.synthetic import SyntheticScenes

DATASETS = {"shapes": Shapes, "scenes": SyntheticScenes}
SIZES = {"shapes": (128, 160), "scenes": (192, 256)}
"""(height, width) in pixels, where nothing else is asked for."""

# Added to a seed; generated sets of different seeds have no picture in common.
_SPLITS = {"train": 0, "val": 10_000_000, "test": 20_260_000}
SPLITS = tuple(_SPLITS)


def open_dataset(
    name: str, split: str = "train", length: int = 1000, *, seed: int = 0, size: tuple[int, int] | None = None
) -> DetectionDataset:
    """A data set by name.

    Args:
        name: "shapes" (:class:`~fasterrcnn.data.shapes.Shapes`) or "scenes"
            (:class:`~fasterrcnn.data.synthetic.SyntheticScenes`), both generated.
        split: "train", "val" or "test"; they have no picture in common.
        length: number of images, ≥ 1.
        seed: 0…9,999,999; other seeds give other pictures.
        size: (height, width) of the images in pixels; None for what suits the set.

    Raises:
        ValueError: an unknown name or split, or a number out of range.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    if split not in _SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    if length < 1:
        raise ValueError(f"a data set needs at least one image, got length {length}")
    if not 0 <= seed < _SPLITS["val"]:
        raise ValueError(f"the seed of a data set is in 0…{_SPLITS['val'] - 1}, got {seed}")
    return DATASETS[name](length, seed + _SPLITS[split], SIZES[name] if size is None else size)
