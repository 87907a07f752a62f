"""The features of a region: a fixed grid of cells whatever the size of the box."""

from __future__ import annotations

import torch
from torch import Tensor

from fasterrcnn.types import Size
from fasterrcnn_ops import roi_align, roi_pool


class RoIPooler:
    """RoIPool or RoIAlign over one feature map.

    Args:
        kind: "pool" (Fast R-CNN paper, section 2.1) or "align" (Mask R-CNN paper, section 3).
        size: Cells per side.
        spatial_scale: Feature-map locations per pixel, such as 1/16. None scales boxes by the ratio of map to image
            size in each direction, as the classic line does: 600 pixels over 37 locations are not 1/16.
        sampling_ratio: Of RoIAlign: samples per cell and direction; ≤ 0 adapts it to the box.
        aligned: Of RoIAlign: shift by half a location.

    Raises:
        ValueError: ``kind`` is neither.
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
        if kind not in ("pool", "align"):
            raise ValueError(f"roi_pooling must be 'pool' or 'align', got {kind!r}")
        self.kind = kind
        self.size = size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def __call__(self, features: Tensor, boxes: Tensor, indices: Tensor, image_size: Size) -> Tensor:
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
            x, y = features.shape[3] / image_size[1], features.shape[2] / image_size[0]
            boxes = boxes * torch.tensor([x, y, x, y], device=boxes.device)
            scale = 1.0
        rois = torch.cat([indices.to(boxes.dtype)[:, None], boxes], dim=1)
        if self.kind == "pool":
            return roi_pool(features, rois, self.size, scale)
        return roi_align(features, rois, self.size, scale, self.sampling_ratio, self.aligned)
