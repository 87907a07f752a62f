"""Picture files of any mode as RGB tensors, and errors that name the file."""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from fasterrcnn.types import Size

MAX_PIXELS = 500_000_000
"""Pictures that claim to be larger are refused before anything is decoded: a file of 1 KB can claim 10 GB."""

BACKGROUND = (255, 255, 255)
"""What transparent pixels are put on: white, as pages and viewers do; drawings are mostly dark lines on nothing."""

# Formats with a decoder of their own in Pillow. Others run programs (EPS) or are stubs.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "TGA", "ICO", "QOI")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING = tuple(_TURNS[value] for value in (5, 6, 7, 8))  # width and height


class ImageError(OSError):
    """A file that is no picture, a damaged one, or one too large; the message names it."""


def read_image(path: str | Path, *, annotated_size: Size | None = None, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
    """Read a picture file as float32 [3, H, W], RGB in 0…1; of several frames the first.

    Rotates as the EXIF orientation says, so that boxes agree with what a viewer shows. Modes are converted as
    :func:`to_tensor` does.

    Args:
        path: PNG, JPEG, BMP, GIF, TIFF, WebP, PPM, JPEG 2000, AVIF, TGA, ICO or QOI.
        annotated_size: (height, width) the boxes of this picture belong to. Where only the stored, not rotated pixels
            have it, they are not rotated.
        max_pixels: Larger pictures are refused.

    Raises:
        OSError: The file is missing, unreadable, no picture, damaged or too large; the message names it.
    """
    with opened(path, max_pixels) as image:
        image = upright(image, annotated_size)
        if annotated_size is not None and (image.height, image.width) != tuple(annotated_size):
            raise ImageError(
                f"{path}: {image.width} × {image.height} pixels, its boxes are for "
                f"{annotated_size[1]} × {annotated_size[0]}"
            )
        return to_tensor(image)


def read_reduced(path: str | Path, most_pixels: int, *, max_pixels: int = MAX_PIXELS) -> tuple[torch.Tensor, Size]:
    """Reads a picture, a gigantic one by a whole factor smaller, before it is turned into floats four times as large.

    Args:
        path: A picture.
        most_pixels: Of the result.
        max_pixels: Larger pictures are refused.

    Returns:
        The picture float32 [3, h, w] and the (height, width) it has in the file, upright.

    Raises:
        OSError: As :func:`read_image`.
    """
    with opened(path, max_pixels) as image:
        turn = _turn(image)
        size = (image.width, image.height) if turn in _SWAPPING else (image.height, image.width)
        wanted = _factor(image, most_pixels)
        if wanted > 1:
            image.draft("RGB", (image.width // wanted, image.height // wanted))  # JPEG: decodes less
        if turn is not None:
            image = image.transpose(turn)
        rest = _factor(image, most_pixels)
        if rest == 1:
            return to_tensor(image), size
        if _is_deep(image):
            gray = torch.from_numpy(_gray(image))[None]
            return F.avg_pool2d(gray, rest, ceil_mode=True).expand(3, -1, -1).contiguous(), size
        return to_tensor(_on_background(image).reduce(rest)), size


def image_size(path: str | Path, annotated_size: Size | None = None, *, decode: bool = False) -> Size:
    """(height, width) as :func:`read_image` would give it, from the head of the file.

    Args:
        path: A picture.
        annotated_size: See :func:`read_image`.
        decode: Also decode all pixels, which finds damaged and cut-off files.

    Raises:
        OSError: As :func:`read_image`.
    """
    with opened(path, decode=decode) as image:
        if decode or image.format == "TIFF":  # which Pillow turns itself, when it is decoded
            image.load()
        width, height = image.size
        turn = _turn(image) if decode or image.format != "PNG" or _png_may_turn(path) else None
        if turn in _SWAPPING and annotated_size != (height, width):
            return width, height
        return height, width


def upright(image: Image.Image, annotated_size: Size | None = None) -> Image.Image:
    """The picture rotated as its EXIF orientation says, unless only its stored pixels have the annotated size."""
    turn = _turn(image)
    if turn is None or (turn in _SWAPPING and annotated_size == (image.height, image.width)):
        return image
    return image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What the EXIF orientation asks for; None for nothing, and where the metadata are damaged."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # the pixels may be whole all the same
        return None


def _png_may_turn(path: str | Path) -> bool:
    """Whether a PNG has a chunk that may ask for an orientation: asked for it, Pillow decodes the whole file."""
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            start = file.read(min(length, 16)) if kind in (b"tEXt", b"zTXt", b"iTXt") else b""
            if kind == b"eXIf" or start.startswith((b"Raw profile", b"XML:com")):
                return True
            file.seek(length + 4 - len(start), 1)
    return False


def _factor(image: Image.Image, most_pixels: int) -> int:
    return max(1, math.ceil(math.sqrt(image.width * image.height / most_pixels)))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Pillow image of any mode to float32 [3, H, W], RGB in 0…1.

    Transparent pixels are put on white. 16-bit gray keeps its precision, 65535 is white. 32-bit whole numbers within
    0…65535 likewise; floats within 0…1 as they are, within 0…255 as 8-bit values; other 32-bit pictures are stretched
    from their least to their greatest finite value, and NaN is black.

    Raises:
        ValueError: A mode Pillow cannot convert.
    """
    if _is_deep(image):
        return torch.from_numpy(_gray(image)).expand(3, -1, -1).contiguous()
    pixels = np.array(_on_background(image))  # a copy: torch wants writable memory
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div_(255)


def _on_background(image: Image.Image) -> Image.Image:
    """8-bit RGB, transparent pixels on white."""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    """More than 8 bits in its one channel."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _gray(image: Image.Image) -> np.ndarray:
    """float32 [H, W] in 0…1 of a picture of one deep channel."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return (values.astype(np.float32) / 65535).astype(np.float32)
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    whole = 65535.0 if image.mode == "I" else 1.0 if high <= 1 else 255.0
    if low < 0 or high > whole:
        values, whole = values - low, (high - low) or 1.0
    values = np.nan_to_num(values / whole, nan=0.0, posinf=1.0, neginf=0.0)
    return values.clip(0, 1).astype(np.float32)


@contextmanager
def opened(path: str | Path, max_pixels: int = MAX_PIXELS, *, decode: bool = True) -> Iterator[Image.Image]:
    """A picture file, decoded; whatever goes wrong, here or in the body, is an OSError that names it.

    Pillow's decoders raise nearly everything on damaged data (SyntaxError, struct.error, KeyError, …), so everything
    is caught.
    """
    try:
        with open(path, "rb") as file:
            with _without_limit():
                image = Image.open(file, formats=_formats())
            with image:
                if image.width * image.height > max_pixels:
                    raise ImageError(
                        f"{path}: {image.width} × {image.height} pixels; more than {max_pixels:,} are refused"
                    )
                if min(image.size) < 1:
                    raise ImageError(f"{path}: a picture without pixels")
                if decode and not _is_gigantic_jpeg(image):
                    image.load()
                yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not a picture") from error
    except OSError as error:
        if error.filename is not None:
            raise  # missing, a folder, not allowed: it says so, with the name
        raise ImageError(f"{path}: damaged picture ({_short(error)})") from error
    except MemoryError as error:
        raise ImageError(f"{path}: not enough memory for it") from error
    except Exception as error:
        raise ImageError(f"{path}: damaged picture ({_short(error)})") from error


def _is_gigantic_jpeg(image: Image.Image) -> bool:
    """Those are decoded on use, so that ``draft`` can still ask for less."""
    return image.format == "JPEG" and image.width * image.height > 50_000_000


def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


_lock = threading.Lock()
_opening = 0
_pillows_limit: int | None = None


@contextmanager
def _without_limit() -> Iterator[None]:
    """Pillow's own limit is a variable of its module, lifted while a thread is inside; ours is checked right after."""
    global _opening, _pillows_limit
    with _lock:
        if _opening == 0:
            _pillows_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _opening += 1
    try:
        yield
    finally:
        with _lock:
            _opening -= 1
            if _opening == 0:
                Image.MAX_IMAGE_PIXELS = _pillows_limit


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
