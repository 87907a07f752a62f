"""Detections drawn onto the picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from fasterrcnn.data.transforms import to_pil
from fasterrcnn.types import Detections, Target

_SMALLEST_SIDE = 480  # pixels; smaller pictures are enlarged so that labels stay legible


def draw(
    image: torch.Tensor | Image.Image,
    detections: Detections | Target,
    class_names: Sequence[str],
    *,
    enlarge: bool = True,
) -> Image.Image:
    """Draw boxes with class names and scores.

    Args:
        image: float [3, H, W], RGB in 0…1, or a Pillow image; it is not changed.
        detections: an object with ``boxes`` [D, 4] (x1, y1, x2, y2 in pixels of the image), ``labels`` [D] (1…C) and
            ``scores`` [D], such as :class:`fasterrcnn.types.Detections`; or a mapping with those keys, where
            ``scores`` may be missing (ground truth).
        class_names: name of label ``i + 1`` at index ``i``; labels beyond it are drawn as numbers.
        enlarge: double small pictures until the shorter side reaches 480 pixels, for legible labels.

    Returns:
        RGB Pillow image, of the size of the input or a whole multiple of it. Higher scores are drawn last, on top.
    """
    picture = image.convert("RGB") if isinstance(image, Image.Image) else to_pil(image)
    factor = 1
    while enlarge and min(picture.size) * factor < _SMALLEST_SIDE and factor < 4:
        factor *= 2
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
    boxes, labels, scores = _fields(detections)
    order = range(len(boxes)) if scores is None else sorted(range(len(boxes)), key=lambda i: scores[i])

    canvas = ImageDraw.Draw(picture)
    line = max(2, round(min(picture.size) / 220))
    font = ImageFont.load_default(size=max(12, round(min(picture.size) / 36)))
    for index in order:
        label = labels[index]
        x1, y1, x2, y2 = (round(value * factor) for value in boxes[index])
        # corners are edges between pixels; Pillow wants the last pixel itself
        x2, y2 = max(x2 - 1, x1), max(y2 - 1, y1)
        colour = class_colour(label)
        canvas.rectangle((x1, y1, x2, y2), outline=colour, width=line)
        text = class_names[label - 1] if 1 <= label <= len(class_names) else str(label)
        if scores is not None:
            text += f" {scores[index]:.2f}"
        _write_label(canvas, text, (x1, y1), colour, font, picture.size)
    return picture


def class_colour(label: int) -> tuple[int, int, int]:
    """Bright colour of a label; hues of neighbours are far apart (golden-angle steps), any number of classes works."""
    red, green, blue = colorsys.hsv_to_rgb((0.33 + 0.618034 * (label - 1)) % 1, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _write_label(
    canvas: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[int, int],
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """Write text on a plate of the box's colour: above the box where there is room, never off the picture."""
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    width, height = int(right - left) + 6, int(bottom - top) + 4
    x = min(max(corner[0], 0), max(size[0] - width, 0))
    y = corner[1] - height if corner[1] >= height else max(corner[1], 0)
    y = min(y, max(size[1] - height, 0))
    canvas.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    canvas.text((x + 3 - left, y + 2 - top), text, fill=(0, 0, 0) if luminance > 110 else (255, 255, 255), font=font)


def _fields(detections: Detections | Target) -> tuple[list[list[float]], list[int], list[float] | None]:
    if isinstance(detections, dict):
        boxes, labels, scores = detections["boxes"], detections["labels"], detections.get("scores")
    else:
        boxes, labels, scores = detections.boxes, detections.labels, detections.scores
    return boxes.tolist(), labels.tolist(), None if scores is None else scores.tolist()
