"""The photographs shipped in ``fasterrcnn/assets`` and the objects cut from them.

``assets/photos`` holds photographs, ``assets/masks`` one 8-bit PNG per photograph whose pixel value is the number of
the object (0: none), ``assets/backgrounds`` pictures without objects. ``assets/photos/LICENSES.md`` names every
source. Files called ``*_unseen*`` are never opened here: they are the test pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

ASSETS = Path(__file__).resolve().parent.parent / "assets"
CLASS_NAMES = ("coin", "cat", "cup", "rocket", "astronaut")

# photograph -> class of each numbered object in its mask
_PHOTOS: dict[str, tuple[str, ...]] = {
    "coins_upper.png": ("coin",) * 12,
    "cat.jpg": ("cat",),
    "coffee.jpg": ("cup",),
    "rocket.jpg": ("rocket",),
    "astronaut.jpg": ("astronaut", "rocket"),
}
_BACKGROUNDS = ("brick", "gravel", "grass", "clock", "cell", "hubble", "retina")


@dataclass(frozen=True)
class CutOut:
    """One object cut from a photograph.

    Attributes:
        label: 1…C, position in ``CLASS_NAMES`` plus one.
        image: RGBA picture, cropped to the object with a margin of two pixels; alpha is soft at the edge.
        size: longer side in pixels of the photograph; tells how large coins are relative to each other.
    """

    label: int
    image: Image.Image
    size: int


@cache
def load_cutouts() -> tuple[CutOut, ...]:
    """All cut-outs, in a fixed order."""
    cutouts = []
    for file, classes in _PHOTOS.items():
        photo, numbers = _photo_and_mask(file)
        for number, name in enumerate(classes, start=1):
            mask = numbers == number
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            x1, y1, x2, y2 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            alpha = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(0.7))
            cut = Image.fromarray(photo)
            cut.putalpha(alpha)
            # beyond the photograph's border crop() pads with transparent black
            cut = cut.crop((int(x1) - 2, int(y1) - 2, int(x2) + 2, int(y2) + 2))
            cutouts.append(CutOut(CLASS_NAMES.index(name) + 1, cut, int(max(x2 - x1, y2 - y1))))
    return tuple(cutouts)


@cache
def load_backgrounds() -> tuple[np.ndarray, ...]:
    """Pictures without any object, uint8 [H, W, 3] each, in a fixed order."""
    return tuple(np.asarray(Image.open(ASSETS / "backgrounds" / f"{name}.jpg").convert("RGB")) for name in _BACKGROUNDS)


@dataclass(frozen=True)
class Photo:
    """A photograph objects are cut from.

    Attributes:
        pixels: uint8 [H, W, 3].
        numbers: uint8 [H, W], number of the object at each pixel, 0 = none.
        labels: label 1…C of object k at index k − 1.
    """

    pixels: np.ndarray
    numbers: np.ndarray
    labels: tuple[int, ...]


@cache
def load_photos() -> tuple[Photo, ...]:
    """The photographs objects are cut from, in a fixed order."""
    return tuple(
        Photo(*_photo_and_mask(file), tuple(CLASS_NAMES.index(name) + 1 for name in classes))
        for file, classes in _PHOTOS.items()
    )


@cache
def load_coin_plate() -> np.ndarray:
    """The surface under the coins of the upper half, uint8 [150, 384, 3], the coins filled in from around them."""
    return np.asarray(Image.open(ASSETS / "backgrounds" / "coin_plate.png").convert("RGB"))


def _photo_and_mask(file: str) -> tuple[np.ndarray, np.ndarray]:
    photo = np.asarray(Image.open(ASSETS / "photos" / file).convert("RGB"))
    numbers = np.asarray(Image.open(ASSETS / "masks" / f"{Path(file).stem}.png"))
    return photo, numbers
