"""The few image operations every data set needs: files to tensors, tensors to pictures, mirroring with boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from fasterrcnn.types import Target


def read_image(path: str | Path) -> torch.Tensor:
    """Read a picture file as float32 [3, H, W], RGB in 0…1.

    Rotates as the EXIF orientation says, so that boxes agree with what a viewer shows; transparent pixels are put on
    black, 16-bit gray is scaled to 8 bits.

    Raises:
        OSError: the file is missing, unreadable or no picture (``PIL.UnidentifiedImageError`` is an OSError).
    """
    with Image.open(path) as image:
        try:
            image.load()
        except (
            SyntaxError,
            ValueError,
            EOFError,
            Image.DecompressionBombError,
        ) as error:  # what Pillow raises for damaged data
            raise OSError(f"{path}: damaged picture ({error})") from error
        return to_tensor(ImageOps.exif_transpose(image))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Pillow image of any mode to float32 [3, H, W], RGB in 0…1."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    pixels = np.array(image.convert("RGB"))  # a copy: torch wants writable memory
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div_(255)


def to_pil(image: torch.Tensor) -> Image.Image:
    """Image tensor [3, H, W], RGB in 0…1 (values outside are clipped), to an 8-bit Pillow image.

    Raises:
        ValueError: the tensor is not [3, H, W].
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image: expected a tensor [3, H, W], got {list(image.shape)}")
    pixels = image.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().contiguous().numpy())


def horizontal_flip(image: torch.Tensor, target: Target) -> tuple[torch.Tensor, Target]:
    """Mirror an image [3, H, W] and its boxes left to right; neither input is changed."""
    width = image.shape[-1]
    x1, y1, x2, y2 = target["boxes"].unbind(-1)
    return image.flip(-1), {**target, "boxes": torch.stack((width - x2, y1, width - x1, y2), dim=-1)}
