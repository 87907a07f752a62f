"""COCO's JSON files: images, annotations with boxes, categories whose ids need not be 1, 2, 3.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; the format is that of its web site, "data format".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fasterrcnn.data.annotated import AnnotatedDataset, AnnotatedImage, AnnotatedObject
from fasterrcnn.data.problems import DataError, ProblemLog, check_policy


class CocoDataset(AnnotatedDataset):
    """Images and objects of a COCO JSON file.

    Boxes are [x, y, width, height] from 0 on with real numbers: x2 = x + width, y2 = y + height, nothing else changes.
    Labels 1…C number the categories by ascending id; ``category_ids[label - 1]`` is the way back.

    Args:
        path: the JSON file.
        images: folder the file names in it start from.
        class_names: instead of the file's categories; objects of other classes are problems.
        problems, verify, on_image: see :class:`~fasterrcnn.data.annotated.AnnotatedDataset`.

    Attributes:
        category_ids: id of label ``i + 1`` at index ``i``; None for a class the file has not.

    Raises:
        OSError: the file cannot be read.
        DataError: it is no COCO file, or see :class:`~fasterrcnn.data.annotated.AnnotatedDataset`.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path,
        *,
        class_names: Sequence[str] | None = None,
        problems: str = "repair",
        verify: str = "head",
        on_image: Callable[[int], None] | None = None,
    ) -> None:
        check_policy(problems)
        path, folder = Path(path), Path(images)
        content = read_json(path)
        for key in ("images", "annotations", "categories"):
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                raise DataError(f"{path}: no COCO annotations, it has no list {key!r}")
        log, suspects = ProblemLog(), set()
        categories = _categories(content["categories"], path, log)
        names = tuple(class_names) if class_names is not None else tuple(categories.values())
        id_of = {name: key for key, name in categories.items()}
        self.category_ids = tuple(id_of.get(name) for name in names)
        records = _images(content["images"], path, folder, log, suspects)
        label_of = {name: label for label, name in enumerate(names, 1)}
        labels = {key: label_of.get(name) for key, name in categories.items()}
        _annotations(content["annotations"], path, records, labels, log, suspects)
        super().__init__(
            *(str(path), list(records.values()), names, log),
            problems=problems,
            verify=verify,
            suspects=suspects,
            on_image=on_image,
        )


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: The file cannot be read.
        DataError: It is no JSON, or nested deeper than Python's own limit; the message names it.
    """
    data = Path(path).read_bytes()
    try:
        return json.loads(data)
    except RecursionError as error:
        raise DataError(f"{path}: no JSON (nested too deep)") from error
    except ValueError as error:  # syntax, encoding, numbers of thousands of digits
        raise DataError(f"{path}: no JSON ({error})") from error


def _categories(entries: list[Any], path: Path, log: ProblemLog) -> dict[int, str]:
    """Names by id, ascending."""
    found: dict[int, str] = {}
    for number, entry in enumerate(entries):
        where = f"categories[{number}]"
        key, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if type(key) is not int or not isinstance(name, str):
            log.add("broken entry", path, f"{where} needs a whole number 'id' and a 'name'", "left the category out")
        elif key in found or name in found.values():
            log.add("duplicate id", path, f"{where}: id {key}, name {name!r} again", "left the category out")
        else:
            found[key] = name
    if not found:
        raise DataError(f"{path}: it has no categories")
    return dict(sorted(found.items()))


def _images(
    entries: list[Any], path: Path, folder: Path, log: ProblemLog, suspects: set[int | str]
) -> dict[int | str, AnnotatedImage]:
    records: dict[int | str, AnnotatedImage] = {}
    for number, entry in enumerate(entries):
        where = f"images[{number}]"
        key, name = (entry.get("id"), entry.get("file_name")) if isinstance(entry, dict) else (None, None)
        if type(key) not in (int, str) or not isinstance(name, str) or not name or "\0" in name:
            log.add("broken entry", path, f"{where} needs an 'id' and a 'file_name'", "left the image out")
        elif key in records:
            log.add("duplicate id", path, f"{where}: image {key!r} again ({name})", "took the first one")
            suspects.add(key)
        else:
            height, width = entry.get("height"), entry.get("width")
            given = all(type(side) is int and side > 0 for side in (height, width))
            records[key] = AnnotatedImage(key, folder / name, path, (height, width) if given else None)
    return records


def _annotations(
    entries: list[Any],
    path: Path,
    records: dict[int | str, AnnotatedImage],
    labels: dict[int, int | None],
    log: ProblemLog,
    suspects: set[int | str],
) -> None:
    """Gives every image its objects."""
    seen: Counter[int | str] = Counter()
    left_out = "left the object out"
    for number, entry in enumerate(entries):
        where = f"annotations[{number}]"
        if not isinstance(entry, dict):
            log.add("broken entry", path, f"{where} is no object", left_out)
            continue
        image, key, category = entry.get("image_id"), entry.get("id"), entry.get("category_id")
        record = records.get(image) if type(image) in (int, str) else None
        if record is None:
            log.add("unknown image", path, f"{where}: image_id {_shown(image)}", left_out)
            continue
        before = len(log)
        where = f"annotation {_shown(key)}"
        if type(key) in (int, str):
            seen[key] += 1
        label = labels.get(category) if type(category) is int else None
        box, crowd, area = entry.get("bbox"), entry.get("iscrowd", 0), entry.get("area")
        if type(key) in (int, str) and seen[key] > 1:
            log.add("duplicate id", path, f"annotations[{number}]: annotation {key!r} again", left_out)
        elif label is None:
            log.add("unknown class", path, f"{where} of image {image!r}: category_id {_shown(category)}", left_out)
        elif not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) for v in box):
            log.add("bad box", path, f"{where} of image {image!r}: bbox {_shown(box)}", left_out)
        else:
            x, y, width, height = (_float(value) for value in box)
            number_given = type(area) in (int, float) and 0 <= area < 1e18
            record.objects.append(
                AnnotatedObject(
                    *((x, y, x + width, y + height), label, where),
                    crowd=crowd in (1, True),
                    area=float(area) if number_given else None,
                )
            )
        if len(log) > before:
            suspects.add(image)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON has whole numbers of any length
        return float("inf")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
