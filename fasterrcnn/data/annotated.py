"""Images on disk with annotations: what PASCAL VOC and COCO have in common once their files are read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fasterrcnn.data.images import ImageError, image_size, read_image
from fasterrcnn.data.problems import DataError, ProblemLog, check_policy, listed
from fasterrcnn.types import Size, Target

VERIFY = ("head", "pixels")
_ROUNDING = 0.5  # pixels; boxes that reach less beyond their image are clipped without a word


@dataclass(slots=True)
class AnnotatedObject:
    """One object as an annotation file has it.

    Attributes:
        box: x1, y1, x2, y2 in pixels, continuous: the box of the pixel (0, 0) alone is (0, 0, 1, 1).
        label: 1…C.
        where: "object 3 (cat)", for messages.
        difficult: VOC: not counted in an evaluation.
        truncated: VOC: reaches beyond the image.
        crowd: COCO: a region with many objects, none of them marked by itself.
        area: COCO: of the object's outline, in pixels²; None for that of the box.
    """

    box: tuple[float, float, float, float]
    label: int
    where: str
    difficult: bool = False
    truncated: bool = False
    crowd: bool = False
    area: float | None = None


@dataclass(slots=True)
class AnnotatedImage:
    """One image as an annotation file has it.

    Attributes:
        id: VOC's stem or COCO's number.
        path: the image.
        source: the annotation file, for messages.
        size: (height, width) the boxes are for; None where the file does not say.
        objects: what is on it.
    """

    id: str | int
    path: Path
    source: Path
    size: Size | None
    objects: list[AnnotatedObject] = field(default_factory=list)


class AnnotatedDataset:
    """A data set of image files, see :class:`fasterrcnn.data.dataset.DetectionDataset`.

    Targets have, besides ``boxes`` and ``labels``: ``difficult``, ``truncated`` and ``crowd`` bool [M] and ``area``
    float32 [M] in pixels². Evaluations use them; :class:`fasterrcnn.data.augment.TrainingView` leaves out difficult
    objects and crowds.

    Args:
        name: of the set, for messages.
        images: what the annotation files say.
        class_names: name of label ``i + 1`` at index ``i``.
        log: problems met while reading; more are added.
        problems: what to do about them, see :data:`fasterrcnn.data.problems.POLICIES`.
        verify: "head": the heads of all image files are read; "pixels": all files are decoded.
        suspects: ids of images with problems, as far as known.
        on_image: called with the number of image files looked at.

    Attributes:
        problems: a :class:`~fasterrcnn.data.problems.ProblemLog` of what was wrong and what was done.
        images: the usable ones.

    Raises:
        DataError: with ``problems="error"`` any problem, otherwise a set without any usable image.
    """

    def __init__(
        self,
        name: str,
        images: Sequence[AnnotatedImage],
        class_names: Sequence[str],
        log: ProblemLog,
        *,
        problems: str = "repair",
        verify: str = "head",
        suspects: set[str | int] | None = None,
        on_image: Callable[[int], None] | None = None,
    ) -> None:
        check_policy(problems)
        if verify not in VERIFY:
            raise ValueError(f"verify must be one of {', '.join(VERIFY)}, got {verify!r}")
        self.name, self.class_names, self.problems = name, tuple(class_names), log
        self.images: list[AnnotatedImage] = []
        suspects = set(suspects or ())
        files: dict[Path, str | int] = {}
        for image, size in zip(images, _sizes(images, verify, on_image), strict=True):
            before = len(log.real)
            usable = self._check(image, size, files)
            if len(log.real) > before:
                suspects.add(image.id)
            if usable:
                self.images.append(image)
        if problems == "error" and log.real:
            raise DataError(f"{name}: {len(log.real)} problems:\n{listed(log.real)}", log)
        if problems == "skip":
            self.images = [image for image in self.images if image.id not in suspects]
        if not self.images:
            raise DataError(f"{name}: no usable image" + (f":\n{listed(log.real)}" if log.real else ""), log)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        """Image float32 [3, H, W], RGB in 0…1, and its target.

        Raises:
            IndexError: no such image.
            DataError: the file cannot be read any more, or is damaged; ``fasterrcnn data check`` finds all of those.
        """
        if not 0 <= index < len(self.images):
            raise IndexError(f"index {index} of a set of {len(self.images)} images")
        image = self.images[index]
        try:
            return read_image(image.path, annotated_size=image.size), self.target(index)
        except OSError as error:
            raise DataError(
                f"{error}. `fasterrcnn data check` finds all such files; data.verify=pixels leaves them out"
            ) from error

    def target(self, index: int) -> Target:
        """The target alone, without reading the image."""
        objects = self.images[index].objects
        boxes = torch.tensor([o.box for o in objects], dtype=torch.float32).reshape(-1, 4)
        box_areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).tolist()
        areas = [a if o.area is None else o.area for o, a in zip(objects, box_areas, strict=True)]
        return {
            "boxes": boxes,
            "labels": torch.tensor([o.label for o in objects], dtype=torch.int64),
            "difficult": torch.tensor([o.difficult for o in objects], dtype=torch.bool),
            "truncated": torch.tensor([o.truncated for o in objects], dtype=torch.bool),
            "crowd": torch.tensor([o.crowd for o in objects], dtype=torch.bool),
            "area": torch.tensor(areas, dtype=torch.float32),
        }

    @property
    def sizes(self) -> list[Size]:
        """(height, width) of every image."""
        return [image.size for image in self.images]

    def _check(self, image: AnnotatedImage, found: Size | OSError, files: dict[Path, str | int]) -> bool:
        """Notes what is wrong with an image and repairs its boxes; False if it cannot be used."""
        log = self.problems
        if isinstance(found, OSError):
            kind = "damaged image" if isinstance(found, ImageError) else "missing image"
            log.add(kind, image.path, _without_name(found, image.path), "left the image out")
            return False
        if image.size is None:
            image.size = found
        if image.size != found:
            (height, width), (real_height, real_width) = image.size, found
            text = f"{real_width} × {real_height} pixels, but {image.source} says {width} × {height}"
            log.add("wrong size", image.path, text, "left the image out")
            return False
        if image.path in files:
            log.add("same file", image.path, f"images {files[image.path]!r} and {image.id!r}", "kept both")
        files.setdefault(image.path, image.id)
        image.objects = [o for o in image.objects if fit_box(o, image, log)]
        if not image.objects:
            log.add("no objects", image.source, f"image {image.id!r}", "kept it, as background")
        return True


def fit_box(item: AnnotatedObject, image: AnnotatedImage, log: ProblemLog) -> bool:
    """Clips an object's box to its image, and notes it; False if nothing of it is left."""
    x1, y1, x2, y2 = item.box
    height, width = image.size
    words = f"image {image.id!r}, {item.where}, x {x1:g}…{x2:g}, y {y1:g}…{y2:g}"
    if not all(math.isfinite(value) for value in item.box):
        log.add("bad box", image.source, words, "left the object out")
        return False
    if x2 <= x1 or y2 <= y1:
        log.add("box without area", image.source, words, "left the object out")
        return False
    clipped = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        log.add("box outside", image.source, f"{words}, image {width} × {height}", "left the object out")
        return False
    if max(abs(a - b) for a, b in zip(item.box, clipped, strict=True)) > _ROUNDING:
        log.add("box outside", image.source, f"{words}, image {width} × {height}", "clipped the box")
    item.box = clipped
    return True


def _sizes(
    images: Sequence[AnnotatedImage], verify: str, on_image: Callable[[int], None] | None
) -> list[Size | OSError]:
    """(height, width) of every image file, or what was wrong with it."""

    def look(image: AnnotatedImage) -> Size | OSError:
        try:
            return image_size(image.path, image.size, decode=verify == "pixels")
        except OSError as error:
            return error

    found: list[Size | OSError] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for size in pool.map(look, images):
            found.append(size)
            if on_image is not None:
                on_image(len(found))
    return found


def _without_name(error: OSError, path: Path) -> str:
    if isinstance(error, ImageError):
        return str(error).removeprefix(f"{path}: ")
    return error.strerror or str(error)
