"""Tensors to pictures, and mirroring with boxes; files to tensors are in :mod:`fasterrcnn.data.images`."""

from __future__ import annotations

import torch
from PIL import Image

from fasterrcnn.types import Target


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
