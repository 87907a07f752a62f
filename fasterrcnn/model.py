"""The detector: image → backbone → anchors and RPN → proposals → RoI features → head → detections.

What the systems share. :mod:`fasterrcnn.build` has them by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fasterrcnn.image_batch import ImageBatcher
from fasterrcnn.padded import check_batch, check_device, proposals_as_detections, unpadded
from fasterrcnn.roi import DetectionLayer, RoIHeads
from fasterrcnn.rpn import RegionProposalNetwork
from fasterrcnn.training.losses import StageLoss
from fasterrcnn.training.sampling import image_seeds
from fasterrcnn.training.targets import (
    AnchorTargets,
    ProposalTargets,
    check_padded_targets,
    check_targets,
    pad_targets,
)
from fasterrcnn.types import Detections, Losses, PaddedDetections, Target

if TYPE_CHECKING:
    from typing_extensions import Self


class TwoStageDetector(nn.Module):
    """The form all systems share; a system is a choice of these parts.

    A subclass provides ``backbone``, ``rpn`` and ``roi_heads`` (modules or properties; the last may be None: then the
    proposals are the detections, all of label 1) and sets the attributes below.

    Attributes:
        trunk: The backbone itself, where ``backbone`` wraps it.
        backbone_prefix, stage_prefix: Names of the trunk and of the RoI stage in the state dict; "" without a stage.
        batcher: Input rules.
        detection_layer: Output rules.
        anchor_targets, proposal_targets: What each stage learns from.
        rpn_loss, roi_loss: How each stage's errors count.
        num_classes: C, background not counted.
        generator: Source of the seeds of all sampling in training, on the CPU.
        system, backbone_name, arguments: What ``build`` needs to make the detector again; kept in checkpoints.
        class_names: Name of each class, index 0 for label 1; kept in checkpoints.
    """

    backbone: nn.Module
    rpn: RegionProposalNetwork
    roi_heads: RoIHeads | None
    trunk: nn.Module
    backbone_prefix: str
    stage_prefix: str
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
    channels_last = False

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
        if len(images) == 0:
            return []
        with evaluating(self), torch.no_grad():
            batch = self.batcher.collate(images, device=self.device)
            found = self.forward_padded(
                batch.images,
                batch.image_sizes(),
                batch.image_scales(),
                score_threshold=score_threshold,
                nms_threshold=nms_threshold,
                max_detections=max_detections,
            )
            return unpadded(found, batch)

    def forward_padded(
        self,
        images: Tensor,
        image_sizes: Tensor,
        scales: Tensor | None = None,
        *,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> PaddedDetections:
        """From images to detections without reading anything back to the host; what compiles, exports and is captured.

        :meth:`detect` is this, with images resized and padded before and one read-back after. Shapes depend on shapes
        alone, nothing is copied from the host, and an image's detections do not depend on what else is in the batch.

        Args:
            images: float[B, 3, H, W], RGB 0–1, of the size the model works at (see ``batcher``), padded at the right
                and the bottom with anything; H and W ≥ 32.
            image_sizes: [B, 2] (height, width) of the part of each image that is not padding, integers or floats, on
                the device of the images.
            scales: [B], the factor each image was resized by; None is 1. Only a rule in pixels of the original image
                needs it: the classic family's smallest side of a proposal.
            score_threshold, nms_threshold, max_detections: As for :meth:`detect`.

        Returns:
            Detections in fixed capacity, boxes in pixels of ``images``: ``max_detections`` slots per image, or as many
            as there are proposals where the model has no RoI heads. Never requires grad.

        Raises:
            TypeError: The images are no floats, or an argument is no tensor.
            ValueError: The model is in training mode, a tensor has another shape or is elsewhere than the images, or
                ``max_detections`` is negative.

        Example:
            >>> compiled = torch.compile(model.eval().forward_padded, fullgraph=True, dynamic=True)
            >>> boxes, labels, scores, count = compiled(images, image_sizes)
        """
        if self.training:
            raise ValueError("forward_padded needs evaluation mode: call eval() first")
        if max_detections is not None and max_detections < 0:
            raise ValueError(f"max_detections must not be negative, got {max_detections}")
        check_batch(images, image_sizes, scales=scales)
        check_device(images.device, image_sizes=image_sizes, scales=scales)
        options = {
            "score_threshold": score_threshold,
            "nms_threshold": nms_threshold,
            "max_detections": max_detections,
        }
        features = self.features(self.batcher.normalize(images, image_sizes))
        proposals = self.rpn.propose(self.rpn.predict(features), image_sizes, scales, training=False)
        if self.roi_heads is None:
            return proposals_as_detections(proposals, **options)
        roi_features = self.roi_heads.pool_proposals(features, proposals, images.shape[2:])
        logits, deltas = self.roi_heads.predict(roi_features)
        return self.detection_layer.batched(logits, deltas, proposals, image_sizes, **options)

    def losses(
        self, images: Sequence[Tensor], targets: Sequence[Target], generator: torch.Generator | None = None
    ) -> Losses:
        """The four losses of a batch, means over its samples: checks and batches, then :meth:`losses_padded`.

        Args:
            images: Tensors float[3, H, W], RGB 0–1.
            targets: Per image ``boxes`` float[M, 4] in its pixels and ``labels`` int64[M] in 1…C; M may be 0. On the
                CPU their values are checked; on another device only their form is, so that nothing waits for it.
            generator: Gives each image the seed of its sampling, on the CPU; by default the model's own.

        Returns:
            Scalars ``loss_objectness``, ``loss_rpn_box_reg``, ``loss_classifier``, ``loss_box_reg``; without RoI heads
            the first two.

        Raises:
            TypeError, ValueError: Unusable images or targets; the message says which image and what is wrong.
        """
        check_targets(images, targets, self.num_classes)
        seeds = image_seeds(len(images), self.generator if generator is None else generator)
        batch = self.batcher.collate(images, targets, self.device)
        boxes, labels = pad_targets(batch.targets)
        seeds = seeds.to(self.device, non_blocking=True)
        return self.losses_padded(batch.images, batch.image_sizes(), boxes, labels, seeds, batch.image_scales())

    def losses_padded(
        self,
        images: Tensor,
        image_sizes: Tensor,
        boxes: Tensor,
        labels: Tensor,
        seeds: Tensor,
        scales: Tensor | None = None,
    ) -> Losses:
        """The four losses of a batch of fixed shapes; nothing is read back to the host, and no shape depends on values.

        So ``torch.compile(model.losses_padded, fullgraph=True)`` compiles, and a CUDA stream never waits. Everything is
        on the model's device.

        Args:
            images: float[B, 3, H, W], RGB 0–1, at the size the model works at, padded at the right and the bottom with
                anything.
            image_sizes: (height, width) of each image's part that is no padding, [B, 2].
            boxes: Ground truth, float[B, M, 4] in pixels of ``images``; M may be 0.
            labels: int64[B, M] in 1…C, or 0 for rows that are none, whatever their boxes. Not checked.
            seeds: Of each image's sampling, int64[B], any numbers. Samples are drawn by a hash of the seed and the
                number of the anchor or proposal (:mod:`fasterrcnn.training.sampling`): the same on every device, and
                whatever else is in the batch.
            scales: Factor by which each image was resized, float[B], for systems whose smallest proposal depends on it;
                by default 1.

        Returns:
            As :meth:`losses`.

        Raises:
            TypeError: The images are no floats, or an argument is no tensor.
            ValueError: A tensor has another shape, or is elsewhere than the images.
        """
        check_batch(images, image_sizes, seeds=seeds, scales=scales)
        check_padded_targets(len(images), boxes, labels)
        everything = {"image_sizes": image_sizes, "boxes": boxes, "labels": labels, "seeds": seeds, "scales": scales}
        check_device(images.device, **everything)
        features = self.features(self.batcher.normalize(images, image_sizes))
        scored_anchors = self.rpn.predict(features)
        boxes = boxes.float().masked_fill((labels <= 0)[..., None], torch.nan)  # a box of NaN overlaps nothing
        anchor_targets = self.anchor_targets(scored_anchors.anchors, boxes, image_sizes, seeds)
        every_anchor = (scored_anchors.logits, scored_anchors.deltas, *anchor_targets)
        objectness, rpn_box_reg = self.rpn_loss(*(values.flatten(0, 1) for values in every_anchor))
        losses = {"loss_objectness": objectness, "loss_rpn_box_reg": rpn_box_reg}
        if self.roi_heads is None:
            return losses
        proposals = self.rpn.propose(scored_anchors, image_sizes, scales, training=True)
        samples = self.proposal_targets.padded(proposals, boxes, labels, seeds)
        roi_features = self.roi_heads.pool_slots(features, samples.boxes, images.shape[2:])
        logits, deltas = self.roi_heads.predict(roi_features)
        classifier, box_reg = self.roi_loss(logits, deltas, samples.labels.flatten(), samples.deltas.flatten(0, 1))
        return {**losses, "loss_classifier": classifier, "loss_box_reg": box_reg}

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

    def features(self, images: Tensor) -> Tensor:
        """The backbone's features of a batch [B, 3, H, W], in the number format and memory order of its parameters."""
        dtype = next(self.trunk.parameters(), images).dtype
        order = torch.channels_last if self.channels_last else torch.preserve_format
        return self.backbone(images.to(dtype, memory_format=order))

    def optimize_for_inference(self, dtype: torch.dtype = torch.float32, *, channels_last: bool = True) -> Self:
        """A copy that detects the same, faster; it cannot be trained.

        BatchNorm is folded into the convolutions and features are stored channels last (either alone gains little).
        Anchors, decoding, scores and NMS stay in float32 whatever the number format of the features.

        Args:
            dtype: Of parameters and features: float32, bfloat16 or float16. bfloat16 pays on processors and cards with
                instructions for it, and moves boxes by fractions of a pixel.
            channels_last: False keeps features channel by channel.

        Raises:
            ValueError: Another dtype.

        Example:
            >>> fast = model.optimize_for_inference(dtype=torch.bfloat16)
            >>> detections = fast.detect(images)
        """
        from fasterrcnn.inference import optimized

        return optimized(self, dtype, channels_last=channels_last)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def freeze_bn(self) -> None:
        """Puts every BatchNorm in evaluation mode, until the next call of ``train()``."""
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def saved_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of a constructor's ``locals()`` those that checkpoints keep: neither modules nor where weights came from."""
    not_saved = {"self", "__class__", "num_classes", "backbone", "pretrained", "weights"}
    return {name: value for name, value in arguments.items() if name not in not_saved}


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
