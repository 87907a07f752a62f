"""Simple filled shapes on textured backgrounds: a data set a small detector learns in minutes.

Item i of a set with a given seed is always the same picture: every random choice of item i comes from one generator
seeded with (seed, i), so sets need no storage, can be read in any order and by any number of workers.
"""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from PIL import Image, ImageDraw

from fasterrcnn.types import Target

# Occlusion rule: of every shape at least this part of its own pixels is seen. Shapes lie whole inside the image.
MIN_VISIBLE = 0.7
MIN_SIDE, MAX_SIDE = 0.2, 0.55  # of a shape's box, as parts of the image's shorter side
MAX_SHAPES = 4
_SUPERSAMPLING = 4  # shapes are drawn this much larger, so that their edges are smooth


class Shapes:
    """Generated detection data set over the classes circle, square, triangle.

    One to four shapes per picture, of any colour that stands out from the background; the class is in the outline
    alone. Later shapes may hide parts of earlier ones. Triangles are turned by any angle, squares by at most 12°.

    Args:
        length: number of items.
        seed: different seeds give unrelated sets; training and held-out sets use different ones.
        size: (height, width) of the images in pixels.

    Raises:
        ValueError: a negative length or seed, or a size below 64 pixels.

    Example:
        >>> image, target = Shapes(length=10, seed=0)[3]
        >>> image.shape, target["boxes"].shape[1]
        (torch.Size([3, 128, 160]), 4)
    """

    class_names: tuple[str, ...] = ("circle", "square", "triangle")

    def __init__(self, length: int, seed: int = 0, size: tuple[int, int] = (128, 160)) -> None:
        if length < 0 or seed < 0:
            raise ValueError(f"length and seed: expected integers ≥ 0, got {length} and {seed}")
        if min(size) < 64:
            raise ValueError(f"size: expected (height, width) of at least 64 pixels each, got {size}")
        self.length, self.seed, self.size = length, seed, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        """Image float32 [3, H, W] in 0…1 and its target; boxes are the extents of the *visible* pixels of each shape.

        Raises:
            IndexError: index outside 0…length − 1.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} of a set of {self.length} pictures")
        rng = np.random.default_rng((self.seed, index))
        height, width = self.size
        canvas, ground = _background(rng, height, width)
        owner = np.zeros((height, width), np.int16)  # number of the shape seen at each pixel, 0 = background
        labels: list[int] = []
        pixels: list[int] = []  # of shape k at index k − 1, hidden ones included
        for _ in range(rng.integers(1, MAX_SHAPES + 1)):
            label = int(rng.integers(1, len(self.class_names) + 1))
            mask = _mask(rng, label, height, width)
            solid = mask > 0.5
            lost = np.bincount(owner[solid], minlength=len(labels) + 1)[1:]
            seen = np.bincount(owner.ravel(), minlength=len(labels) + 1)[1:]
            if np.any(seen - lost < MIN_VISIBLE * np.array(pixels)):
                continue  # it would hide too much of another; the first always fits
            canvas += (_paint(rng, ground, height, width) - canvas) * mask[..., None]
            labels.append(label)
            pixels.append(int(solid.sum()))
            owner[solid] = len(labels)
        canvas += rng.normal(0, 0.02, canvas.shape).astype(np.float32)
        # In NumPy: torch would start all its threads for these small copies, which costs more than it saves.
        image = np.ascontiguousarray(canvas.clip(0, 1).transpose(2, 0, 1), dtype=np.float32)
        boxes = np.stack([_extent(owner == number) for number in range(1, len(labels) + 1)])
        return torch.from_numpy(image), {"boxes": torch.from_numpy(boxes), "labels": torch.tensor(labels)}


def _background(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, float]:
    """A texture float32 [H, W, 3] in 0…1 around one brightness, and that brightness."""
    ground = float(rng.uniform(0.15, 0.85))
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    kind = rng.integers(3)
    if kind == 0:  # stripes
        angle, period = rng.uniform(0, np.pi), rng.uniform(6, 24)
        wave = np.sin((np.cos(angle) * columns + np.sin(angle) * rows) * np.float32(2 * np.pi / period))
    elif kind == 1:  # a checkerboard
        period = rng.integers(4, 14)
        wave = np.where((rows // period + columns // period) % 2 > 0, 1.0, -1.0)
    else:  # clouds
        coarse = rng.uniform(-1, 1, (int(rng.integers(4, 10)), int(rng.integers(4, 12)))).astype(np.float32)
        wave = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    tint = rng.uniform(0.85, 1.15, 3).astype(np.float32)
    texture = (ground + rng.uniform(0.02, 0.1) * wave[..., None]) * tint
    return texture.clip(0, 1).astype(np.float32), ground


def _paint(rng: np.random.Generator, ground: float, height: int, width: int) -> np.ndarray:
    """A colour with a slight gradient, float32 [H, W, 3], unlike the background in saturation and brightness."""
    value = rng.uniform(0.55, 1.0) if ground < 0.5 else rng.uniform(0.2, 0.9)
    colour = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.6, 1.0), value), np.float32)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    rows, columns = np.linspace(-0.5, 0.5, height), np.linspace(-0.5, 0.5, width)
    light = 1 + strength * (np.sin(angle) * rows[:, None] + np.cos(angle) * columns)
    return (colour * light[..., None]).astype(np.float32)


def _mask(rng: np.random.Generator, label: int, height: int, width: int) -> np.ndarray:
    """Coverage 0…1 of the pixels, float32 [H, W], by one shape somewhere in the image."""
    short = min(height, width)
    side = float(np.exp(rng.uniform(np.log(MIN_SIDE * short), np.log(MAX_SIDE * short))))
    x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
    if label == 1:
        outline = None
    elif label == 2:
        outline = _polygon(4, np.pi / 4 + rng.uniform(-1, 1) * np.radians(12))
    else:
        outline = _polygon(3, rng.uniform(0, 2 * np.pi))
    scale = _SUPERSAMPLING
    picture = Image.new("L", (width * scale, height * scale))
    canvas = ImageDraw.Draw(picture)
    if outline is None:
        canvas.ellipse([scale * value for value in (x, y, x + side, y + side)], fill=255)
    else:
        points = (outline * side + (x, y)) * scale
        canvas.polygon([tuple(point) for point in points.tolist()], fill=255)
    return np.asarray(picture.reduce(scale), np.float32) / 255


def _polygon(corners: int, angle: float) -> np.ndarray:
    """Corners [n, 2] of a regular polygon, scaled to fill the unit square in its longer direction."""
    turns = angle + 2 * np.pi * np.arange(corners) / corners
    points = np.stack((np.cos(turns), np.sin(turns)), axis=1)
    points -= points.min(axis=0)
    return points / points.max()


def _extent(mask: np.ndarray) -> np.ndarray:
    """The box float32 [4] of the true pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
