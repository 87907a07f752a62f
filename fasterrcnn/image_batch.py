"""From images of any size to one padded batch, and boxes back to the original images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fasterrcnn.types import ImageBatch, Size, Target
from fasterrcnn_ops import clip_boxes_to_image

# The smallest padded side. Trunks of stride 16 with a rounding-down pool need it to end up with at least one location.
SMALLEST_SIDE = 32


def resized_size(size: Size, min_size: int | None, max_size: int | None) -> tuple[Size, float]:
    """Size after resizing the short side to ``min_size`` without the long side passing ``max_size``.

    Args:
        size: (height, width) in pixels, each ≥ 1.
        min_size: Wanted length of the short side in pixels; None keeps the image as it is.
        max_size: Bound of the long side in pixels; None for no bound. It wins over ``min_size``.

    Returns:
        The new (height, width), each ≥ 1, and the resize factor before rounding to whole pixels.
    """
    height, width = size
    scale = 1.0 if min_size is None else min_size / min(height, width)
    if max_size is not None:
        scale = min(scale, max_size / max(height, width))
    return (max(1, round(height * scale)), max(1, round(width * scale))), scale


@dataclass
class ImageBatcher:
    """Resizes, normalises and pads images; the input rules of a system in one place.

    Attributes:
        min_size: Length of the short side after resizing, in pixels; None keeps images as they are.
        max_size: Bound of the long side after resizing, in pixels; None for no bound.
        mean: Subtracted per channel, in the order and range below.
        std: Divided by per channel.
        fixed_size: Instead of the first two: every image becomes this (height, width), its shape distorted.
        channels: Order of the channels the trunk was trained on, "rgb" or "bgr".
        value_range: Largest value the trunk was trained on, 1 or 255; images come in 0–1.
    """

    min_size: int | None = 600
    max_size: int | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    fixed_size: Size | None = None
    channels: str = "rgb"
    value_range: float = 1.0

    def __post_init__(self) -> None:
        for name in ("min_size", "max_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 pixel or None, got {value}")
        if self.fixed_size is not None and (len(self.fixed_size) != 2 or min(self.fixed_size) < 1):
            raise ValueError(f"fixed_size must be (height, width) of at least 1 pixel or None, got {self.fixed_size}")
        if self.channels not in ("rgb", "bgr"):
            raise ValueError(f"channels must be 'rgb' or 'bgr', got {self.channels!r}")
        if not self.value_range > 0 or not min(self.std) > 0:
            raise ValueError(f"value_range and std must be positive, got {self.value_range} and {self.std}")

    def __call__(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None, device: torch.device | None = None
    ) -> ImageBatch:
        """Builds a batch.

        Args:
            images: Tensors float[3, h, w], RGB 0–1, of any sizes and floating dtypes; at least one.
            targets: Ground truth of each image, boxes in pixels of that image.
            device: Where the batch is wanted; by default where the first image is.

        Returns:
            The batch, float32, normalised; padding is 0 after normalisation, at the right and the bottom.

        Raises:
            TypeError: An image is no float tensor.
            ValueError: No image, an image is not 3 × h × w, or there are not as many targets as images.
        """
        batch = self.collate(images, targets, device)
        batch.images = self.normalize(batch.images, batch.image_sizes())
        return batch

    def collate(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None, device: torch.device | None = None
    ) -> ImageBatch:
        """The batch with images still RGB 0–1, resized and padded; arguments, dtype and errors as calling has them."""
        if len(images) == 0:
            raise ValueError("expected at least one image, got an empty list")
        if targets is not None and len(targets) != len(images):
            raise ValueError(f"expected one target per image, got {len(targets)} targets for {len(images)} images")
        device = images[0].device if device is None else device
        resized, scales = [], []
        for index, image in enumerate(images):
            _check_image(image, index)
            tensor, scale = self._resize(image.to(device, torch.float32))
            resized.append(tensor)
            scales.append(scale)
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in resized]
        original_sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        return ImageBatch(
            images=_pad(resized),
            sizes=sizes,
            original_sizes=original_sizes,
            scales=scales,
            targets=[
                {"boxes": scale_boxes(t["boxes"].to(device), before, after), "labels": t["labels"].to(device)}
                for t, before, after in zip(targets or [], original_sizes, sizes, strict=bool(targets))
            ],
        )

    def normalize(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Images as the trunk was trained on them. Reads nothing back to the host, and copies nothing from it.

        Args:
            images: float[B, 3, H, W], RGB 0–1, padded at the right and the bottom with anything.
            image_sizes: [B, 2] (height, width) of the part of each image that is not padding, on the same device.

        Returns:
            float32[B, 3, H, W]; the padding is 0.
        """
        images = images.float()
        order = (2, 1, 0) if self.channels == "bgr" else (0, 1, 2)
        if (self.value_range, *self.mean, *self.std) != (1, 0, 0, 0, 1, 1, 1):
            # Channel by channel, numbers instead of tensors of three: those would be copies to the device.
            images = torch.stack([self._normalize(images[:, c], i) for i, c in enumerate(order)], dim=1)
        elif self.channels == "bgr":
            images = images.flip(1)
        rows = torch.arange(images.shape[2], device=images.device) < image_sizes[:, :1]  # [B, H]
        columns = torch.arange(images.shape[3], device=images.device) < image_sizes[:, 1:2]  # [B, W]
        return torch.where(rows[:, None, :, None] & columns[:, None, None, :], images, 0.0)

    def _normalize(self, plane: Tensor, index: int) -> Tensor:
        """A channel, the ``index``-th in the order of the trunk."""
        if self.value_range != 1:
            plane = plane * self.value_range
        if self.mean[index] != 0:
            plane = plane - self.mean[index]
        return plane if self.std[index] == 1 else plane / self.std[index]

    def _resize(self, image: Tensor) -> tuple[Tensor, float]:
        size, scale = resized_size((image.shape[1], image.shape[2]), self.min_size, self.max_size)
        if self.fixed_size is not None:
            size = self.fixed_size
            scale = (size[0] * size[1] / (image.shape[1] * image.shape[2])) ** 0.5
        if size != tuple(image.shape[1:]):
            # Antialiasing matters: photographs are mostly shrunk, several times over.
            image = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
        return image, scale


def scale_boxes(boxes: Tensor, before: Size, after: Size) -> Tensor:
    """Boxes [L, 4] of an image of size ``before`` as boxes of the same image resized to ``after``, float32."""
    factor_y, factor_x = after[0] / before[0], after[1] / before[1]
    return scale_columns(boxes.float(), factor_x, factor_y)


def scale_columns(boxes: Tensor, factor_x: float, factor_y: float) -> Tensor:
    """Boxes [L, 4] times a factor per direction; without a tensor of factors, which would be a copy from the host."""
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    return torch.stack([x1 * factor_x, y1 * factor_y, x2 * factor_x, y2 * factor_y], dim=1)


def boxes_to_original(boxes: Tensor, batch: ImageBatch, index: int) -> Tensor:
    """Boxes [L, 4] in pixels of the batch as boxes in pixels of the original image ``index``, inside it."""
    original = batch.original_sizes[index]
    return clip_boxes_to_image(scale_boxes(boxes, batch.sizes[index], original), original)


def _pad(images: list[Tensor]) -> Tensor:
    height = max(SMALLEST_SIDE, *(image.shape[1] for image in images))
    width = max(SMALLEST_SIDE, *(image.shape[2] for image in images))
    return torch.stack([F.pad(i, (0, width - i.shape[2], 0, height - i.shape[1])) for i in images])


def _check_image(image: Tensor, index: int) -> None:
    if not isinstance(image, Tensor) or not image.is_floating_point():
        found = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"image {index} must be a float tensor with values 0–1, got {found}")
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] < 1 or image.shape[2] < 1:
        raise ValueError(f"image {index} must have shape [3, height, width], got {list(image.shape)}")
