"""The second-stage heads (Fast R-CNN paper, section 2.1): classes and box offsets of each region."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fasterrcnn.backbone import RoIStage
from fasterrcnn.roi.features import RoIPooler
from fasterrcnn.types import Proposals, Size


class RoIHeads(nn.Module):
    """What every system's second stage offers: pooling, and predictions from pooled features.

    A subclass sets ``pooler`` (or makes it a property) and defines :meth:`predict`.
    """

    pooler: RoIPooler

    def pool(self, features: Tensor, boxes: Tensor, indices: Tensor, image_size: Size) -> Tensor:
        """Features of boxes [K, 4] of the images ``indices`` [K]: [K, C, P, P]."""
        return self.pooler(features, boxes, indices, image_size)

    def pool_slots(self, features: Tensor, boxes: Tensor, image_size: Size) -> Tensor:
        """Features of boxes [B, K, 4], as many for each image: [B·K, C, P, P]."""
        batch, slots = boxes.shape[:2]
        indices = torch.arange(batch, device=boxes.device)[:, None].expand(batch, slots).reshape(-1)
        return self.pool(features, boxes.reshape(-1, 4), indices, image_size)

    def pool_proposals(self, features: Tensor, proposals: Proposals, image_size: Size) -> Tensor:
        """Features of every slot of the proposals, used or not: [B·K, C, P, P]."""
        return self.pool_slots(features, proposals.boxes, image_size)

    def predict(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [K, C+1] (0 is background) and offsets [K, 4·columns] of pooled features [K, C, P, P].

        Columns are C+1, or C where background has none; four numbers each.
        """
        raise NotImplementedError


class ClassicHead(RoIHeads):
    """The classic family's: the backbone's RoI layers and two linear predictors.

    Parameters are called ``classifier.*``, ``cls_loc`` (N(0, 0.001), bias 0) and ``score`` (N(0, 0.01), bias 0).

    Args:
        stage: The RoI stage of a backbone.
        pooler: Pools the features of a box.
        num_classes: C, background not counted.
    """

    def __init__(self, stage: RoIStage, pooler: RoIPooler, num_classes: int) -> None:
        super().__init__()
        self.pooler = pooler
        self.classifier = stage.flat()
        self.cls_loc = nn.Linear(stage.out_features, 4 * (num_classes + 1))
        self.score = nn.Linear(stage.out_features, num_classes + 1)
        initialise(self.cls_loc, 0.001)
        initialise(self.score, 0.01)

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


class FeatureExtractor(nn.Module):
    """Pooling and the backbone's RoI layers: ``pooler``, then ``head``.

    Args:
        stage: The RoI stage of a backbone.
        pooler: Pools the features of a box.
    """

    def __init__(self, stage: RoIStage, pooler: RoIPooler) -> None:
        super().__init__()
        self.pooler = pooler
        self.head = stage.module

    def forward(self, features: Tensor, boxes: Tensor, indices: Tensor, image_size: Size) -> Tensor:
        """Features of boxes [K, 4], as the RoI stage gives them: ResNet-50's layer4 [K, 2048, 7, 7]."""
        return self.head(self.pooler(features, boxes, indices, image_size))


class Predictor(nn.Module):
    """Average pooling where the RoI layers give a map, and two linear layers.

    Args:
        stage: The RoI stage of a backbone.
        num_classes: C, background not counted.
        background_boxes: Whether background has box columns too: 4(C+1) of them, else 4C.
    """

    def __init__(self, stage: RoIStage, num_classes: int, *, background_boxes: bool) -> None:
        super().__init__()
        self.avgpool = nn.Identity() if stage.pool is None else stage.pool
        self.cls_score = nn.Linear(stage.out_features, num_classes + 1)
        self.bbox_pred = nn.Linear(stage.out_features, 4 * (num_classes + background_boxes))
        initialise(self.cls_score, 0.01)
        initialise(self.bbox_pred, 0.001)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """[K, F, h, w] or [K, F] → class logits [K, C+1] and offsets."""
        hidden = self.avgpool(hidden).flatten(1)
        return self.cls_score(hidden), self.bbox_pred(hidden)


class BoxHead(nn.Module):
    """The parts of the box branch, ``feature_extractor`` and ``predictor``."""

    def __init__(self, feature_extractor: FeatureExtractor, predictor: Predictor) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.predictor = predictor


class GeneralizedRoIHeads(RoIHeads):
    """The heads of the C4 systems; there is one branch, ``box``.

    Args:
        stage: The RoI stage of a backbone.
        pooler: Pools the features of a box.
        num_classes: C, background not counted.
        background_boxes: Whether background has box columns too.
    """

    def __init__(self, stage: RoIStage, pooler: RoIPooler, num_classes: int, *, background_boxes: bool = True) -> None:
        super().__init__()
        predictor = Predictor(stage, num_classes, background_boxes=background_boxes)
        self.box = BoxHead(FeatureExtractor(stage, pooler), predictor)

    @property
    def pooler(self) -> RoIPooler:
        return self.box.feature_extractor.pooler

    def predict(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.box.predictor(self.box.feature_extractor.head(pooled))


class StepwiseHead(RoIHeads):
    """The step-by-step system's: linear layers without activations between them.

    Args:
        pooler: Pools the features of a box.
        in_channels: Channels of the features.
        hidden: Widths of the linear layers before the two predictors.
        num_classes: C, background not counted.
    """

    def __init__(self, pooler: RoIPooler, in_channels: int, hidden: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.pooler = pooler
        widths = [in_channels * pooler.size**2, *hidden]
        self.hidden = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))
        self.loc = nn.Linear(widths[-1], 4 * (num_classes + 1))
        self.score = nn.Linear(widths[-1], num_classes + 1)
        for layer in (*self.hidden, self.loc, self.score):
            initialise(layer, 0.01)

    def predict(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(pooled.flatten(1))
        return self.score(hidden), self.loc(hidden)


def initialise(layer: nn.Linear, std: float) -> None:
    """Weights N(0, std), biases 0."""
    nn.init.normal_(layer.weight, 0, std)
    nn.init.zeros_(layer.bias)
