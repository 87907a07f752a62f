"""The second-stage head (Fast R-CNN paper, section 2.1): classes and class-specific box offsets of each region."""

from __future__ import annotations

from torch import Tensor, nn

from fasterrcnn.backbone import RoIStage
from fasterrcnn.roi.features import RoIPooler
from fasterrcnn.types import Proposals, Size


class RoIHeads(nn.Module):
    """Pooling, the backbone's RoI layers, and two linear predictors.

    Parameters are called ``classifier.*``, ``cls_loc`` (N(0, 0.001), bias 0) and ``score`` (N(0, 0.01), bias 0).

    Args:
        stage: The RoI stage of a backbone.
        pooler: Pools the features of a box.
        num_classes: C, background not counted.
    """

    def __init__(self, stage: RoIStage, pooler: RoIPooler, num_classes: int) -> None:
        super().__init__()
        self.pooler = pooler
        self.classifier = stage.module
        self.cls_loc = nn.Linear(stage.out_features, 4 * (num_classes + 1))
        self.score = nn.Linear(stage.out_features, num_classes + 1)
        for layer, std in ((self.cls_loc, 0.001), (self.score, 0.01)):
            nn.init.normal_(layer.weight, 0, std)
            nn.init.zeros_(layer.bias)

    def pool(self, features: Tensor, boxes: Tensor, indices: Tensor, image_size: Size) -> Tensor:
        """Features of boxes [K, 4] of the images ``indices`` [K]: [K, C, P, P]."""
        return self.pooler(features, boxes, indices, image_size)

    def pool_proposals(self, features: Tensor, proposals: Proposals, image_size: Size) -> Tensor:
        """Features of every slot of the proposals, used or not: [B·K, C, P, P]."""
        batch, slots = proposals.scores.shape
        indices = proposals.count.new_tensor(range(batch)).repeat_interleave(slots)
        return self.pool(features, proposals.boxes.reshape(-1, 4), indices, image_size)

    def predict(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [K, C+1] (0 is background) and offsets [K, 4(C+1)] (four per class) of pooled features."""
        hidden = self.classifier(pooled)
        return self.score(hidden), self.cls_loc(hidden)

    def forward(self, x: Tensor, rois: Tensor, roi_indices: Tensor, img_size: Size) -> tuple[Tensor, Tensor]:
        """The classic family's own call.

        Args:
            x: Features [N, C, H, W].
            rois: float[N, R, 4] in pixels.
            roi_indices: [N, R], the image of each roi.
            img_size: (height, width) of the images in pixels.

        Returns:
            ``roi_cls_locs`` [N, R, 4(C+1)] and ``roi_scores`` (logits) [N, R, C+1].
        """
        batch = x.shape[0]
        pooled = self.pool(x, rois.reshape(-1, 4), roi_indices.reshape(-1), img_size)
        scores, locs = self.predict(pooled)
        return locs.view(batch, -1, locs.shape[1]), scores.view(batch, -1, scores.shape[1])
