"""What the two stages should have said: labels and offsets of a sample of anchors and of proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.training.matching import IGNORED, NEGATIVE, Matcher
from fasterrcnn.training.sampling import ANCHORS, PROPOSALS, Sampler
from fasterrcnn.types import Proposals, Size, Target


@dataclass(frozen=True)
class AnchorTargets:
    """Targets of the RPN (Faster R-CNN paper, section 3.1.2 and 3.1.3); the defaults are the classic family's.

    Every method takes one image or a batch of them, by its shapes; a batch gets what each image gets alone, sample for
    sample. Ground-truth boxes of NaN are none: they fill up a batch. Nothing is read back to the host.

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
        self, anchors: Tensor, boxes: Tensor, image_size: Size | Tensor, seeds: Tensor | int
    ) -> tuple[Tensor, Tensor]:
        """Targets.

        Args:
            anchors: float[N, 4] in pixels, the same for every image.
            boxes: Ground truth, float[M, 4] or [B, M, 4] in pixels; M may be 0.
            image_size: (height, width) in pixels, of a batch [B, 2].
            seeds: Of the sampling, a number or int64[B].

        Returns:
            Labels int64[N] or [B, N]: 1 object, 0 background, -1 does not count; and offsets float[N, 4] or [B, N, 4],
            0 where the label is not 1.
        """
        matches = self.match(anchors, boxes, image_size)
        labels = self.sample(labels_of(matches), seeds)
        return labels, self.encode(anchors, boxes, labels, matches)

    def match(self, anchors: Tensor, boxes: Tensor, image_size: Size | Tensor) -> Tensor:
        """The ground truth of each anchor as an index int64[N] or [B, N], -1 for background, -2 for what is ignored."""
        if self.border == "keep":
            return self.matcher(anchors, boxes)
        inside = anchors_inside(anchors, image_size, inclusive=self.coder.inclusive)
        if self.border == "exclude":
            anchors = torch.where(inside[..., None], anchors, torch.nan)  # a box of NaN overlaps nothing
        return torch.where(inside, self.matcher(anchors, boxes), IGNORED)

    def sample(self, labels: Tensor, seeds: Tensor | int) -> Tensor:
        """Of the labels 1, 0 and -1 [N] or [B, N] those that were drawn; the others become -1."""
        positives, negatives = self.sampler(labels == 1, labels == 0, seeds, stage=ANCHORS)
        return torch.where(positives | negatives, labels, -1)

    def encode(self, anchors: Tensor, boxes: Tensor, labels: Tensor, matches: Tensor) -> Tensor:
        """Offsets float[N, 4] or [B, N, 4] from anchors of label 1 to their ground truths, 0 elsewhere."""
        return encode_positives(self.coder, anchors, boxes, labels, matches)


def labels_of(matches: Tensor) -> Tensor:
    """Matches int64 as labels: 1 for an index of a ground truth, 0 for background, -1 for what is ignored."""
    return torch.where(matches >= 0, 1, torch.where(matches == NEGATIVE, 0, -1))


def encode_positives(coder: BoxCoder, references: Tensor, boxes: Tensor, labels: Tensor, matches: Tensor) -> Tensor:
    """Offsets from the references of positive label to the boxes they stand for, 0 for the others.

    Args:
        coder: How offsets describe boxes.
        references: float[N, 4], or [B, N, 4].
        boxes: float[M, 4] or [B, M, 4].
        labels, matches: int64[N] or [B, N].

    Returns:
        float[N, 4] or [B, N, 4].
    """
    references = references.expand(*labels.shape, 4)
    if boxes.shape[-2] == 0:
        return torch.zeros_like(references)
    matched = take_rows(boxes, matches.clamp(min=0)).to(references.dtype)
    deltas = coder.encode(matched.reshape(-1, 4), references.reshape(-1, 4)).view(matched.shape)
    return torch.where((labels > 0)[..., None], deltas, 0.0)


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows [M, …] by numbers [N] → [N, …], and likewise image by image for [B, M, …] and [B, N]."""
    if index.ndim == 1:
        return rows[index]
    images = torch.arange(len(index), device=index.device)[:, None]
    return rows[images, index]


def anchors_inside(anchors: Tensor, image_size: Size | Tensor, *, inclusive: bool = False) -> Tensor:
    """bool[N]: which anchors [N, 4] do not cross the border of an image (height, width); bool[B, N] for sizes [B, 2].

    Inclusive boxes contain their last pixel: x2 is at most width − 1.
    """
    height, width = image_size[..., None].unbind(-2) if isinstance(image_size, Tensor) else image_size
    right, bottom = width - int(inclusive), height - int(inclusive)
    return (anchors[:, :2] >= 0).all(dim=1) & (anchors[:, 2] <= right) & (anchors[:, 3] <= bottom)


@dataclass
class RoISamples:
    """The proposals of a batch that the second stage learns from, S slots for each image.

    Attributes:
        boxes: float[B, S, 4] in pixels of the batch; positives first. Unused slots, the last ones, repeat the boxes of
            used ones, in turn: BatchNorm in a RoI head sees boxes that are samples, and no made-up ones.
        labels: int64[B, S], 0 background or 1…C; -1 for unused slots.
        deltas: float[B, S, 4], offsets to the matched ground truth; 0 for background and unused slots.
    """

    boxes: Tensor
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
        self, proposals: Tensor, boxes: Tensor, labels: Tensor, seed: Tensor | int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Targets of one image, of which all proposals count and all ground truths are some.

        Args:
            proposals: float[K, 4] in pixels.
            boxes: Ground truth, float[M, 4] in pixels; M may be 0.
            labels: int64[M] in 1…C.
            seed: Of the sampling.

        Returns:
            Sampled boxes float[S, 4], positives first; labels int64[S]; offsets float[S, 4].
        """
        if self.add_ground_truth:
            proposals = torch.cat([proposals, boxes.to(proposals.dtype)])
        proposal_labels, matches = self.match(proposals, boxes, labels)
        index = self.sample(proposal_labels, seed)
        sampled, sampled_labels = proposals[index], proposal_labels[index]
        return sampled, sampled_labels, self.encode(sampled, boxes, sampled_labels, matches[index])

    def padded(self, proposals: Proposals, boxes: Tensor, labels: Tensor, seeds: Tensor) -> RoISamples:
        """Targets of a batch, without reading anything back to the host; each image gets what it gets alone.

        Args:
            proposals: K slots per image.
            boxes: Ground truth, float[B, M, 4] in pixels, NaN where there is none; M may be 0.
            labels: int64[B, M] in 1…C, 0 where there is none.
            seeds: Of the sampling, int64[B].

        Returns:
            S slots for each image: as many as the sampler draws, or K + M (without ground truth K) if that is less.
        """
        candidates, exists = proposals.boxes, proposals.valid()
        # The number of a candidate is its place among the proposals and ground truths that exist.
        number = torch.arange(candidates.shape[1], device=exists.device).expand_as(exists)
        if self.add_ground_truth:
            given = labels > 0
            candidates = torch.cat([candidates, torch.where(given[..., None], boxes, 0.0).to(candidates.dtype)], dim=1)
            exists = torch.cat([exists, given], dim=1)
            number = torch.cat([number, proposals.count[:, None] + given.cumsum(dim=1) - 1], dim=1)
        candidate_labels, matches = self.match(candidates, boxes, labels)
        candidate_labels = torch.where(exists, candidate_labels, -1)
        drawn = self.sampler(
            candidate_labels > 0, candidate_labels == 0, seeds, stage=PROPOSALS, index=number.clamp(min=0)
        )
        index, used = _places(*drawn, self.sampler.num_samples)
        boxes_of_slots, matches = take_rows(candidates, index), take_rows(matches, index)
        slot_labels = torch.where(used, take_rows(candidate_labels, index), -1)
        return RoISamples(boxes_of_slots, slot_labels, self.encode(boxes_of_slots, boxes, slot_labels, matches))

    def match(self, proposals: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (1…C, 0 background, -1 ignored) and indices of the ground truth of each proposal, both int64.

        Args:
            proposals: float[K, 4] or [B, K, 4].
            boxes: Ground truth, float[M, 4] or [B, M, 4].
            labels: int64[M] or [B, M].

        Returns:
            [K] or [B, K] both.
        """
        matches = self.matcher(proposals, boxes)
        proposal_labels = labels_of(matches)
        if labels.shape[-1] > 0:
            proposal_labels = torch.where(matches >= 0, take_rows(labels, matches.clamp(min=0)), proposal_labels)
        return proposal_labels, matches

    def sample(self, labels: Tensor, seed: Tensor | int) -> Tensor:
        """Indices int64[S] of the proposals of an image drawn, by labels [K]: positives first, each part ascending."""
        positives, negatives = self.sampler(labels > 0, labels == 0, seed, stage=PROPOSALS)
        return torch.cat([positives.nonzero()[:, 0], negatives.nonzero()[:, 0]])

    def encode(self, proposals: Tensor, boxes: Tensor, labels: Tensor, matches: Tensor) -> Tensor:
        """Offsets from the proposals of positive label to their ground truths, 0 for others: see encode_positives."""
        return encode_positives(self.coder, proposals, boxes, labels, matches)


def _places(positives: Tensor, negatives: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Which candidate [B, K] is in which slot [B, S]: positives first, each part ascending; and which slots are used.

    Unused slots repeat the used ones in turn. Without any they have a candidate that was not drawn.
    """
    count = positives.shape[1]
    place = torch.arange(count, device=positives.device)
    order = torch.where(positives, place, torch.where(negatives, place + count, place + 2 * count))
    order = order.topk(min(slots, count), dim=1, largest=False).values  # ascending
    used = order < 2 * count
    slot = torch.arange(order.shape[1], device=order.device)
    turn = slot % used.sum(dim=1, keepdim=True).clamp(min=1)
    return order.gather(1, turn) % max(count, 1), used


def check_targets(images: Sequence[Tensor], targets: Sequence[Target], num_classes: int) -> None:
    """Raises TypeError or ValueError naming the image whose target cannot be learned from, and why.

    Values are looked at where that is free, on the CPU. Of targets on another device, which would have to be waited
    for, only the form is checked.

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
        if len(boxes) == 0 or boxes.device.type != "cpu" or labels.device.type != "cpu":
            continue
        if not boxes.isfinite().all() or (boxes[:, 2:] <= boxes[:, :2]).any():
            bad = (~boxes.isfinite().all(dim=1) | (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)).nonzero()[0, 0]
            raise ValueError(
                f"box {int(bad)} of target {index} must be finite with x1 < x2 and y1 < y2, got {boxes[bad].tolist()}"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 1 or high > num_classes:
            raise ValueError(f"labels of target {index} must be in 1…{num_classes}, got {low}…{high}")


def check_padded_targets(count: int, boxes: Tensor, labels: Tensor) -> None:
    """Raises ValueError unless boxes are [B, M, 4] and labels [B, M] for ``count`` images B; no value is read."""
    if boxes.ndim != 3 or boxes.shape[0] != count or boxes.shape[2] != 4:
        raise ValueError(f"boxes: expected shape [{count}, M, 4], got {list(boxes.shape)}")
    if labels.ndim != 2 or labels.shape[0] != count or labels.shape[1] != boxes.shape[1]:
        raise ValueError(
            f"labels: expected shape [{count}, {boxes.shape[1]}], as the boxes have, got {list(labels.shape)}"
        )


def pad_targets(targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
    """Targets of a batch as boxes float[B, M, 4] and labels int64[B, M]; rows that are none have label 0 and box 0."""
    boxes = pad_sequence([target["boxes"] for target in targets], batch_first=True)
    labels = pad_sequence([target["labels"] for target in targets], batch_first=True)
    return boxes, labels
