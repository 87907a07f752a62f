"""PASCAL VOC folders: ``Annotations/*.xml``, ``JPEGImages``, ``ImageSets/Main/<split>.txt``.

Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010; the development kit's files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from fasterrcnn.data.annotated import AnnotatedDataset, AnnotatedImage, AnnotatedObject
from fasterrcnn.data.problems import DataError, ProblemLog, check_policy
from fasterrcnn.data.xml_text import read_xml
from fasterrcnn.types import Size

EVERYTHING = "all"
CLASSES = "classes.txt"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".tif", ".tiff", ".webp")


class VocDataset(AnnotatedDataset):
    """Images and objects of a VOC folder.

    VOC counts pixels from 1 and its boxes include their last pixel: xmin 1, xmax 1 is the first column alone. Ours are
    corners of the continuous rectangle from 0 on, so x1 = xmin − 1 and x2 = xmax, and likewise for y: the same pixels,
    and IoUs equal to those of VOC's own evaluation, which adds 1 to every width and height.

    Classes are the lines of ``classes.txt`` in the folder where there is one, else all names in ``Annotations``, sorted
    (for VOC itself the usual order), so that all splits number them alike.

    Args:
        root: the folder with ``Annotations``.
        split: name of a file in ``ImageSets/Main``; "all" for every annotation file.
        class_names: instead of the folder's own; objects of other classes are problems.
        problems, verify, on_image: see :class:`~fasterrcnn.data.annotated.AnnotatedDataset`.

    Raises:
        FileNotFoundError: no such folder or split.
        DataError: see :class:`~fasterrcnn.data.annotated.AnnotatedDataset`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        class_names: Sequence[str] | None = None,
        problems: str = "repair",
        verify: str = "head",
        on_image: Callable[[int], None] | None = None,
    ) -> None:
        check_policy(problems)
        root = Path(root)
        if not (root / "Annotations").is_dir():
            raise FileNotFoundError(f"{root}: no PASCAL VOC folder, it has no Annotations")
        log, suspects = ProblemLog(), set()
        path = root / "ImageSets" / "Main" / f"{split}.txt"
        ids = _ids(root, path, log)
        names = tuple(class_names) if class_names is not None else _class_names(root)
        label_of = {name: label for label, name in enumerate(names, 1)}
        images = []
        for name in ids:
            before = len(log)
            image = _read_annotation(root, name, label_of, log)
            if image is not None:
                images.append(image)
            if len(log) > before:
                suspects.add(name)
        super().__init__(
            *(str(path) if path.exists() else f"{root}, {split}", images, names, log),
            problems=problems,
            verify=verify,
            suspects=suspects,
            on_image=on_image,
        )


def voc_splits(root: str | Path) -> list[str]:
    """The splits of a folder; the lists VOC has for each class (``cat_train.txt``) are none."""
    stems = sorted(path.stem for path in (Path(root) / "ImageSets" / "Main").glob("*.txt"))
    return [stem for stem in stems if not any(stem.endswith(f"_{other}") for other in stems)]


def _ids(root: Path, path: Path, log: ProblemLog) -> list[str]:
    """The images of a split, the lines of a file, each once."""
    if path.stem == EVERYTHING and not path.exists():
        return sorted(file.stem for file in (root / "Annotations").glob("*.xml"))
    try:
        # A list for one class has a second column, 1, 0 or -1; ids themselves have no spaces.
        lines = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        known = ", ".join([*voc_splits(root), EVERYTHING])
        raise FileNotFoundError(f"{path}: no such split; known: {known}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no text ({error})") from error
    for number, name in enumerate(lines):
        if "\0" in name:
            raise DataError(f"{path}: no list of images, line {number + 1} has a zero byte")
    times = Counter(lines)
    for name, count in times.items():
        if count > 1:
            log.add("duplicate id", path, f"image {name!r} is listed {count} times", "took it once")
    for name in [name for name in times if Path(name).is_absolute() or ".." in Path(name).parts]:
        log.add("broken entry", path, f"image {name!r} would lie outside the folder", "left the image out")
        del times[name]
    return list(times)


def _class_names(root: Path) -> tuple[str, ...]:
    path = root / CLASSES
    if path.exists():
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: no text ({error})") from error
        if len(set(names)) < len(names) or not names:
            raise DataError(f"{path}: expected one name of a class on each line, every one once")
        return tuple(names)
    found: set[str] = set()
    for file in (root / "Annotations").glob("*.xml"):
        try:
            found.update(filter(None, (_text(item, "name") for item in read_xml(file).findall("object"))))
        except (DataError, OSError):
            continue  # reported where its image is read
    if not found:
        raise DataError(f"{root}: no annotation file names any object")
    return tuple(sorted(found))


def _read_annotation(root: Path, name: str, label_of: dict[str, int], log: ProblemLog) -> AnnotatedImage | None:
    path = root / "Annotations" / f"{name}.xml"
    try:
        element = read_xml(path)
    except DataError as error:
        log.add("broken XML", path, str(error).removeprefix(f"{path}: "), "left the image out")
        return None
    except OSError as error:
        log.add("missing annotation", path, error.strerror or str(error), "left the image out")
        return None
    if element.tag != "annotation":
        log.add("broken XML", path, f"its root is <{element.tag}>, not <annotation>", "left the image out")
        return None
    image = AnnotatedImage(name, _image_path(root, name, element), path, _size(element))
    for number, item in enumerate(element.findall("object"), 1):
        kind = _text(item, "name")
        where = f"object {number} ({kind})"
        if kind not in label_of:
            log.add("unknown class", path, f"{where}; known: {_few(label_of)}", "left the object out")
            continue
        try:
            box = _box(item)
        except ValueError as error:
            log.add("bad box", path, f"{where}: {error}", "left the object out")
            continue
        flags = {key: _text(item, key) not in ("", "0") for key in ("difficult", "truncated")}
        image.objects.append(AnnotatedObject(box, label_of[kind], where, **flags))
    return image


def _box(item: Element) -> tuple[float, float, float, float]:
    box = item.find("bndbox")
    if box is None:
        raise ValueError("no <bndbox>")
    values = []
    for key in ("xmin", "ymin", "xmax", "ymax"):
        text = _text(box, key)
        try:
            values.append(float(text))
        except ValueError:
            raise ValueError(f"<{key}> is {text!r}, no number") from None
    x1, y1, x2, y2 = values
    return x1 - 1, y1 - 1, x2, y2


def _size(element: Element) -> Size | None:
    """(height, width), or None where it is missing, or 0 as some tools write it."""
    size = element.find("size")
    try:
        height, width = (int(_text(size, key)) for key in ("height", "width")) if size is not None else (0, 0)
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None


def _image_path(root: Path, name: str, element: Element) -> Path:
    """``JPEGImages/<id>.jpg``; else what <filename> says, else another suffix."""
    folder = root / "JPEGImages"
    usual = folder / f"{name}.jpg"
    named = Path(_text(element, "filename").replace("\\", "/").replace("\0", "")).name
    others = [folder / named] if named else []
    others += [folder / f"{name}{suffix}" for suffix in _SUFFIXES]
    return next((path for path in (usual, *others) if os.path.isfile(path)), usual)


def _text(element: Element, key: str) -> str:
    return (element.findtext(key) or "").strip()


def _few(names: dict[str, int]) -> str:
    shown = list(names)[:20]
    return ", ".join(shown) + (" …" if len(names) > 20 else "")
