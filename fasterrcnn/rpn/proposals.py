"""From scored anchors to proposals (Faster R-CNN paper, section 3.3): decode, clip, drop small, best first, NMS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.types import Proposals, Size
from fasterrcnn_ops import nms_padded


@dataclass
class ProposalLayer:
    """The proposal rules of a family; the defaults are the classic one's.

    Shapes do not depend on values and nothing is read back to the host: proposals have as many slots as there can be.

    Attributes:
        pre_nms_top_n: How many of the best anchors enter NMS, (in training, in use).
        post_nms_top_n: K, how many proposals may leave it, (in training, in use).
        nms_threshold: A proposal whose IoU with a better one is greater is dropped.
        min_size: Smallest side in pixels of the original image; min_size · scale in pixels of the batch.
        coder: How deltas describe boxes.
        scale_min_size: False: ``min_size`` is in pixels of the batch.
        inclusive_sides: Sides count their last pixel when they are compared with ``min_size``: side + 1.
        filter_before_top_k: Small boxes are dropped before the best ``pre_nms_top_n`` are chosen, and take up no place
            among them; False drops them afterwards.
    """

    pre_nms_top_n: tuple[int, int] = (12000, 3000)
    post_nms_top_n: tuple[int, int] = (600, 300)
    nms_threshold: float = 0.7
    min_size: float = 16.0
    coder: BoxCoder = field(default_factory=BoxCoder)
    scale_min_size: bool = True
    inclusive_sides: bool = False
    filter_before_top_k: bool = True

    def __call__(
        self,
        anchors: Tensor,
        scores: Tensor,
        deltas: Tensor,
        image_sizes: Sequence[Size],
        scales: Sequence[float],
        *,
        training: bool,
    ) -> Proposals:
        """Chooses proposals.

        Args:
            anchors: float[N, 4] in pixels of the batch.
            scores: float[B, N], probability of being an object.
            deltas: float[B, N, 4], offsets from the anchors.
            image_sizes: (height, width) to which the boxes of each image are clipped, padding excluded.
            scales: Resize factor of each image.
            training: Which of the two counts apply.

        Returns:
            Proposals, best first, in :class:`~fasterrcnn.types.Proposals`' fixed-capacity form. An image on which no
            anchor survives has count 0. Equal scores keep the anchors' order; NaN scores and boxes are never proposed.
        """
        which = 0 if training else 1
        pre, post = self.pre_nms_top_n[which], self.post_nms_top_n[which]
        images = [
            self._propose(anchors, scores[i], deltas[i], size, self._min_side(scale), pre, post)
            for i, (size, scale) in enumerate(zip(image_sizes, scales, strict=True))
        ]
        boxes, kept_scores, counts = zip(*images, strict=True)
        return Proposals(torch.stack(boxes), torch.stack(kept_scores), torch.stack(counts))

    def _min_side(self, scale: float) -> float:
        """Smallest x2 − x1 or y2 − y1 in pixels of the batch."""
        return self.min_size * (scale if self.scale_min_size else 1.0) - self.inclusive_sides

    def _propose(
        self, anchors: Tensor, scores: Tensor, deltas: Tensor, size: Size, min_side: float, pre: int, post: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        boxes = self.coder.decode(deltas, anchors, size)
        if len(boxes) == 0:
            return boxes.new_zeros(post, 4), scores.new_zeros(post), scores.new_zeros((), dtype=torch.int64)
        large = (boxes[:, 2] - boxes[:, 0] >= min_side) & (boxes[:, 3] - boxes[:, 1] >= min_side)
        # What is dropped is sent to the end rather than removed, which keeps shapes fixed: behind all others it can
        # suppress nothing, and everything from there on is cut off below.
        good = scores.isfinite() & boxes.isfinite().all(dim=1)
        scores = torch.where(good & large if self.filter_before_top_k else good, scores, -torch.inf)
        # A stable sort, not topk, whose choice among equal scores differs between devices.
        scores, order = scores.sort(descending=True, stable=True)
        scores, boxes = scores[:pre], boxes[order[:pre]]
        if not self.filter_before_top_k:
            scores, again = torch.where(large[order[:pre]], scores, -torch.inf).sort(descending=True, stable=True)
            boxes = boxes[again]
        keep, _ = nms_padded(boxes, scores, iou_threshold=self.nms_threshold, max_output=post)
        index = keep.clamp(min=0)
        used = (keep >= 0) & (scores[index] > -torch.inf)
        kept_boxes = torch.where(used[:, None], boxes[index], 0.0)
        return kept_boxes, torch.where(used, scores[index], 0.0), used.sum()


def fill_up(proposals: Proposals, image_size: Size, seed: int = 0) -> Tensor:
    """Every slot filled, as the classic line's training code expects it: exactly K boxes per image.

    Slots beyond ``count`` repeat proposals drawn at random; an image without any gets the whole image in all slots.

    Args:
        proposals: K slots per image.
        image_size: (height, width) of the images in pixels.
        seed: Of the draw; the same proposals and seed give the same boxes on every device.

    Returns:
        float[B, K, 4] in pixels.
    """
    batch, slots = proposals.scores.shape
    device = proposals.boxes.device
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(batch, slots, generator=generator, device="cpu", dtype=torch.float64).to(device)
    draw = (uniform * proposals.count[:, None]).long().clamp(max=slots - 1)
    index = torch.where(proposals.valid(), torch.arange(slots, device=device), draw)
    boxes = proposals.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    height, width = image_size
    whole = torch.tensor([0.0, 0.0, width, height], device=device, dtype=boxes.dtype)
    return torch.where((proposals.count == 0)[:, None, None], whole, boxes)
