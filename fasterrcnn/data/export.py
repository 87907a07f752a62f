"""Data sets written as files other programs read: PASCAL VOC folders and COCO JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from fasterrcnn.data.dataset import DetectionDataset
from fasterrcnn.data.transforms import to_pil
from fasterrcnn.data.voc import CLASSES

FORMATS = ("voc", "coco")


def write_voc(
    dataset: DetectionDataset,
    root: str | Path,
    split: str = "train",
    *,
    suffix: str = ".jpg",
    on_image: Callable[[int], None] | None = None,
) -> None:
    """Writes a PASCAL VOC folder: ``Annotations``, ``JPEGImages``, ``ImageSets/Main/<split>.txt``, ``classes.txt``.

    Images are called ``<split>_000000`` and so on; other splits already in the folder stay.

    Args:
        dataset: what to write.
        root: the folder; made when missing.
        split: name of the list.
        suffix: ".jpg" (quality 95), or ".png" for exactly the same pixels.
        on_image: called with the number of images written.
    """
    root = Path(root)
    lists = root / "ImageSets" / "Main"
    for folder in (root / "Annotations", root / "JPEGImages", lists):
        folder.mkdir(parents=True, exist_ok=True)
    names = []
    for index in range(len(dataset)):
        image, target = dataset[index]
        names.append(f"{split}_{index:06d}")
        picture = to_pil(image)
        picture.save(root / "JPEGImages" / f"{names[-1]}{suffix}", quality=95)
        tree = Element("annotation")
        _put(tree, folder=root.name, filename=f"{names[-1]}{suffix}")
        _put(SubElement(tree, "size"), width=picture.width, height=picture.height, depth=3)
        flags = {key: target.get(key) for key in ("truncated", "difficult")}
        for number, (box, label) in enumerate(zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True)):
            item = SubElement(tree, "object")
            given = {key: 0 if flag is None else int(flag[number]) for key, flag in flags.items()}
            _put(item, name=dataset.class_names[label - 1], pose="Unspecified", **given)
            x1, y1, x2, y2 = box  # the way back of what fasterrcnn.data.voc explains
            edges = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
            _put(SubElement(item, "bndbox"), **{key: f"{value:.7g}" for key, value in edges.items()})
        indent(tree)
        ElementTree(tree).write(root / "Annotations" / f"{names[-1]}.xml", encoding="utf-8")
        if on_image is not None:
            on_image(index + 1)
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    (root / CLASSES).write_text("".join(f"{name}\n" for name in dataset.class_names), encoding="utf-8")


def write_coco(
    dataset: DetectionDataset,
    root: str | Path,
    split: str = "train",
    *,
    suffix: str = ".jpg",
    on_image: Callable[[int], None] | None = None,
) -> None:
    """Writes ``annotations/instances_<split>.json`` and the images into the folder ``<split>``, as COCO has them.

    Args:
        dataset, root, split, suffix, on_image: see :func:`write_voc`.
    """
    root = Path(root)
    for folder in (root / "annotations", root / split):
        folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(len(dataset)):
        image, target = dataset[index]
        name = f"{index:06d}{suffix}"
        to_pil(image).save(root / split / name, quality=95)
        images.append({"id": index + 1, "file_name": name, "height": image.shape[-2], "width": image.shape[-1]})
        areas, crowds = target.get("area"), target.get("crowd")
        for number, (box, label) in enumerate(zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True)):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1) if areas is None else float(areas[number]),
                    "iscrowd": 0 if crowds is None else int(crowds[number]),
                }
            )
        if on_image is not None:
            on_image(index + 1)
    content = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(dataset.class_names, 1)],
    }
    path = root / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(content), encoding="utf-8")


def _put(parent: Element, **texts: object) -> None:
    for tag, text in texts.items():
        SubElement(parent, tag).text = str(text)
