"""A data set made on the spot: coloured rectangles on grey noise, one class per colour."""

from __future__ import annotations

import torch
from torch import Tensor

COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]])


class Rectangles:
    """``count`` images of ``size`` × ``size`` pixels with one to three rectangles that do not overlap.

    Args:
        count: Number of images.
        size: Side in pixels; rectangles have a quarter to a half of it.
        noisy: Also add noise from torch's global generator, as augmentation does, so that a run depends on its state.
    """

    class_names = ("red", "green", "blue")

    def __init__(self, count: int, size: int = 96, *, noisy: bool = False) -> None:
        self.count, self.size, self.noisy = count, size, noisy

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(index)
        image = 0.5 + 0.1 * torch.randn(3, self.size, self.size, generator=generator)
        boxes, labels = [], []
        half = self.size // 2
        # One rectangle at most per quarter of the image, so that none overlap.
        for quarter in torch.randperm(4, generator=generator)[: 1 + index % 3].tolist():
            width, height = torch.randint(self.size // 4, half, (2,), generator=generator).tolist()
            x1, y1 = quarter % 2 * half, quarter // 2 * half
            label = int(torch.randint(3, (), generator=generator))
            image[:, y1 : y1 + height, x1 : x1 + width] = COLOURS[label][:, None, None]
            boxes.append([x1, y1, x1 + width, y1 + height])
            labels.append(label + 1)
        if self.noisy:
            image = image + 0.02 * torch.randn_like(image)
        return image.clamp(0, 1), {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)}
