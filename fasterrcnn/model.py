"""The detector: image → backbone → anchors and RPN → proposals → RoI features → head → detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fasterrcnn.backbone import make_backbone
from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.image_batch import ImageBatcher, boxes_to_original
from fasterrcnn.roi import DetectionLayer, RoIHeads, RoIPooler
from fasterrcnn.rpn import AnchorGrid, ProposalLayer, RegionProposalNetwork, RPNOutput
from fasterrcnn.training.losses import StageLoss
from fasterrcnn.training.matching import Matcher
from fasterrcnn.training.sampling import Sampler
from fasterrcnn.training.targets import AnchorTargets, ProposalTargets, RoISamples, check_targets
from fasterrcnn.types import Detections, ImageBatch, Losses, Proposals, Size, Target
from fasterrcnn.weights import load_pretrained

NOT_SAVED = {"self", "__class__", "num_classes", "backbone", "pretrained", "weights"}
BASE_SIZE = 16  # pixels; the classic family gives anchor sizes as multiples of it


class TwoStageDetector(nn.Module):
    """The form all systems share; a system is a choice of these parts.

    A subclass provides ``backbone``, ``rpn`` and ``roi_heads`` (modules or properties) and sets the attributes below.

    Attributes:
        batcher: Input rules.
        detection_layer: Output rules.
        anchor_targets, proposal_targets: What each stage learns from.
        rpn_loss, roi_loss: How each stage's errors count.
        num_classes: C, background not counted.
        generator: Source of all sampling in training, on the CPU.
        system, backbone_name, arguments: What ``build`` needs to make the detector again; kept in checkpoints.
        class_names: Name of each class, index 0 for label 1; kept in checkpoints.
    """

    batcher: ImageBatcher
    detection_layer: DetectionLayer
    anchor_targets: AnchorTargets
    proposal_targets: ProposalTargets
    rpn_loss: StageLoss
    roi_loss: StageLoss
    num_classes: int
    generator: torch.Generator
    system: str
    backbone_name: str
    arguments: dict[str, Any]
    class_names: tuple[str, ...] | None = None

    def detect(
        self,
        images: Sequence[Tensor],
        *,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        """Finds objects; in evaluation mode and without gradients, whatever mode the model is in.

        Args:
            images: Tensors float[3, H, W], RGB 0–1, of any sizes and on any device; may be empty.
            score_threshold: Detections have a greater score; by default the model's.
            nms_threshold: Greatest IoU of two detections of one class; by default the model's.
            max_detections: Most detections per image; by default the model's.

        Returns:
            Detections of each image, best first, boxes in its own pixels, on the model's device.

        Raises:
            TypeError: An image is no float tensor.
            ValueError: An image is not 3 × H × W, or ``max_detections`` is negative.
        """
        if max_detections is not None and max_detections < 0:
            raise ValueError(f"max_detections must not be negative, got {max_detections}")
        if len(images) == 0:
            return []
        with evaluating(self), torch.no_grad():
            batch = self.batcher(images, device=self.device)
            features = self.backbone(batch.images)
            scored_anchors = self.rpn.predict(features)
            proposals = self.rpn.propose(scored_anchors, batch.sizes, batch.scales, training=False)
            roi_features = self.roi_heads.pool_proposals(features, proposals, batch.padded_size)
            logits, deltas = self.roi_heads.predict(roi_features)
            thresholds = (score_threshold, nms_threshold, max_detections)
            return self._detections(logits, deltas, proposals, batch, *thresholds)

    def losses(
        self, images: Sequence[Tensor], targets: Sequence[Target], generator: torch.Generator | None = None
    ) -> Losses:
        """The four losses of a batch, means over its samples.

        Args:
            images: Tensors float[3, H, W], RGB 0–1.
            targets: Per image ``boxes`` float[M, 4] in its pixels and ``labels`` int64[M] in 1…C; M may be 0.
            generator: Of the sampling, on the CPU; by default the model's own.

        Returns:
            Scalars ``loss_objectness``, ``loss_rpn_box_reg``, ``loss_classifier``, ``loss_box_reg``.

        Raises:
            TypeError, ValueError: Unusable images or targets; the message says which image and what is wrong.
        """
        check_targets(images, targets, self.num_classes)
        generator = self.generator if generator is None else generator
        batch = self.batcher(images, targets, self.device)
        features = self.backbone(batch.images)
        scored_anchors = self.rpn.predict(features)
        objectness, rpn_box_reg = self._rpn_losses(scored_anchors, batch, generator)
        proposals = self.rpn.propose(scored_anchors, batch.sizes, batch.scales, training=True)
        samples = self._sample_proposals(proposals, batch, generator)
        roi_features = self.roi_heads.pool(features, samples.boxes, samples.indices, batch.padded_size)
        logits, deltas = self.roi_heads.predict(roi_features)
        classifier, box_reg = self.roi_loss(logits, deltas, samples.labels, samples.deltas)
        return {
            "loss_objectness": objectness,
            "loss_rpn_box_reg": rpn_box_reg,
            "loss_classifier": classifier,
            "loss_box_reg": box_reg,
        }

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Losses | list[Detections]:
        """Losses in training mode, detections otherwise; see :meth:`losses` and :meth:`detect`.

        Raises:
            ValueError: Training mode without targets.
        """
        if not self.training:
            return self.detect(images)
        if targets is None:
            raise ValueError("in training mode targets are needed; for detections call detect() or eval() first")
        return self.losses(images, targets)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def freeze_bn(self) -> None:
        """Puts every BatchNorm in evaluation mode, until the next call of ``train()``."""
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def _rpn_losses(self, output: RPNOutput, batch: ImageBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels, deltas = zip(
            *(
                self.anchor_targets(output.anchors, target["boxes"], size, generator)
                for target, size in zip(batch.targets, batch.sizes, strict=True)
            ),
            strict=True,
        )
        logits = output.logits.flatten(0, 1)
        return self.rpn_loss(logits, output.deltas.flatten(0, 1), torch.cat(labels), torch.cat(deltas))

    def _sample_proposals(self, proposals: Proposals, batch: ImageBatch, generator: torch.Generator) -> RoISamples:
        boxes, labels, deltas = zip(
            *(
                self.proposal_targets(image_boxes[:count], target["boxes"], target["labels"], generator)
                for image_boxes, count, target in zip(
                    proposals.boxes, proposals.count.tolist(), batch.targets, strict=True
                )
            ),
            strict=True,
        )
        counts = torch.tensor([len(image_boxes) for image_boxes in boxes])
        indices = torch.arange(len(boxes)).repeat_interleave(counts).to(proposals.boxes.device)
        return RoISamples(torch.cat(boxes), indices, torch.cat(labels), torch.cat(deltas))

    def _detections(
        self, logits: Tensor, deltas: Tensor, proposals: Proposals, batch: ImageBatch, *thresholds: float | None
    ) -> list[Detections]:
        slots = proposals.scores.shape[1]
        score_threshold, nms_threshold, max_detections = thresholds
        detections = []
        for index, (logit, delta) in enumerate(zip(logits.split(slots), deltas.split(slots), strict=True)):
            found = self.detection_layer(
                logit,
                delta,
                proposals.boxes[index],
                proposals.valid()[index],
                batch.sizes[index],
                score_threshold=score_threshold,
                nms_threshold=nms_threshold,
                max_detections=max_detections,
            )
            found.boxes = boxes_to_original(found.boxes, batch, index)
            detections.append(found)
        return detections


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
        seed: int = 0,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in NOT_SAVED}
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
        if feat_stride != self.extractor.stride:
            raise ValueError(f"feat_stride is {feat_stride}, but the backbone's stride is {self.extractor.stride}")
        self.rpn = RegionProposalNetwork(
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
        self.head = RoIHeads(stage, pooler, num_classes)
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
            * rpn: ``(rpn_locs, rpn_scores, rois, roi_indices, anchor)``, see :class:`RegionProposalNetwork`;
            * head: ``(roi_cls_locs, roi_scores)``, see :class:`RoIHeads`.

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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every module has its own mode back, frozen batch norms included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
