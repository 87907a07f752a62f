"""Fixed-capacity detections: the module that is exported, what an RPN alone finds, and the way to lists.

Everything before :func:`unpadded` has shapes that depend on shapes alone and reads nothing back to the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fasterrcnn.image_batch import SMALLEST_SIDE
from fasterrcnn.types import Detections, ImageBatch, PaddedDetections, Proposals
from fasterrcnn_ops.nms import nms_padded

if TYPE_CHECKING:
    from torch.export import Dim

    from fasterrcnn.model import TwoStageDetector


class PaddedDetector(nn.Module):
    """A detector whose only call is :meth:`~fasterrcnn.model.TwoStageDetector.forward_padded`: what is exported.

    It gives a plain tuple, so that a saved program needs no class of this package where it is loaded.

    Args:
        model: In evaluation mode from now on.

    Example:
        >>> shapes = PaddedDetector.dynamic_shapes()
        >>> program = torch.export.export(
        ...     PaddedDetector(model), (images, image_sizes), strict=True, dynamic_shapes=shapes)
    """

    def __init__(self, model: TwoStageDetector) -> None:
        super().__init__()
        self.model = model
        self.eval()

    @staticmethod
    def dynamic_shapes(*, scales: bool = False) -> tuple[dict[int, Dim], ...]:
        """Any number and size of images, in the form ``torch.export`` takes; with ``scales`` for three arguments."""
        from torch.export import Dim  # not everybody exports, and it takes a while to load

        batch, height, width = Dim("batch"), Dim("height", min=SMALLEST_SIDE), Dim("width", min=SMALLEST_SIDE)
        shapes = ({0: batch, 2: height, 3: width}, {0: batch})
        return (*shapes, {0: batch}) if scales else shapes

    def forward(
        self, images: Tensor, image_sizes: Tensor, scales: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes [B, D, 4], labels [B, D], scores [B, D] and count [B] of images [B, 3, H, W]."""
        return tuple(self.model.forward_padded(images, image_sizes, scales))


def check_batch(images: Tensor, image_sizes: Tensor, **of_images: Tensor | None) -> None:
    """Raises where the tensors of a batch do not fit together; the message names the argument. No value is read.

    Args:
        images: float[B, 3, H, W].
        image_sizes: [B, 2].
        of_images: By name, tensors [B]; None is left out.

    Raises:
        TypeError: One is no tensor, or the images are no floats: whole numbers 0–255 would be taken for 0–1.
        ValueError: One has another shape.
    """
    tensors = {"images": images, "image_sizes": image_sizes, **of_images}
    for name, tensor in tensors.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected shape [B, 3, H, W], got {list(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images: expected floats in 0–1, got {images.dtype}")
    batch = images.shape[0]
    if image_sizes.ndim != 2 or image_sizes.shape[0] != batch or image_sizes.shape[1] != 2:
        raise ValueError(f"image_sizes: expected shape [{batch}, 2], got {list(image_sizes.shape)}")
    for name, tensor in of_images.items():
        if tensor is not None and (tensor.ndim != 1 or tensor.shape[0] != batch):
            raise ValueError(f"{name}: expected shape [{batch}], got {list(tensor.shape)}")


def check_device(device: torch.device, **tensors: Tensor | None) -> None:
    """Raises where a tensor is not on the device of the images; None is left out.

    Raises:
        ValueError: One is elsewhere; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{name}: expected on {device}, where the images are, got {tensor.device}")


def proposals_as_detections(
    proposals: Proposals,
    *,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
    max_detections: int | None = None,
) -> PaddedDetections:
    """Without a second stage: proposals as detections of the one class "object", label 1.

    Args:
        proposals: K slots per image, best first.
        score_threshold: Detections have a greater score; None keeps all.
        nms_threshold: Greatest IoU of two detections of an image; None leaves the proposals as they are.
        max_detections: Most detections per image; K where it is None or more.

    Returns:
        As many slots per image.
    """
    batch, slots = proposals.scores.shape
    wanted = proposals.valid()
    if score_threshold is not None:
        wanted = wanted & (proposals.scores > score_threshold)
    if nms_threshold is not None:
        # Worse boxes suppress no better ones, so it makes no difference that those below the threshold take part.
        wanted = wanted & _survivors(proposals, nms_threshold)
    capacity = slots if max_detections is None else min(slots, max_detections)
    # The wanted slots first, both parts in their order: distinct numbers, so any sort will do.
    slot = torch.arange(slots, device=wanted.device)
    order = torch.where(wanted, slot, slot + slots).sort(dim=1).indices[:, :capacity]
    count = wanted.sum(dim=1).clamp(max=capacity)
    used = slot[:capacity] < count[:, None]
    boxes = proposals.boxes.gather(1, order[..., None].expand(batch, capacity, 4))
    return PaddedDetections(
        boxes=torch.where(used[..., None], boxes, 0.0),
        labels=used.long(),
        scores=torch.where(used, proposals.scores.gather(1, order), 0.0),
        count=count,
    )


def _survivors(proposals: Proposals, threshold: float) -> Tensor:
    """bool[B, K]: what NMS in each image leaves, all images at once; unused slots come last and suppress nothing."""
    batch, slots = proposals.scores.shape
    image = torch.arange(batch, device=proposals.count.device)[:, None].expand(batch, slots)
    scores = torch.where(proposals.valid(), proposals.scores, -1.0)
    keep, _ = nms_padded(
        proposals.boxes.reshape(-1, 4),
        scores.reshape(-1),
        image.reshape(-1),
        iou_threshold=threshold,
        max_output=batch * slots,
    )
    # One place more than there are slots, for the padding of -1.
    kept = torch.zeros(batch * slots + 1, dtype=torch.bool, device=keep.device)
    kept = kept.index_fill(0, torch.where(keep >= 0, keep, batch * slots), True)
    return kept[:-1].view(batch, slots)


def unpadded(padded: PaddedDetections, batch: ImageBatch) -> list[Detections]:
    """Detections of each image of a batch, boxes in pixels of the originals and inside them.

    The one place where the host waits for the device: it needs to know how many there are.
    """
    device = padded.boxes.device
    sizes = list(zip(batch.sizes, batch.original_sizes, strict=True))
    factors = [[after[1] / before[1], after[0] / before[0]] * 2 for before, after in sizes]
    limits = [[width, height] * 2 for _, (height, width) in sizes]
    scale, limit = torch.tensor([factors, limits]).to(device, non_blocking=True)[:, :, None]  # [B, 1, 4] each
    boxes = torch.minimum((padded.boxes * scale).clamp(min=0), limit)
    return [
        Detections(boxes[image, :used], padded.labels[image, :used], padded.scores[image, :used])
        for image, used in enumerate(padded.count.tolist())
    ]
