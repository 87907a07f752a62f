"""The data sets a command can name, and their splits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasterrcnn.data.annotated import AnnotatedDataset
from fasterrcnn.data.coco import CocoDataset
from fasterrcnn.data.dataset import DetectionDataset
from fasterrcnn.data.shapes import Shapes
from fasterrcnn.data.synthetic import SyntheticScenes
from fasterrcnn.data.voc import EVERYTHING, VocDataset, voc_splits

DATASETS = {"shapes": Shapes, "scenes": SyntheticScenes}
"""Generated ones."""

SIZES = {"shapes": (128, 160), "scenes": (192, 256)}
"""(height, width) in pixels, where nothing else is asked for."""

FILE_FORMS = ("voc:FOLDER", "coco:FOLDER", "coco:JSON:IMAGES")
KNOWN = (*DATASETS, *FILE_FORMS)
SPLIT_MARK = "{split}"

# Added to a seed; generated sets of different seeds have no picture in common.
_SPLITS = {"train": 0, "val": 10_000_000, "test": 20_260_000}
SPLITS = tuple(_SPLITS)


@dataclass(frozen=True)
class FileSource:
    """Where a data set of files is, out of its name.

    Attributes:
        kind: "voc" or "coco".
        path: folder, or COCO's JSON file, which may have "{split}" in it.
        images: folder of the images of a JSON file, likewise; None for a folder in COCO's own order.
    """

    kind: str
    path: str
    images: str | None = None


def is_generated(name: str) -> bool:
    """Whether a name is one of ``DATASETS``.

    Raises:
        ValueError: it is neither that nor a data set of files.
    """
    if name in DATASETS:
        return True
    parse_source(name)
    return False


def parse_source(name: str) -> FileSource:
    """The parts of a name such as "voc:FOLDER".

    Raises:
        ValueError: it is no such name.
    """
    kind, colon, rest = name.partition(":")
    if kind not in ("voc", "coco") or not colon or not rest:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(KNOWN)}")
    if kind == "voc" or os.path.isdir(rest):
        return FileSource(kind, rest)
    if found := re.fullmatch(r"(.+\.json):(.+)", rest, re.DOTALL):  # other colons may be those of drives
        return FileSource(kind, found[1], found[2])
    if rest.endswith(".json"):
        return FileSource(kind, rest, str(Path(rest).parent))
    return FileSource(kind, rest)


def open_dataset(
    name: str,
    split: str = "train",
    length: int | None = 1000,
    *,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    problems: str = "repair",
    verify: str = "head",
    class_names: Sequence[str] | None = None,
    on_image: Callable[[int], None] | None = None,
) -> DetectionDataset:
    """A data set by name.

    Args:
        name: "shapes" (:class:`~fasterrcnn.data.shapes.Shapes`) or "scenes"
            (:class:`~fasterrcnn.data.synthetic.SyntheticScenes`), both generated; "voc:FOLDER", a PASCAL VOC folder;
            "coco:FOLDER", a folder with ``annotations/instances_<split>.json`` and the images in ``<split>``,
            ``images/<split>`` or ``images``; or "coco:JSON:IMAGES", in both of which "{split}" stands for the split.
        split: of a generated set "train", "val" or "test", which have no picture in common; otherwise as files name it.
            Of COCO's folder the only ``instances_train*.json`` is "train" as well.
        length: number of images, ≥ 1; of files at most so many, the first ones. None for all, generated sets have none.
        seed: 0…9,999,999; other seeds give other generated pictures.
        size: (height, width) of generated images in pixels; None for what suits the set.
        problems: what to do about problems of files, see :data:`fasterrcnn.data.problems.POLICIES`.
        verify: "head" or "pixels", see :class:`~fasterrcnn.data.annotated.AnnotatedDataset`.
        class_names: number the classes of files like this.
        on_image: called with the number of image files looked at.

    Raises:
        ValueError: an unknown name or split, a number out of range, or files that cannot be used.
        OSError: files that are not there.
    """
    if length is not None and length < 1:
        raise ValueError(f"a data set needs at least one image, got length {length}")
    if not is_generated(name):
        options = {"problems": problems, "verify": verify, "class_names": class_names, "on_image": on_image}
        return _first(_open_files(parse_source(name), split, options), length)
    if split not in _SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    if length is None:
        raise ValueError(f"{name} is generated: say how many images")
    if not 0 <= seed < _SPLITS["val"]:
        raise ValueError(f"the seed of a data set is in 0…{_SPLITS['val'] - 1}, got {seed}")
    return DATASETS[name](length, seed + _SPLITS[split], SIZES[name] if size is None else size)


def splits_of(name: str) -> list[str]:
    """The splits a data set of files has; of a single JSON file "all"."""
    source = parse_source(name)
    if source.kind == "voc":
        return voc_splits(source.path) or [EVERYTHING]
    if source.images is None:
        files = sorted((Path(source.path) / "annotations").glob("instances_*.json"))
        return [file.stem.removeprefix("instances_") for file in files]
    if SPLIT_MARK not in source.path:
        return [EVERYTHING]
    head, _, tail = Path(source.path).name.partition(SPLIT_MARK)
    if SPLIT_MARK in tail or SPLIT_MARK in str(Path(source.path).parent):
        return list(SPLITS)
    files = sorted(Path(source.path).parent.glob("*.json"))
    names = [file.name for file in files if file.name.startswith(head) and file.name.endswith(tail)]
    return [file[len(head) : len(file) - len(tail)] for file in names]


def has_splits(name: str) -> bool:
    """Whether the split says which images a data set has; it does not for a single JSON file."""
    source = None if is_generated(name) else parse_source(name)
    return source is None or source.images is None or SPLIT_MARK in source.path


def _open_files(source: FileSource, split: str, options: dict[str, Any]) -> AnnotatedDataset:
    if source.kind == "voc":
        return VocDataset(source.path, split, **options)
    if source.images is not None:
        path, images = (text.replace(SPLIT_MARK, split) for text in (source.path, source.images))
        return CocoDataset(path, images, **options)
    root = Path(source.path)
    path = root / "annotations" / f"instances_{split}.json"
    if not path.exists():
        found = sorted(path.parent.glob(f"instances_{split}*.json"))
        if len(found) != 1:
            known = ", ".join(splits_of(f"coco:{root}")) or "none"
            raise FileNotFoundError(f"{path}: no such file; splits there: {known}")
        path = found[0]
    full = path.stem.removeprefix("instances_")
    folders = [root / full, root / "images" / full, root / "images"]
    return CocoDataset(path, next((folder for folder in folders if folder.is_dir()), folders[0]), **options)


def _first(dataset: AnnotatedDataset, length: int | None) -> AnnotatedDataset:
    dataset.images = dataset.images[:length]
    return dataset
