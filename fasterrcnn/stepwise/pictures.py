"""Pictures of the stages: boxes in plain colours on a dimmed image, and feature maps as gray squares."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from fasterrcnn.data.transforms import to_pil
from fasterrcnn.types import Size

BLUE, GREEN, RED, YELLOW = (60, 140, 255), (40, 220, 80), (255, 70, 60), (255, 210, 40)
Group = tuple[Tensor, tuple[int, int, int]]


def draw_boxes(image: Tensor, *groups: Group, size: Size | None = None, margin: int = 0, width: int = 2) -> Image.Image:
    """Boxes on a gray, dimmed copy of an image.

    Args:
        image: float[3, h, w], RGB 0–1.
        groups: Pairs of boxes float[n, 4], in pixels of the resized image, and a colour; later ones are on top.
        size: (height, width) to resize the image to first, as :func:`~fasterrcnn.stepwise.prepare_image` does.
        margin: Pixels of dark border for what lies outside the image.
        width: Of the lines, in pixels.

    Returns:
        An RGB picture.
    """
    if size is not None:
        image = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
    # Sixteen grays make small files, and leave a palette's other places to the lines.
    dimmed = (image.mean(dim=0, keepdim=True).expand(3, -1, -1) * 15).round() / 15 * 0.6 + 0.15
    picture = to_pil(F.pad(dimmed, (margin,) * 4, value=0.08))
    canvas = ImageDraw.Draw(picture)
    for boxes, colour in groups:
        for x1, y1, x2, y2 in (boxes.detach() + margin).round().int().tolist():
            # Box corners lie between pixels; Pillow wants the last pixel itself.
            canvas.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=width)
    return picture


def tile_maps(maps: Tensor, *, columns: int, side: int = 42, white: float | None = None) -> Image.Image:
    """Maps float[n, h, w] as gray squares of ``side`` pixels in rows of ``columns``.

    Black is 0; white is ``white``, or without it the greatest value of each map.
    """
    maps = maps.detach()
    greatest = maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12) if white is None else white
    maps = (maps / greatest).clamp(0, 1)
    cells = F.interpolate(maps[:, None], (side, side), mode="nearest")[:, 0]
    rows = math.ceil(len(cells) / columns)
    cells = torch.cat([cells, cells.new_zeros(rows * columns - len(cells), side, side)])
    cells = F.pad(cells, (1, 1, 1, 1), value=0.25)
    sheet = cells.unflatten(0, (rows, columns)).permute(0, 2, 1, 3).reshape(rows * (side + 2), columns * (side + 2))
    return to_pil(sheet.expand(3, -1, -1))


def beside(*pictures: Image.Image, gap: int = 8) -> Image.Image:
    """Pictures of any sizes side by side on white."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    x = 0
    for picture in pictures:
        sheet.paste(picture, (x, 0))
        x += picture.width + gap
    return sheet


def pick(boxes: Tensor, count: int) -> Tensor:
    """At most ``count`` of the boxes [n, 4], evenly spread over their order, so that a picture shows something."""
    if len(boxes) <= count:
        return boxes
    return boxes[torch.linspace(0, len(boxes) - 1, count).long()]


def save(picture: Image.Image, path: str | Path, *, colours: int = 48) -> None:
    """Writes a small PNG: a palette of ``colours``, no dithering."""
    picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
