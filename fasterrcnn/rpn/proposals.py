"""From scored anchors to proposals (Faster R-CNN paper, section 3.3): decode, clip, drop small, best first, NMS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.rpn.anchors import AnchorGrid
from fasterrcnn.types import Proposals, Size
from fasterrcnn_ops import generate_proposals


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
        objectness: Sequence[Tensor],
        deltas: Sequence[Tensor],
        grids: Sequence[AnchorGrid],
        image_sizes: Tensor | Sequence[Size],
        scales: Tensor | Sequence[float] | None = None,
        *,
        training: bool,
    ) -> Proposals:
        """Chooses proposals, by :func:`fasterrcnn_ops.generate_proposals`, which says what happens to ties and NaN.

        Args:
            objectness: Of each level float[B, A, H, W], log-odds of being an object.
            deltas: Of each level float[B, 4A, H, W], offsets from the anchors.
            grids: Of each level, its anchors.
            image_sizes: [B, 2] (height, width) to which the boxes of each image are clipped, padding excluded, on the
                device of the maps. A list of pairs costs a copy to that device; so does one of scales.
            scales: [B] or None, resize factor of each image; None is 1.
            training: Which of the two counts apply.

        Returns:
            Proposals, best first, in :class:`~fasterrcnn.types.Proposals`' fixed-capacity form. An image on which no
            anchor survives has count 0.

        Raises:
            ValueError: Levels have anchors about different points of their locations.
        """
        which = 0 if training else 1
        offsets = {grid.offset for grid in grids}
        if len(offsets) != 1:
            raise ValueError(f"all levels need one anchor offset, got {sorted(offsets)}")
        device = objectness[0].device
        boxes, scores, count = generate_proposals(
            objectness,
            deltas,
            [grid.cell_anchors.to(device) for grid in grids],
            [grid.stride for grid in grids],
            image_sizes,
            pre_nms_top_n=self.pre_nms_top_n[which],
            post_nms_top_n=self.post_nms_top_n[which],
            nms_threshold=self.nms_threshold,
            min_size=self._min_sizes(scales, device),
            weights=self.coder.weights,
            anchor_offset=offsets.pop(),
            inclusive=self.coder.inclusive,
            inclusive_sides=self.inclusive_sides,
            filter_before_topk=self.filter_before_top_k,
        )
        return Proposals(boxes, scores, count)

    def _min_sizes(self, scales: Tensor | Sequence[float] | None, device: torch.device) -> float | Tensor:
        """Smallest side in pixels of the batch, for all images or [B]."""
        if scales is None or not self.scale_min_size:
            return self.min_size
        if not isinstance(scales, Tensor):
            scales = torch.tensor(scales, dtype=torch.float64).to(device, non_blocking=True)
        return self.min_size * scales.double()


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
