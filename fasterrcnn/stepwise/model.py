"""System 4 as one detector: VGG-16, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from fasterrcnn.backbone import freeze_stages, make_backbone
from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.image_batch import ImageBatcher
from fasterrcnn.model import TwoStageDetector, saved_arguments
from fasterrcnn.roi import DetectionLayer, RoIPooler, StepwiseHead
from fasterrcnn.rpn import AnchorGrid, ProposalLayer, RegionProposalNetwork, SeparateRPNHead
from fasterrcnn.training.losses import StageLoss
from fasterrcnn.training.matching import Matcher
from fasterrcnn.training.sampling import Sampler
from fasterrcnn.training.targets import AnchorTargets, ProposalTargets
from fasterrcnn.types import Size
from fasterrcnn.weights import load_pretrained


class StepwiseRCNN(TwoStageDetector):
    """The step-by-step detector: every stage is also a public function of :mod:`fasterrcnn.stepwise`.

    Args:
        num_classes: C, background not counted, ≥ 1.
        backbone: "vgg", "resnet50", "tiny", or a module (see :mod:`fasterrcnn.backbone.base`).
        pretrained: Load the backbone's published ImageNet weights through torch.hub's cache.
        weights: Instead, a local file: those ImageNet weights, or a state dict of a whole detector of this system.
        image_size: Every image is resized to this (height, width) in pixels.
        image_mean, image_std: Of the normalisation per RGB channel; the system has none.
        anchor_sizes: In pixels of the resized image.
        anchor_ratios: Height / width.
        rpn_channels: Channels of the RPN's two 3×3 convolutions.
        rpn_pre_nms_top_n, rpn_post_nms_top_n: Proposals before and after NMS, (training, use).
        rpn_nms_threshold: IoU above which a proposal is dropped for a better one.
        rpn_min_size: Smallest side of a proposal in pixels of the resized image.
        rpn_samples: Anchors per image the RPN learns from, at most half of them positive.
        roi_samples: Proposals per image the head learns from, at most half of them positive.
        roi_positive_iou: Proposals of at least this IoU are positive, the others negative.
        roi_add_ground_truth: Ground-truth boxes join the proposals in training.
        head_channels: Widths of the linear layers before the predictors.
        box_weight: λ, the factor on both box losses.
        score_threshold, nms_threshold, max_detections: Of the detections.
        frozen_stages: How many stages of the backbone, from the input on, are not trained.
        seed: Of sampling.

    Raises:
        ValueError: An unknown name, a count below 1, both kinds of weights.
        TypeError: A backbone that is none.
    """

    backbone_prefix, stage_prefix = "backbone", ""
    trunk = property(lambda self: self.backbone, doc="The backbone itself.")

    def __init__(
        self,
        num_classes: int,
        backbone: str | nn.Module = "vgg",
        pretrained: bool = False,
        weights: str | Path | None = None,
        *,
        image_size: Size = (800, 800),
        image_mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        image_std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        anchor_sizes: Sequence[float] = (128, 256, 512),
        anchor_ratios: Sequence[float] = (0.5, 1, 2),
        rpn_channels: int | None = None,
        rpn_pre_nms_top_n: tuple[int, int] = (12000, 12000),
        rpn_post_nms_top_n: tuple[int, int] = (2000, 2000),
        rpn_nms_threshold: float = 0.7,
        rpn_min_size: float = 16.0,
        rpn_samples: int = 256,
        roi_samples: int = 128,
        roi_positive_iou: float = 0.7,
        roi_add_ground_truth: bool = False,
        head_channels: Sequence[int] = (4096, 2048),
        box_weight: float = 10.0,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.3,
        max_detections: int = 100,
        frozen_stages: int = 0,
        seed: int = 0,
    ) -> None:
        arguments = saved_arguments(locals())
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1 (background is not counted), got {num_classes}")
        if pretrained and weights is not None:
            raise ValueError("give either pretrained=True or weights=PATH, not both")
        self.num_classes = num_classes
        self.system = "stepwise_vgg16"
        self.backbone_name = backbone if isinstance(backbone, str) else f"custom:{type(backbone).__name__}"
        self.arguments = arguments
        self.backbone = make_backbone(backbone)
        freeze_stages(self.backbone, frozen_stages)
        stride, channels = self.backbone.stride, self.backbone.out_channels

        # Anchors lie around the middle of a location, 8, 24, … with a stride of 16.
        anchors = AnchorGrid(anchor_sizes, anchor_ratios, stride, rule="stepwise", offset=stride / 2)
        proposal_layer = ProposalLayer(
            rpn_pre_nms_top_n, rpn_post_nms_top_n, rpn_nms_threshold, rpn_min_size, scale_min_size=False
        )
        head = SeparateRPNHead(channels, rpn_channels or getattr(self.backbone, "rpn_channels", 512), len(anchors), 2)
        self.rpn = RegionProposalNetwork(head, anchors, proposal_layer, scores_per_anchor=2)
        pooler = RoIPooler("truncated", 7, spatial_scale=1 / stride)
        self.roi_heads = StepwiseHead(pooler, channels, head_channels, num_classes)

        self.batcher = ImageBatcher(None, None, image_mean, image_std, fixed_size=image_size)
        self.detection_layer = DetectionLayer(score_threshold, nms_threshold, max_detections, BoxCoder())
        self.anchor_targets = AnchorTargets(
            Matcher(0.7, 0.3, best_of_each=True), Sampler(rpn_samples, 0.5), border="exclude"
        )
        self.proposal_targets = ProposalTargets(
            Matcher(roi_positive_iou, roi_positive_iou), Sampler(roi_samples, 0.5), BoxCoder(), roi_add_ground_truth
        )
        self.rpn_loss = StageLoss(box_weight=box_weight, normalizer="positives")
        self.roi_loss = StageLoss(box_weight=box_weight, normalizer="positives")
        self.generator = torch.Generator().manual_seed(seed)
        if pretrained or weights is not None:
            load_pretrained(self, weights)
