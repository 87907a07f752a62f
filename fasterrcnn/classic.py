"""System 1, the classic PyTorch line of Faster R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fasterrcnn.backbone import freeze_stages, make_backbone
from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.image_batch import ImageBatcher
from fasterrcnn.model import TwoStageDetector, saved_arguments
from fasterrcnn.roi import ClassicHead, DetectionLayer, RoIPooler
from fasterrcnn.rpn import AnchorGrid, ClassicRPN, ProposalLayer
from fasterrcnn.training.losses import StageLoss
from fasterrcnn.training.matching import Matcher
from fasterrcnn.training.sampling import Sampler
from fasterrcnn.training.targets import AnchorTargets, ProposalTargets
from fasterrcnn.types import Size
from fasterrcnn.weights import load_pretrained

BASE_SIZE = 16  # pixels; the classic family gives anchor sizes as multiples of it


class FasterRCNN(TwoStageDetector):
    """Faster R-CNN (Ren et al., 2015) as the classic PyTorch line of it writes it.

    Its parts answer to ``backbone`` = ``extractor``, ``rpn``, and ``roi_heads`` = ``head``; the state dict has
    ``extractor.*``, ``rpn.conv1/score/loc.*`` and ``head.classifier/cls_loc/score.*``.

    Args:
        num_classes: C, background not counted, ≥ 1.
        mode: "training" or "predict": how many proposals the family's own forward gives, 600 or 300; "predict" also
            puts the model in evaluation mode. The form all systems share goes by ``train()`` and ``eval()`` alone.
        feat_stride: Input pixels per feature-map location; the backbone's stride.
        anchor_scales: Anchor sizes as multiples of 16 pixels.
        ratios: Aspect ratios of the anchors.
        backbone: "vgg", "resnet50", "tiny", or a module (see :mod:`fasterrcnn.backbone.base`).
        pretrained: Load the backbone's published ImageNet weights through torch.hub's cache.
        weights: Instead, a local file: those ImageNet weights, or a state dict of a whole detector of this family.
        rpn_channels: Channels of the RPN's 3×3 convolution; by default what suits the backbone (512).
        rpn_pre_nms_top_n, rpn_post_nms_top_n: Proposals before and after NMS, (training, use).
        rpn_nms_threshold: IoU above which a proposal is dropped for a better one.
        rpn_min_size: Smallest side of a proposal in pixels of the original image.
        rpn_samples: Anchors per image the RPN learns from, at most half of them positive.
        roi_pooling: "pool" as the family does, or "align".
        roi_samples: Proposals per image the head learns from, at most half of them positive.
        score_threshold, nms_threshold, max_detections: Of the detections.
        min_size, max_size: Images are resized to this short side and at most this long side, in pixels.
        image_mean, image_std: Of the normalisation per RGB channel; the family has none.
        frozen_stages: How many stages of the backbone, from the input on, are not trained.
        seed: Of sampling and of redrawn proposals.

    Raises:
        ValueError: An unknown name, a count below 1, a stride that is not the backbone's, both kinds of weights.
        TypeError: A backbone that is none.
    """

    def __init__(
        self,
        num_classes: int,
        mode: str = "training",
        feat_stride: int = 16,
        anchor_scales: Sequence[float] = (8, 16, 32),
        ratios: Sequence[float] = (0.5, 1, 2),
        backbone: str | nn.Module = "vgg",
        pretrained: bool = False,
        weights: str | Path | None = None,
        *,
        rpn_channels: int | None = None,
        rpn_pre_nms_top_n: tuple[int, int] = (12000, 3000),
        rpn_post_nms_top_n: tuple[int, int] = (600, 300),
        rpn_nms_threshold: float = 0.7,
        rpn_min_size: float = 16.0,
        rpn_samples: int = 256,
        roi_pooling: str = "pool",
        roi_samples: int = 128,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.3,
        max_detections: int = 100,
        min_size: int | None = 600,
        max_size: int | None = None,
        image_mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        image_std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        frozen_stages: int = 0,
        seed: int = 0,
    ) -> None:
        arguments = saved_arguments(locals())
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1 (background is not counted), got {num_classes}")
        if mode not in ("training", "predict"):
            raise ValueError(f"mode must be 'training' or 'predict', got {mode!r}")
        if pretrained and weights is not None:
            raise ValueError("give either pretrained=True or weights=PATH, not both")
        self.num_classes = num_classes
        self.system = "classic_resnet50" if backbone == "resnet50" else "classic_vgg16"
        self.backbone_name = backbone if isinstance(backbone, str) else f"custom:{type(backbone).__name__}"
        self.arguments = arguments
        self.extractor = make_backbone(backbone)
        freeze_stages(self.extractor, frozen_stages)
        if feat_stride != self.extractor.stride:
            raise ValueError(f"feat_stride is {feat_stride}, but the backbone's stride is {self.extractor.stride}")
        self.rpn = ClassicRPN(
            self.extractor.out_channels,
            rpn_channels or getattr(self.extractor, "rpn_channels", 512),
            AnchorGrid([BASE_SIZE * scale for scale in anchor_scales], ratios, feat_stride, rule="classic"),
            ProposalLayer(rpn_pre_nms_top_n, rpn_post_nms_top_n, rpn_nms_threshold, rpn_min_size),
            training_counts=mode == "training",
            seed=seed,
        )
        stage = self.extractor.roi_stage()
        # RoIAlign is exact about positions: it takes the stride itself, where the family's ratio of sizes is off by up
        # to a location at the far border; and no half-location shift, as this family's anchors sit on the corners.
        exact = {} if roi_pooling == "pool" else {"spatial_scale": 1 / feat_stride, "aligned": False}
        pooler = RoIPooler(roi_pooling, stage.pooled_size, **exact)
        self.head = ClassicHead(stage, pooler, num_classes)
        coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.batcher = ImageBatcher(min_size, max_size, image_mean, image_std)
        self.detection_layer = DetectionLayer(score_threshold, nms_threshold, max_detections, coder)
        self.anchor_targets = AnchorTargets(Matcher(0.7, 0.3, best_of_each=True), Sampler(rpn_samples, 0.5))
        self.proposal_targets = ProposalTargets(Matcher(0.5, 0.5), Sampler(roi_samples, 0.5), coder)
        self.rpn_loss = StageLoss()
        self.roi_loss = StageLoss()
        self.generator = torch.Generator().manual_seed(seed)
        if pretrained or weights is not None:
            load_pretrained(self, weights)
        self.train(mode == "training")

    backbone_prefix, stage_prefix = "extractor", "head.classifier"
    trunk = property(lambda self: self.extractor, doc="The extractor, where its published weights go.")
    backbone = property(lambda self: self.extractor, doc="The extractor, by the name every system has for it.")
    roi_heads = property(lambda self: self.head, doc="The head, by the name every system has for it.")

    def forward(self, x, scale=1.0, mode="forward", *, targets=None):
        """The family's own call for a tensor or tuple; for a list of images the one all systems share.

        ``model(images)`` and ``model(images, targets)`` with lists: see :meth:`TwoStageDetector.forward`. Otherwise:

        Args:
            x: What ``mode`` needs: images [N, 3, H, W] (forward, extractor); ``(features, img_size)`` (rpn);
                ``(features, rois, roi_indices, img_size)`` (head). Sizes are (height, width) in pixels.
            scale: Factor by which the images were resized: small proposals have a side below 16 · scale.
            mode: "forward" runs the stages below one after another.
            targets: Ground truth of a list of images, also accepted in second place.

        Returns:
            * forward: ``(roi_cls_locs [N, R, 4(C+1)], roi_scores [N, R, C+1], rois [N, R, 4], roi_indices [N, R])``;
            * extractor: features [N, C', H', W'];
            * rpn: ``(rpn_locs, rpn_scores, rois, roi_indices, anchor)``, see :class:`ClassicRPN`;
            * head: ``(roi_cls_locs, roi_scores)``, see :class:`ClassicHead`.

        Raises:
            ValueError: Unknown mode, images of another shape, or a list of images in training mode without targets.
        """
        if isinstance(x, list):
            if scale is None or isinstance(scale, (list, tuple)):
                targets = scale
            return super().forward(x, targets)
        if mode in ("forward", "extractor") and not (isinstance(x, Tensor) and x.ndim == 4):
            found = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"mode {mode!r} takes images [N, 3, H, W], or a list of [3, H, W], got {found}")
        if mode == "forward":
            img_size: Size = x.shape[2:]
            features = self.extractor(x)
            _, _, rois, roi_indices, _ = self.rpn(features, img_size, scale)
            roi_cls_locs, roi_scores = self.head(features, rois, roi_indices, img_size)
            return roi_cls_locs, roi_scores, rois, roi_indices
        if mode == "extractor":
            return self.extractor(x)
        if mode == "rpn":
            features, img_size = x
            return self.rpn(features, img_size, scale)
        if mode == "head":
            features, rois, roi_indices, img_size = x
            return self.head(features, rois, roi_indices, img_size)
        raise ValueError(f"mode must be 'forward', 'extractor', 'rpn' or 'head', got {mode!r}")
