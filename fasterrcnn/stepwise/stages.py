"""The stages of the step-by-step system, one function each, in the order in which an image passes through them.

The numbers of the system are the defaults; what is learned comes from the model, a
:class:`~fasterrcnn.stepwise.StepwiseRCNN`. One image at a time. Called one after another, with the seed that
``losses()`` draws for the image, the functions give what its ``losses()`` and ``detect()`` give, to the rounding
of floats; docs/stepwise.md walks through them.

Shapes are those of one 800 × 800 image through VGG-16: H·W = 50 × 50 locations with A = 9 anchors each make N = 22,500
anchors. M ground-truth boxes of C classes, K proposals of which S are sampled, D detections. Boxes are (x1, y1, x2, y2)
in pixels of the resized image.

Sources: "RPN" is Ren et al., Faster R-CNN; "Fast" is Girshick, Fast R-CNN; sections in each docstring.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.image_batch import ImageBatcher, boxes_to_original
from fasterrcnn.roi import DetectionLayer, RoIPooler
from fasterrcnn.rpn import AnchorGrid, log_odds
from fasterrcnn.stepwise.model import StepwiseRCNN
from fasterrcnn.training.losses import StageLoss
from fasterrcnn.training.matching import Matcher
from fasterrcnn.training.sampling import Sampler
from fasterrcnn.training.targets import AnchorTargets, ProposalTargets, anchors_inside, labels_of
from fasterrcnn.types import Detections, ImageBatch, Size, Target
from fasterrcnn_ops import nms, remove_small_boxes

__all__ = [
    "anchors_inside",
    "classify_rois",
    "decode_proposals",
    "drop_small",
    "encode_anchors",
    "encode_rois",
    "extract_features",
    "keep_best",
    "label_anchors",
    "label_proposals",
    "make_anchors",
    "make_detections",
    "pool_rois",
    "prepare_image",
    "roi_loss",
    "rpn_loss",
    "sample_anchors",
    "sample_proposals",
    "score_anchors",
    "suppress",
    "to_original",
]


def prepare_image(
    image: Tensor,
    target: Target | None = None,
    *,
    size: Size = (800, 800),
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
) -> ImageBatch:
    """Resizes an image, and its boxes with it, to a square; nothing keeps its proportions.

    Args:
        image: float[3, h, w], RGB 0–1.
        target: ``boxes`` float[M, 4] in pixels of the image and ``labels`` int64[M] in 1…C.
        size: (height, width) wanted, in pixels.
        mean: Subtracted per channel; the system subtracts nothing.
        std: Divided by per channel.

    Returns:
        A batch of one: ``images`` float[1, 3, 800, 800], and ``targets[0]`` with boxes that fit it.
    """
    batcher = ImageBatcher(None, None, tuple(mean), tuple(std), fixed_size=size)
    return batcher([image], None if target is None else [target])


def extract_features(model: StepwiseRCNN, images: Tensor) -> Tensor:
    """Features float[1, 512, 50, 50] of images float[1, 3, 800, 800]: 30 layers of VGG-16 (RPN, section 3.1)."""
    return model.backbone(images)


def make_anchors(
    feature_size: Size,
    *,
    stride: int = 16,
    sizes: Sequence[float] = (128, 256, 512),
    ratios: Sequence[float] = (0.5, 1, 2),
) -> Tensor:
    """The anchors of a feature map (RPN, section 3.1.1).

    Args:
        feature_size: (H, W) in locations.
        stride: Pixels per location; anchors lie around a location's middle, 8, 24, … pixels.
        sizes: In pixels: an anchor covers size² pixels, size/√ratio wide and size·√ratio high.
        ratios: Height / width.

    Returns:
        float[22500, 4]: anchor a of location (y, x) is row (y·W + x)·A + a; ratios outside, sizes inside.
    """
    return AnchorGrid(sizes, ratios, stride, rule="stepwise", offset=stride / 2)(feature_size)


def label_anchors(
    anchors: Tensor, boxes: Tensor, image_size: Size, *, positive_iou: float = 0.7, negative_iou: float = 0.3
) -> tuple[Tensor, Tensor]:
    """What each anchor should say (RPN, section 3.1.2); anchors that cross the border have no say.

    Args:
        anchors: float[N, 4].
        boxes: Ground truth, float[M, 4].
        image_size: (height, width) in pixels.
        positive_iou: An anchor with a best IoU of at least this is positive; so are each ground truth's best anchors,
            among those inside, however low their IoU.
        negative_iou: An anchor with a best IoU below this is negative, unless it is some ground truth's best.

    Returns:
        Labels int64[N]: 1 object, 0 background, -1 neither (in between, or across the border); and matches int64[N],
        the ground truth that each anchor of label 1 stands for, negative elsewhere.
    """
    matcher = Matcher(positive_iou, negative_iou, best_of_each=True)
    matches = AnchorTargets(matcher, border="exclude").match(anchors, boxes, image_size)
    return labels_of(matches), matches


def sample_anchors(labels: Tensor, seed: Tensor | int, *, count: int = 256) -> Tensor:
    """Draws the anchors that count in this step (RPN, section 3.1.3).

    Args:
        labels: int64[N] of :func:`label_anchors`.
        seed: Of the image; :func:`fasterrcnn.training.image_seeds` draws one.
        count: How many in all, at most half of them positive; negatives fill up the rest.

    Returns:
        int64[N]: labels of which all but ``count`` have become -1.
    """
    return AnchorTargets(sampler=Sampler(count, 0.5)).sample(labels, seed)


def encode_anchors(anchors: Tensor, boxes: Tensor, labels: Tensor, matches: Tensor) -> Tensor:
    """Offsets (dx, dy, dw, dh) from each positive anchor to its ground truth (RPN, equation 2).

    Args:
        anchors: float[N, 4].
        boxes: Ground truth, float[M, 4].
        labels: int64[N]; only where it is 1 there is something to encode.
        matches: int64[N] of :func:`label_anchors`.

    Returns:
        float[N, 4], dimensionless, 0 where the label is not 1.
    """
    return AnchorTargets().encode(anchors, boxes, labels, matches)


def score_anchors(model: StepwiseRCNN, features: Tensor) -> tuple[Tensor, Tensor]:
    """What the RPN says about each anchor (RPN, section 3.1): two numbers for its class, four for its box.

    Two 3 × 3 convolutions, one before the scores and one before the offsets, and none of them with an activation.

    Args:
        model: Has the layers.
        features: float[1, 512, 50, 50].

    Returns:
        Logits float[22500, 2] (background, object) and offsets float[22500, 4], in the order of the anchors.
    """
    output = model.rpn.predict(features)
    return output.logits[0], output.deltas[0]


def rpn_loss(
    logits: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor, *, box_weight: float = 10.0
) -> tuple[Tensor, Tensor]:
    """How wrong the RPN is (RPN, equation 1).

    Args:
        logits: float[N, 2].
        deltas: float[N, 4].
        labels: int64[N] of :func:`sample_anchors`; -1 is left out.
        targets: float[N, 4] of :func:`encode_anchors`.
        box_weight: λ.

    Returns:
        Cross entropy, mean over the 256 sampled; and λ · smooth L1 (β = 1), summed over the four offsets and averaged
        over the positives. The paper divides the second by the number of locations instead, which with its λ = 10 comes
        to about the same weight as the first.
    """
    return StageLoss(box_weight=box_weight, normalizer="positives")(logits, deltas, labels, targets)


def decode_proposals(anchors: Tensor, logits: Tensor, deltas: Tensor, image_size: Size) -> tuple[Tensor, Tensor]:
    """Every anchor moved by its offsets and clipped to the image (RPN, equation 2, and section 3.3).

    Args:
        anchors: float[N, 4].
        logits: float[N, 2].
        deltas: float[N, 4].
        image_size: (height, width) in pixels.

    Returns:
        Boxes float[N, 4] and scores float[N], the log-odds of being an object: their sigmoid is the probability, which
        as a float cannot tell apart so many. No gradient flows through them (RPN, section 3.2, approximate joint
        training).
    """
    return BoxCoder().decode(deltas.detach().float(), anchors, image_size), log_odds(logits.detach())


def drop_small(boxes: Tensor, scores: Tensor, *, min_size: float = 16.0) -> tuple[Tensor, Tensor]:
    """Boxes [n, 4] and scores [n] of those whose sides are both at least ``min_size`` pixels: one location."""
    large = remove_small_boxes(boxes, min_size)
    return boxes[large], scores[large]


def keep_best(boxes: Tensor, scores: Tensor, *, count: int = 12000) -> tuple[Tensor, Tensor]:
    """The ``count`` best boxes [n, 4] and their scores [n], best first; equal scores keep their order."""
    scores, order = scores.sort(descending=True, stable=True)
    return boxes[order[:count]], scores[:count]


def suppress(boxes: Tensor, scores: Tensor, *, threshold: float = 0.7, count: int = 2000) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression (RPN, section 3.3).

    Args:
        boxes: float[n, 4].
        scores: float[n].
        threshold: A box whose IoU with a better one is greater is dropped.
        count: At most so many are kept.

    Returns:
        Boxes float[K, 4] and scores float[K], best first, K ≤ 2000: the proposals.
    """
    keep = nms(boxes, scores, threshold)[:count]
    return boxes[keep], scores[keep]


def label_proposals(
    proposals: Tensor, boxes: Tensor, labels: Tensor, *, positive_iou: float = 0.7
) -> tuple[Tensor, Tensor]:
    """What the head should say about each proposal (Fast, section 2.3, which draws the line at 0.5).

    Args:
        proposals: float[K, 4].
        boxes: Ground truth, float[M, 4].
        labels: Of the ground truth, int64[M] in 1…C.
        positive_iou: A proposal with a best IoU of at least this has that ground truth's class, others are background.

    Returns:
        Labels int64[K], 0 background or 1…C; and matches int64[K], the ground truth of each, -1 for background.
    """
    return ProposalTargets(Matcher(positive_iou, positive_iou)).match(proposals, boxes, labels)


def sample_proposals(labels: Tensor, seed: Tensor | int, *, count: int = 128) -> Tensor:
    """Draws the proposals that the head learns from in this step.

    Args:
        labels: int64[K] of :func:`label_proposals`.
        seed: Of the image, the one that drew the anchors.
        count: How many in all, at most half of them positive.

    Returns:
        Indices int64[S] of proposals, S ≤ 128: positives first.
    """
    return ProposalTargets(sampler=Sampler(count, 0.5)).sample(labels, seed)


def encode_rois(rois: Tensor, boxes: Tensor, labels: Tensor, matches: Tensor) -> Tensor:
    """Offsets float[S, 4] from each positive RoI to its ground truth, as :func:`encode_anchors`; else 0."""
    return ProposalTargets(coder=BoxCoder()).encode(rois, boxes, labels, matches)


def pool_rois(features: Tensor, rois: Tensor, *, stride: int = 16, size: int = 7) -> Tensor:
    """A grid of 7 × 7 cells for each box, whatever its size (RoI pooling: Fast, section 2.1).

    The box is divided by the stride and *truncated* to whole locations; the last is the map's last at most. The maximum
    over each cell is what ``roi_pool`` computes of such boxes, and what adaptive max pooling does of the part cut out.

    Args:
        features: float[1, C, H, W].
        rois: float[S, 4] in pixels.
        stride: Pixels per location.
        size: Cells per side.

    Returns:
        float[S, C, 7, 7]; 25,088 numbers per box with VGG-16.
    """
    height, width = features.shape[2] * stride, features.shape[3] * stride
    pooler = RoIPooler("truncated", size, spatial_scale=1 / stride)
    return pooler(features, rois, torch.zeros(len(rois), device=rois.device), (height, width))


def classify_rois(model: StepwiseRCNN, pooled: Tensor) -> tuple[Tensor, Tensor]:
    """What the head says about each box (Fast, section 2.1): linear layers without an activation between them.

    Args:
        model: Has the layers: 25088 → 4096 → 2048, then one for the classes and one for the boxes.
        pooled: float[S, 512, 7, 7].

    Returns:
        Logits float[S, C+1], column 0 is background, and offsets float[S, 4(C+1)], four for each class.
    """
    return model.roi_heads.predict(pooled)


def roi_loss(
    logits: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor, *, box_weight: float = 10.0
) -> tuple[Tensor, Tensor]:
    """How wrong the head is: :func:`rpn_loss` once more, with logits [S, C+1], and offsets [S, 4(C+1)] of which the
    four of the true class count (Fast, section 2.3)."""
    return StageLoss(box_weight=box_weight, normalizer="positives")(logits, deltas, labels, targets)


def make_detections(
    logits: Tensor,
    deltas: Tensor,
    proposals: Tensor,
    image_size: Size,
    *,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.3,
    max_detections: int = 100,
) -> Detections:
    """From class scores and offsets to what was found (Fast, section 3).

    Args:
        logits: float[K, C+1].
        deltas: float[K, 4(C+1)].
        proposals: float[K, 4].
        image_size: (height, width) in pixels, to which boxes are clipped.
        score_threshold: Detections have a greater probability, 0…1.
        nms_threshold: A detection whose IoU with a better one of its class is greater is dropped.
        max_detections: Only the best so many.

    Returns:
        Detections, best first, boxes in pixels of the resized image.
    """
    layer = DetectionLayer(score_threshold, nms_threshold, max_detections, BoxCoder())
    valid = torch.ones(len(proposals), dtype=torch.bool, device=proposals.device)
    return layer(logits.detach(), deltas.detach(), proposals, valid, image_size)


def to_original(detections: Detections, batch: ImageBatch) -> Detections:
    """The same detections with boxes in pixels of the image as it was before :func:`prepare_image`."""
    return Detections(boxes_to_original(detections.boxes, batch, 0), detections.labels, detections.scores)
