"""What the two stages should have said: labels and offsets of a sample of anchors and of proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.training.matching import IGNORED, NEGATIVE, Matcher
from fasterrcnn.training.sampling import Sampler
from fasterrcnn.types import Size, Target


@dataclass(frozen=True)
class AnchorTargets:
    """Targets of the RPN (Faster R-CNN paper, section 3.1.2 and 3.1.3); the defaults are the classic family's.

    Attributes:
        matcher: Which anchors are positive.
        sampler: How many of them count.
        coder: How offsets describe boxes.
        border: What becomes of anchors that cross the border of the image: "keep" (they are like any other), "ignore"
            (they are matched, then left out) or "exclude" (they are not even matched, so that each ground truth gets
            the best of the anchors inside).
    """

    matcher: Matcher = field(default_factory=lambda: Matcher(0.7, 0.3, best_of_each=True))
    sampler: Sampler = field(default_factory=lambda: Sampler(256, 0.5))
    coder: BoxCoder = field(default_factory=BoxCoder)
    border: str = "keep"

    def __post_init__(self) -> None:
        if self.border not in ("keep", "ignore", "exclude"):
            raise ValueError(f"border must be 'keep', 'ignore' or 'exclude', got {self.border!r}")

    def __call__(
        self, anchors: Tensor, boxes: Tensor, image_size: Size, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Targets of one image.

        Args:
            anchors: float[N, 4] in pixels.
            boxes: Ground truth, float[M, 4] in pixels; M may be 0.
            image_size: (height, width) in pixels.
            generator: Of the sampling.

        Returns:
            Labels int64[N]: 1 object, 0 background, -1 does not count; and offsets float[N, 4], 0 where the label
            is not 1.
        """
        matches = self.match(anchors, boxes, image_size)
        labels = self.sample(labels_of(matches), generator)
        return labels, self.encode(anchors, boxes, labels, matches)

    def match(self, anchors: Tensor, boxes: Tensor, image_size: Size) -> Tensor:
        """The ground truth of each anchor as an index int64[N], -1 for background, -2 for what is ignored."""
        if self.border == "keep":
            return self.matcher(anchors, boxes)
        inside = anchors_inside(anchors, image_size, inclusive=self.coder.inclusive)
        if self.border == "exclude":
            anchors = torch.where(inside[:, None], anchors, torch.nan)  # a box of NaN overlaps nothing
        return torch.where(inside, self.matcher(anchors, boxes), IGNORED)

    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Of the labels 1, 0 and -1 [N] those that were drawn; the others become -1."""
        positives, negatives = self.sampler(labels == 1, labels == 0, generator)
        sampled = torch.full_like(labels, -1)
        sampled[negatives] = 0
        sampled[positives] = 1
        return sampled

    def encode(self, anchors: Tensor, boxes: Tensor, labels: Tensor, matches: Tensor) -> Tensor:
        """Offsets float[N, 4] from the anchors of label 1 to their ground truths, 0 elsewhere."""
        return encode_positives(self.coder, anchors, boxes, labels, matches)


def labels_of(matches: Tensor) -> Tensor:
    """Matches int64[N] as labels: 1 for an index of a ground truth, 0 for background, -1 for what is ignored."""
    return torch.where(matches >= 0, 1, torch.where(matches == NEGATIVE, 0, -1))


def encode_positives(coder: BoxCoder, references: Tensor, boxes: Tensor, labels: Tensor, matches: Tensor) -> Tensor:
    """Offsets float[N, 4] from the references of positive label to the boxes they stand for, 0 for the others."""
    positives = (labels > 0).nonzero()[:, 0]
    deltas = torch.zeros_like(references)
    deltas[positives] = coder.encode(boxes[matches[positives]], references[positives])
    return deltas


def anchors_inside(anchors: Tensor, image_size: Size, *, inclusive: bool = False) -> Tensor:
    """bool[N]: which anchors [N, 4] do not cross the border of an image (height, width).

    Inclusive boxes contain their last pixel: x2 is at most width − 1.
    """
    height, width = image_size
    right, bottom = width - inclusive, height - inclusive
    return (anchors[:, :2] >= 0).all(dim=1) & (anchors[:, 2] <= right) & (anchors[:, 3] <= bottom)


@dataclass
class RoISamples:
    """The proposals of a batch that the second stage learns from, S in all.

    Attributes:
        boxes: float[S, 4] in pixels of the batch.
        indices: int64[S], the image of each.
        labels: int64[S], 0 background or 1…C.
        deltas: float[S, 4], offsets to the matched ground truth; 0 for background.
    """

    boxes: Tensor
    indices: Tensor
    labels: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class ProposalTargets:
    """Targets of the second stage (Fast R-CNN paper, section 2.3); the defaults are the classic family's.

    Attributes:
        matcher: Which proposals are positive.
        sampler: How many of them count.
        coder: How offsets describe boxes.
        add_ground_truth: Ground-truth boxes join the proposals, so that there are positives from the first step on.
    """

    matcher: Matcher = field(default_factory=lambda: Matcher(0.5, 0.5))
    sampler: Sampler = field(default_factory=lambda: Sampler(128, 0.5))
    coder: BoxCoder = field(default_factory=lambda: BoxCoder((10.0, 10.0, 5.0, 5.0)))
    add_ground_truth: bool = True

    def __call__(
        self, proposals: Tensor, boxes: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Targets of one image.

        Args:
            proposals: float[K, 4] in pixels.
            boxes: Ground truth, float[M, 4] in pixels; M may be 0.
            labels: int64[M] in 1…C.
            generator: Of the sampling.

        Returns:
            Sampled boxes float[S, 4], positives first; labels int64[S]; offsets float[S, 4].
        """
        if self.add_ground_truth:
            proposals = torch.cat([proposals, boxes.to(proposals.dtype)])
        proposal_labels, matches = self.match(proposals, boxes, labels)
        index = self.sample(proposal_labels, generator)
        sampled, sampled_labels = proposals[index], proposal_labels[index]
        return sampled, sampled_labels, self.encode(sampled, boxes, sampled_labels, matches[index])

    def match(self, proposals: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Label int64[K] of each proposal (1…C, 0 background, -1 ignored) and index int64[K] of its ground truth."""
        matches = self.matcher(proposals, boxes)
        proposal_labels = labels_of(matches)
        positive = matches >= 0
        proposal_labels[positive] = labels[matches[positive]]
        return proposal_labels, matches

    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Indices int64[S] of the proposals drawn, by their labels [K]: positives first, each part ascending."""
        return torch.cat(self.sampler(labels > 0, labels == 0, generator))

    def encode(self, proposals: Tensor, boxes: Tensor, labels: Tensor, matches: Tensor) -> Tensor:
        """Offsets float[S, 4] from the proposals of positive label to their ground truths, 0 for background."""
        return encode_positives(self.coder, proposals, boxes, labels, matches)


def check_targets(images: Sequence[Tensor], targets: Sequence[Target], num_classes: int) -> None:
    """Raises TypeError or ValueError naming the image whose target cannot be learned from, and why.

    Args:
        images: The images the targets belong to.
        targets: Per image ``boxes`` float[M, 4] and ``labels`` int64[M].
        num_classes: C.
    """
    if len(targets) != len(images):
        raise ValueError(f"expected one target per image, got {len(targets)} targets for {len(images)} images")
    for index, target in enumerate(targets):
        if not isinstance(target, dict) or not {"boxes", "labels"} <= target.keys():
            found = sorted(target) if isinstance(target, dict) else type(target).__name__
            raise TypeError(f"target {index} must be a dict with boxes and labels, got {found}")
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise ValueError(
                f"target {index} must have boxes [M, 4] and labels [M], "
                f"got {list(boxes.shape)} and {list(labels.shape)}"
            )
        if labels.dtype != torch.int64:
            raise TypeError(f"labels of target {index} must be int64, got {labels.dtype}")
        if len(boxes) == 0:
            continue
        if not boxes.isfinite().all() or (boxes[:, 2:] <= boxes[:, :2]).any():
            bad = (~boxes.isfinite().all(dim=1) | (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)).nonzero()[0, 0]
            raise ValueError(
                f"box {int(bad)} of target {index} must be finite with x1 < x2 and y1 < y2, got {boxes[bad].tolist()}"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 1 or high > num_classes:
            raise ValueError(f"labels of target {index} must be in 1…{num_classes}, got {low}…{high}")
