"""The features of a region: a fixed grid of cells whatever the size of the box."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fasterrcnn.image_batch import scale_columns
from fasterrcnn.types import Size
from fasterrcnn_ops import roi_align, roi_pool


class RoIPooler(nn.Module):
    """RoIPool or RoIAlign over one feature map.

    Args:
        kind: "pool" (Fast R-CNN paper, section 2.1), "align" (Mask R-CNN paper, section 3), or "truncated": boxes are
            cut down to whole locations before RoIPool, where "pool" rounds them, and the map's last location is the
            farthest a box reaches.
        size: Cells per side.
        spatial_scale: Feature-map locations per pixel, such as 1/16. None scales boxes by the ratio of map to image
            size in each direction, as the classic line does: 600 pixels over 37 locations are not 1/16.
        sampling_ratio: Of RoIAlign: samples per cell and direction; ≤ 0 adapts it to the box.
        aligned: Of RoIAlign: shift by half a location.

    Raises:
        ValueError: ``kind`` is none of these.
    """

    def __init__(
        self,
        kind: str,
        size: int,
        *,
        spatial_scale: float | None = None,
        sampling_ratio: int = 2,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        if kind not in ("pool", "align", "truncated"):
            raise ValueError(f"roi_pooling must be 'pool', 'align' or 'truncated', got {kind!r}")
        self.kind = kind
        self.size = size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def extra_repr(self) -> str:
        rest = f", sampling_ratio={self.sampling_ratio}, aligned={self.aligned}" if self.kind == "align" else ""
        return f"{self.kind!r}, size={self.size}, spatial_scale={self.spatial_scale}{rest}"

    def forward(self, features: Tensor, boxes: Tensor, indices: Tensor, image_size: Size) -> Tensor:
        """Pools.

        Args:
            features: [B, C, H, W].
            boxes: float[K, 4] in pixels of the (padded) batch.
            indices: [K], the image each box belongs to, 0…B−1.
            image_size: (height, width) in pixels of the padded batch.

        Returns:
            [K, C, size, size], differentiable with respect to the features.
        """
        boxes = boxes.float()
        scale = self.spatial_scale
        if scale is None:
            boxes = scale_columns(boxes, features.shape[3] / image_size[1], features.shape[2] / image_size[0])
            scale = 1.0
        if self.kind == "truncated":
            boxes, scale = truncate(boxes * scale, (features.shape[2], features.shape[3])), 1.0
        rois = torch.cat([indices.to(boxes.dtype)[:, None], boxes], dim=1)
        if self.kind == "align":
            return roi_align(features, rois, self.size, scale, self.sampling_ratio, self.aligned)
        return roi_pool(features, rois, self.size, scale)


def truncate(boxes: Tensor, feature_size: Size) -> Tensor:
    """Boxes [K, 4] in locations, cut down to whole ones; x2 and y2 are at most the last of a map (height, width)."""
    boxes = boxes.trunc()
    height, width = feature_size
    x2, y2 = boxes[:, 2].clamp(max=width - 1), boxes[:, 3].clamp(max=height - 1)
    return torch.stack([boxes[:, 0], boxes[:, 1], x2, y2], dim=1)
