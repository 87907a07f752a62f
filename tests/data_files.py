"""Small PASCAL VOC and COCO sets on disk, right ones and wrong ones."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(path: Path, width: int = 60, height: int = 40) -> Path:
    """Noise of a fixed seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def voc_object(name: str = "cat", box: tuple = (1, 1, 20, 10), **flags: int) -> str:
    edges = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    extra = "".join(f"<{key}>{value}</{key}>" for key, value in flags.items())
    return f"<object><name>{name}</name>{extra}<bndbox>{edges}</bndbox></object>"


def voc_xml(*objects: str, width: int = 60, height: int = 40) -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>x.jpg</filename>{size}{''.join(objects)}</annotation>"


def voc_folder(root: Path, annotations: dict[str, str], split: str = "train") -> Path:
    """A folder with these annotation files, an image for each, and a list of them."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in annotations.items():
        (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
        picture(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in annotations))
    return root


def coco_content(count: int = 2) -> dict[str, Any]:
    """Images 10, 20 … with one cat (category 3) and one dog (category 17) each."""
    images = [{"id": 10 * k, "file_name": f"{k}.png", "width": 60, "height": 40} for k in range(1, count + 1)]
    annotations = []
    for image in images:
        for category, box in ((17, [30.5, 4, 10, 20]), (3, [0, 0, 20, 10])):
            key = len(annotations) + 100
            annotations.append({"id": key, "image_id": image["id"], "category_id": category, "bbox": box, "iscrowd": 0})
    categories = [{"id": 17, "name": "dog"}, {"id": 3, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_file(root: Path, content: dict[str, Any]) -> Path:
    """The JSON file and its images."""
    for image in content["images"]:
        if isinstance(image, dict) and isinstance(image.get("file_name"), str):
            picture(root / "images" / image["file_name"])
    (root / "all.json").write_text(json.dumps(content), encoding="utf-8")
    return root / "all.json"


def png_head(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that claims any size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 50)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunks
