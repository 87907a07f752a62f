"""Named realistic inputs that several benchmarks share; an operator's own cases stand in its benchmark.

Letters: N boxes, C classes. Boxes are xyxy in pixels of an 800 x 1333 image, everything float32 and seeded.
"""

from __future__ import annotations

import torch
from torch import Tensor

IMAGE_HEIGHT, IMAGE_WIDTH = 800, 1333


def rpn_like(n: int, *, objects: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Proposals as an RPN makes them: half crowd around objects and score higher the better they fit, half is clutter.

    Returns:
        boxes [N, 4] inside the image and scores [N], in no particular order.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.tensor([IMAGE_WIDTH, IMAGE_HEIGHT])
    object_centre = torch.rand(objects, 2, generator=generator) * image
    object_size = 24 * 2 ** (torch.rand(objects, 2, generator=generator) * 4)  # 24 … 384 pixels
    crowd = n // 2
    of_object = torch.randint(objects, (crowd,), generator=generator)
    shift = torch.randn(crowd, 2, generator=generator) * 0.25
    stretch = torch.randn(crowd, 2, generator=generator) * 0.25
    centre = torch.cat(
        [
            object_centre[of_object] + shift * object_size[of_object],
            torch.rand(n - crowd, 2, generator=generator) * image,
        ]
    )
    clutter_size = 16 * 2 ** (torch.rand(n - crowd, 2, generator=generator) * 5)
    size = torch.cat([object_size[of_object] * stretch.exp(), clutter_size])
    misfit = torch.cat([shift.norm(dim=1) + stretch.norm(dim=1), 1.5 + torch.rand(n - crowd, generator=generator)])
    scores = torch.exp(-2 * misfit) * (0.8 + 0.2 * torch.rand(n, generator=generator))
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    boxes = torch.minimum(boxes.clamp(min=0), image.repeat(2))
    order = torch.randperm(n, generator=generator)
    return boxes[order], scores[order]


def of_sizes(n: int, shortest: float, longest: float, *, seed: int = 0) -> Tensor:
    """Boxes [N, 4] anywhere in the image, squares before they are clipped to it; sides log-uniform."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.tensor([IMAGE_WIDTH, IMAGE_HEIGHT])
    centre = torch.rand(n, 2, generator=generator) * image
    side = shortest * (longest / shortest) ** torch.rand(n, 2, generator=generator)[:, :1]
    return torch.cat([(centre - side / 2).clamp(min=0), torch.minimum(centre + side / 2, image)], dim=1)


def scattered(n: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Small boxes anywhere in the image, any score: hardly any overlap, so nearly all are kept.

    Returns:
        boxes [N, 4] and scores [N].
    """
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, 2, generator=generator) * torch.tensor([IMAGE_WIDTH, IMAGE_HEIGHT])
    size = 16 + torch.rand(n, 2, generator=generator) * 64
    return torch.cat([centre - size / 2, centre + size / 2], dim=1), torch.rand(n, generator=generator)


def detections_like(n: int, classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """What a box head hands to per-class NMS: boxes [N, 4], scores [N] and labels int64 [N] in 1 … C."""
    boxes, scores = rpn_like(n, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return boxes, scores, torch.randint(1, classes + 1, (n,), generator=generator)
