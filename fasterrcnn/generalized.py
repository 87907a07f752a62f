"""Systems 2 and 3, the C4 line: ResNet-50 up to layer3, RoIAlign on its map, layer4 as the RoI head.

Detectron's "R-50-C4" as maskrcnn-benchmark writes it (``resnet50_c4``), and as GluonCV does (``resnet50_c4_sigmoid``).
The first is inclusive of last pixels throughout, the second only where it rounds its anchors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fasterrcnn.backbone import ResNet50C4, freeze_stages, make_backbone
from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.image_batch import ImageBatcher, boxes_to_original
from fasterrcnn.model import TwoStageDetector, evaluating, saved_arguments
from fasterrcnn.roi import ClassRows, DetectionLayer, GeneralizedRoIHeads, RoIHeads, RoIPooler, class_rows
from fasterrcnn.rpn import AnchorGrid, ProposalLayer, RegionProposalNetwork, RPNHead
from fasterrcnn.training.losses import StageLoss
from fasterrcnn.training.matching import Matcher
from fasterrcnn.training.sampling import Sampler
from fasterrcnn.training.targets import AnchorTargets, ProposalTargets
from fasterrcnn.weights import load_pretrained


class GeneralizedRCNN(TwoStageDetector):
    """Faster R-CNN of three modules: ``backbone``, ``rpn`` and ``roi_heads``.

    Called in training mode with targets it gives the dict of losses, otherwise the detections of each image; see
    :meth:`~fasterrcnn.model.TwoStageDetector.forward`. :func:`c4` puts the modules together.

    Args:
        backbone: Has ``body``, the trunk, which has ``out_channels`` and ``stride``.
        rpn: Proposes.
        roi_heads: Classifies and refines; None for proposals alone: two losses in training, and detections that all
            have label 1, "object".
    """

    backbone_prefix, stage_prefix = "backbone.body", "roi_heads.box.feature_extractor.head"
    trunk = property(lambda self: self.backbone.body, doc="The backbone's ``body``.")

    def __init__(self, backbone: nn.Module, rpn: RegionProposalNetwork, roi_heads: RoIHeads | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        if roi_heads is None:
            self.stage_prefix = ""  # published weights of the RoI stage have no place

    def detect_rows(self, images: Sequence[Tensor]) -> list[ClassRows]:
        """Detections as tables with a row for every class and proposal slot; see :class:`fasterrcnn.roi.ClassRows`.

        Args:
            images: As for :meth:`detect`.

        Returns:
            Per image, of C · K rows: 6000 for 20 classes and 300 proposals.

        Raises:
            ValueError: The model has no RoI heads, and so no classes.
        """
        if self.roi_heads is None:
            raise ValueError("a model without RoI heads has no classes: use detect()")
        with evaluating(self), torch.no_grad():
            batch = self.batcher(images, device=self.device)
            features = self.features(batch.images)
            proposals = self.rpn.propose(self.rpn.predict(features), batch.sizes, batch.scales, training=False)
            pooled = self.roi_heads.pool_proposals(features, proposals, batch.padded_size)
            logits, deltas = self.roi_heads.predict(pooled)
            slots, valid = proposals.scores.shape[1], proposals.valid()
            per_image = zip(logits.split(slots), deltas.split(slots), proposals.boxes, valid, batch.sizes, strict=True)
            tables = []
            for index, arguments in enumerate(per_image):
                rows = class_rows(self.detection_layer, *arguments)
                original = boxes_to_original(rows.boxes, batch, index)
                rows.boxes = torch.where(rows.ids >= 0, original, -1.0)
                tables.append(rows)
            return tables


def c4(
    num_classes: int,
    backbone: str | nn.Module = "resnet50",
    pretrained: bool = False,
    weights: str | Path | None = None,
    *,
    rpn_only: bool = False,
    stride_on_1x1: bool = True,
    frozen_norm: bool = True,
    frozen_stages: int = 2,
    min_size: int | None = 800,
    max_size: int | None = 1333,
    image_channels: str = "bgr",
    image_range: float = 255.0,
    image_mean: tuple[float, float, float] = (102.9801, 115.9465, 122.7717),
    image_std: tuple[float, float, float] = (1.0, 1.0, 1.0),
    inclusive: bool = True,
    anchor_sizes: Sequence[float] = (128, 256, 512),
    anchor_ratios: Sequence[float] = (0.5, 1, 2),
    anchor_rule: str = "rounded",
    rpn_channels: int | None = None,
    rpn_pre_nms_top_n: tuple[int, int] = (12000, 6000),
    rpn_post_nms_top_n: tuple[int, int] = (2000, 1000),
    rpn_nms_threshold: float = 0.7,
    rpn_min_size: float = 0.0,
    rpn_min_size_includes_last_pixel: bool = True,
    rpn_filter_before_top_k: bool = False,
    rpn_samples: int = 256,
    rpn_border: str = "ignore",
    roi_sampling_ratio: int = 0,
    roi_aligned: bool = False,
    roi_samples: int = 512,
    roi_positive_fraction: float = 0.25,
    background_boxes: bool = True,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    max_detections: int = 100,
    candidates_per_class: int | None = None,
    seed: int = 0,
) -> GeneralizedRCNN:
    """Builds a C4 detector; the defaults are ``resnet50_c4``'s.

    Args:
        num_classes: C, background not counted, ≥ 1.
        backbone: "resnet50", "vgg", "tiny", or a module (see :mod:`fasterrcnn.backbone.base`).
        pretrained: Load the backbone's published ImageNet weights through torch.hub's cache.
        weights: Instead, a local file: those ImageNet weights, or a state dict of a whole detector of this line.
        rpn_only: Leave out the RoI heads: an RPN of its own.
        stride_on_1x1: Of ResNet-50: where a bottleneck has its stride.
        frozen_norm: Of ResNet-50: BatchNorm never changes.
        frozen_stages: How many stages of the backbone, from the input on, are not trained; 2 are stem and layer1.
        min_size, max_size: Images are resized to this short side and at most this long side, in pixels.
        image_channels, image_range: "rgb" or "bgr", and the largest value, as the backbone was trained.
        image_mean, image_std: Of the normalisation per channel, in that order and range.
        inclusive: Boxes contain their last pixel (widths x2 − x1 + 1) in box coding and at the border.
        anchor_sizes: In pixels of the resized image.
        anchor_ratios: Height / width.
        anchor_rule: How sizes and ratios become boxes: "rounded", or "centered", which is detectron2's; see
            :func:`fasterrcnn_ops.cell_anchors`.
        rpn_channels: Channels of the RPN's 3×3 convolution; by default what suits the backbone (1024).
        rpn_pre_nms_top_n, rpn_post_nms_top_n: Proposals before and after NMS, (training, use).
        rpn_nms_threshold: IoU above which a proposal is dropped for a better one.
        rpn_min_size: Smallest side of a proposal in pixels of the resized image.
        rpn_min_size_includes_last_pixel: Sides are compared with it as x2 − x1 + 1.
        rpn_filter_before_top_k: Small proposals are dropped before the best are chosen rather than afterwards.
        rpn_samples: Anchors per image the RPN learns from, at most half of them positive.
        rpn_border: Anchors that cross the border in training: "keep", "ignore" or "exclude"; see
            :class:`~fasterrcnn.training.targets.AnchorTargets`.
        roi_sampling_ratio: Of RoIAlign, samples per cell and direction; 0 adapts it to the box.
        roi_aligned: RoIAlign shifts by half a location, as detectron2's does.
        roi_samples: Proposals per image the head learns from.
        roi_positive_fraction: At most this share of them is positive.
        background_boxes: Background has box columns too, 4(C+1) instead of 4C; they learn nothing.
        score_threshold, nms_threshold, max_detections: Of the detections.
        candidates_per_class: Only the best so many of a class enter NMS.
        seed: Of sampling.

    Raises:
        ValueError: An unknown name, a count below 1, both kinds of weights.
        TypeError: A backbone that is none.
    """
    arguments = saved_arguments(locals())
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1 (background is not counted), got {num_classes}")
    if pretrained and weights is not None:
        raise ValueError("give either pretrained=True or weights=PATH, not both")
    if backbone == "resnet50":
        body = ResNet50C4(stride_on_1x1=stride_on_1x1, frozen_norm=frozen_norm)
    else:
        body = make_backbone(backbone)
    freeze_stages(body, frozen_stages if hasattr(body, "stages") else 0)

    anchors = AnchorGrid(anchor_sizes, anchor_ratios, body.stride, rule=anchor_rule)
    rpn_channels = rpn_channels or getattr(body, "rpn_channels", 1024)
    rpn_coder = BoxCoder(inclusive=inclusive)
    proposal_layer = ProposalLayer(
        rpn_pre_nms_top_n,
        rpn_post_nms_top_n,
        rpn_nms_threshold,
        rpn_min_size,
        rpn_coder,
        scale_min_size=False,
        inclusive_sides=rpn_min_size_includes_last_pixel,
        filter_before_top_k=rpn_filter_before_top_k,
    )
    head = RPNHead(body.out_channels, rpn_channels, len(anchors), scores_per_anchor=1)
    rpn = RegionProposalNetwork(head, anchors, proposal_layer, scores_per_anchor=1)

    roi_heads = None
    if not rpn_only:
        stage = body.roi_stage()
        pooler = RoIPooler(
            "align",
            stage.pooled_size,
            spatial_scale=1 / body.stride,
            sampling_ratio=roi_sampling_ratio,
            aligned=roi_aligned,
        )
        roi_heads = GeneralizedRoIHeads(stage, pooler, num_classes, background_boxes=background_boxes)

    model = GeneralizedRCNN(nn.Sequential(OrderedDict(body=body)), rpn, roi_heads)
    roi_coder = BoxCoder((10.0, 10.0, 5.0, 5.0), inclusive)
    model.num_classes = num_classes
    model.system = "resnet50_c4"
    model.backbone_name = backbone if isinstance(backbone, str) else f"custom:{type(backbone).__name__}"
    model.arguments = arguments
    model.batcher = ImageBatcher(
        min_size, max_size, image_mean, image_std, channels=image_channels, value_range=image_range
    )
    model.detection_layer = DetectionLayer(
        score_threshold, nms_threshold, max_detections, roi_coder, candidates_per_class
    )
    model.anchor_targets = AnchorTargets(
        Matcher(0.7, 0.3, best_of_each=True), Sampler(rpn_samples, 0.5), rpn_coder, rpn_border
    )
    model.proposal_targets = ProposalTargets(Matcher(0.5, 0.5), Sampler(roi_samples, roi_positive_fraction), roi_coder)
    model.rpn_loss = StageLoss(beta=1 / 9)
    model.roi_loss = StageLoss()
    model.generator = torch.Generator().manual_seed(seed)
    if pretrained or weights is not None:
        load_pretrained(model, weights)
    return model


# What ``resnet50_c4_sigmoid`` does otherwise.
SIGMOID = {
    "stride_on_1x1": False,
    "frozen_stages": 0,
    "min_size": 600,
    "max_size": 1000,
    "image_channels": "rgb",
    "image_range": 1.0,
    "image_mean": (0.485, 0.456, 0.406),
    "image_std": (0.229, 0.224, 0.225),
    "inclusive": False,
    "anchor_sizes": (32, 64, 128, 256, 512),
    "rpn_post_nms_top_n": (2000, 300),
    "rpn_min_size": 16.0,
    "rpn_filter_before_top_k": True,
    "rpn_border": "keep",
    "roi_sampling_ratio": 2,
    "roi_samples": 128,
    "background_boxes": False,
    "score_threshold": 0.01,
    "nms_threshold": 0.3,
    "candidates_per_class": 400,
}
