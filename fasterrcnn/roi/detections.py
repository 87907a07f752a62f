"""From class scores and offsets to detections: decode, clip, threshold, NMS among boxes of the same class."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.types import Detections, Size
from fasterrcnn_ops import batched_nms

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
    """

    score_threshold: float = 0.05
    nms_threshold: float = 0.3
    max_detections: int = 100
    coder: BoxCoder = field(default_factory=lambda: BoxCoder((10.0, 10.0, 5.0, 5.0)))

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
            deltas: float[K, 4(C+1)].
            boxes: float[K, 4], the proposals in pixels of the batch.
            valid: bool[K], which proposals count.
            image_size: (height, width) in pixels to which boxes are clipped.
            score_threshold: Instead of the layer's, for this call; likewise the other two.

        Returns:
            Detections by descending score. A proposal may be detected as several classes.
        """
        score_threshold = self.score_threshold if score_threshold is None else score_threshold
        nms_threshold = self.nms_threshold if nms_threshold is None else nms_threshold
        max_detections = self.max_detections if max_detections is None else max_detections
        classes = logits.shape[1]
        probabilities = logits.float().softmax(dim=1)
        refined = self.coder.decode(deltas.float(), boxes, image_size).view(-1, classes, 4)
        sides = refined[..., 2:] - refined[..., :2]
        wanted = (probabilities > score_threshold) & valid[:, None] & (sides >= SMALLEST_SIDE).all(dim=2)
        wanted[:, 0] = False
        proposal, label = wanted.nonzero(as_tuple=True)
        refined, scores = refined[proposal, label], probabilities[proposal, label]
        keep = batched_nms(refined, scores, label, nms_threshold)[:max_detections]
        return Detections(refined[keep], label[keep], scores[keep])
