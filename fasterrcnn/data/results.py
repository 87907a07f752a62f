"""Detections as COCO's results format: one JSON list with an entry for every detection of every image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fasterrcnn.data.coco import read_json
from fasterrcnn.data.problems import DataError
from fasterrcnn.files import write_text
from fasterrcnn.types import Detections, Size


class CocoResults:
    """Collects detections and writes them.

    Entries are ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``. Without an annotation file
    images are numbered 1, 2, 3 … and categories are the detector's labels; a second file then says which is which.

    Args:
        class_names: name of label ``i + 1`` at index ``i``.
        annotations: a COCO JSON file whose ids of images (by file name) and categories (by name) are to be used.

    Raises:
        OSError: the annotation file cannot be read.
        DataError: it is no COCO file, or lacks one of the classes.
    """

    def __init__(self, class_names: tuple[str, ...], annotations: Path | None = None) -> None:
        self.results: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.class_names, self.annotations = class_names, annotations
        self._category_ids = list(range(1, len(class_names) + 1))
        self._ids: dict[str, dict[str, Any]] = {}
        if annotations is not None:
            self._read_ids(annotations)

    def image_id(self, path: Path) -> Any:
        """The id of an image file.

        Raises:
            DataError: the annotation file does not name it, or names several that it may be.
        """
        if self.annotations is None:
            return len(self.images) + 1
        full = path.as_posix()
        matches = {name: key for name, key in self._ids.get(path.name, {}).items() if f"/{full}".endswith(f"/{name}")}
        if len(matches) != 1:
            found = "does not name it" if not matches else f"names several it may be: {', '.join(matches)}"
            raise DataError(f"{self.annotations} {found}")
        return next(iter(matches.values()))

    def add(self, path: Path, size: Size, detections: Detections, frame: int | None = None) -> None:
        """Adds an image and its detections, boxes in pixels of the file.

        Raises:
            DataError: see :meth:`image_id`.
        """
        key = self.image_id(path)
        entry = {"id": key, "file_name": str(path), "height": size[0], "width": size[1]}
        self.images.append(entry if frame is None else {**entry, "frame": frame})
        found = zip(detections.boxes.tolist(), detections.labels.tolist(), detections.scores.tolist(), strict=True)
        for (x1, y1, x2, y2), label, score in found:
            box = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
            category = self._category_ids[label - 1] if label <= len(self._category_ids) else label
            self.results.append({"image_id": key, "category_id": category, "bbox": box, "score": score})

    def write(self, path: Path) -> list[Path]:
        """Writes the results and, without an annotation file, ``<stem>_images.json``; returns the files."""
        files = {path: self.results}
        if self.annotations is None:
            names = [{"id": label, "name": name} for label, name in enumerate(self.class_names, 1)]
            files[path.with_name(f"{path.stem}_images.json")] = {"images": self.images, "categories": names}
        for file, content in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(content) + "\n")
        return list(files)

    def _read_ids(self, path: Path) -> None:
        content = read_json(path)
        try:
            categories = {entry["name"]: entry["id"] for entry in content["categories"]}
            for entry in content["images"]:
                self._ids.setdefault(Path(entry["file_name"]).name, {})[entry["file_name"]] = entry["id"]
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: no COCO file, its images or categories lack {error}") from error
        missing = [name for name in self.class_names if name not in categories]
        if missing:
            raise DataError(f"{path}: has no category {', '.join(missing)}")
        self._category_ids = [categories[name] for name in self.class_names]
