"""From class scores and offsets to detections: decode, clip, threshold, NMS among boxes of the same class."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.types import Detections, PaddedDetections, Proposals, Size
from fasterrcnn_ops import select_detections_with_proposal

# Sides in pixels of the batch below which a clipped box is nothing: what is left of boxes outside the image.
SMALLEST_SIDE = 1e-2


@dataclass
class DetectionLayer:
    """The detection rules of a family; the defaults are the classic one's.

    Attributes:
        score_threshold: Detections have a greater score, 0…1.
        nms_threshold: A detection whose IoU with a better one of its class is greater is dropped.
        max_detections: The best so many of an image are returned.
        coder: How offsets describe boxes.
        candidates_per_class: Only the best so many of a class enter NMS; None for all.
    """

    score_threshold: float = 0.05
    nms_threshold: float = 0.3
    max_detections: int = 100
    coder: BoxCoder = field(default_factory=lambda: BoxCoder((10.0, 10.0, 5.0, 5.0)))
    candidates_per_class: int | None = None

    def __call__(
        self,
        logits: Tensor,
        deltas: Tensor,
        boxes: Tensor,
        valid: Tensor,
        image_size: Size,
        *,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Detections:
        """Detections of one image, in pixels of the batch.

        Args:
            logits: float[K, C+1], column 0 is background.
            deltas: float[K, 4(C+1)], or float[K, 4C] where background has no box.
            boxes: float[K, 4], the proposals in pixels of the batch.
            valid: bool[K], which proposals count.
            image_size: (height, width) in pixels to which boxes are clipped.
            score_threshold: Instead of the layer's, for this call; likewise the other two.

        Returns:
            Detections by descending score. A proposal may be detected as several classes.
        """
        max_detections = self.max_detections if max_detections is None else max_detections
        found, _ = self._chosen(
            logits, deltas, boxes, valid, image_size, max_detections, score_threshold, nms_threshold
        )
        return found

    def batched(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: Proposals,
        image_sizes: Tensor,
        *,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> PaddedDetections:
        """Detections of a batch, in pixels of the batch; reads nothing back to the host.

        Args:
            logits: float[B·K, C+1], column 0 is background; rows of unused slots do not count.
            deltas: float[B·K, 4(C+1)], or float[B·K, 4C] where background has no box.
            proposals: K slots of each image.
            image_sizes: [B, 2] (height, width) in pixels to which boxes are clipped, on the device of the logits.
            score_threshold: Instead of the layer's, for this call; likewise the other two.

        Returns:
            ``max_detections`` slots per image. A proposal may be detected as several classes.
        """
        boxes, labels, scores, count, _ = self._select(
            logits,
            deltas,
            proposals.boxes,
            proposals.count,
            image_sizes,
            self.max_detections if max_detections is None else max_detections,
            score_threshold,
            nms_threshold,
        )
        return PaddedDetections(boxes, labels, scores, count)

    def _chosen(
        self,
        logits: Tensor,
        deltas: Tensor,
        boxes: Tensor,
        valid: Tensor,
        image_size: Size,
        max_detections: int,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
    ) -> tuple[Detections, Tensor]:
        """Detections by descending score, and the proposal of each, int64[D]; one read-back of their number."""
        # What has no number as a logit is never detected.
        logits = torch.where(valid[:, None], logits.float(), torch.nan)
        every = torch.full((1,), len(boxes), device=boxes.device)
        *slots, count, proposal = self._select(
            logits, deltas, boxes[None], every, [image_size], max_detections, score_threshold, nms_threshold
        )
        used = int(count)
        return Detections(*(tensor[0, :used] for tensor in slots)), proposal[0, :used]

    def _select(
        self,
        logits: Tensor,
        deltas: Tensor,
        boxes: Tensor,
        count: Tensor,
        image_sizes: Tensor | list[Size],
        max_detections: int,
        score_threshold: float | None,
        nms_threshold: float | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return select_detections_with_proposal(
            logits.float(),
            deltas.float(),
            boxes,
            count,
            image_sizes,
            score_threshold=self.score_threshold if score_threshold is None else score_threshold,
            nms_threshold=self.nms_threshold if nms_threshold is None else nms_threshold,
            max_detections=max_detections,
            weights=self.coder.weights,
            inclusive=self.coder.inclusive,
            min_size=SMALLEST_SIDE,
            candidates_per_class=self.candidates_per_class,
        )


@dataclass
class ClassRows:
    """Detections of one image as a table with a row for every class and proposal, the form of GluonCV's networks.

    Row c·K + k is proposal slot k seen as class c; what is no detection is −1 throughout.

    Attributes:
        ids: float[C·K, 1], the zero-based class (label − 1).
        scores: float[C·K, 1] in 0…1.
        boxes: float[C·K, 4] in pixels of the original image.
    """

    ids: Tensor
    scores: Tensor
    boxes: Tensor


def class_rows(
    layer: DetectionLayer, logits: Tensor, deltas: Tensor, boxes: Tensor, valid: Tensor, image_size: Size
) -> ClassRows:
    """The detections of one image as rows, boxes in pixels of the batch; arguments as :class:`DetectionLayer`'s.

    There is no bound on their number.
    """
    everything = len(boxes) * (logits.shape[1] - 1)
    found, proposal = layer._chosen(logits, deltas, boxes, valid, image_size, everything)
    rows = logits.new_full(((logits.shape[1] - 1) * len(boxes), 6), -1.0, dtype=torch.float32)
    columns = [(found.labels - 1).float()[:, None], found.scores[:, None], found.boxes]
    rows[(found.labels - 1) * len(boxes) + proposal] = torch.cat(columns, dim=1)
    return ClassRows(rows[:, :1], rows[:, 1:2], rows[:, 2:])
