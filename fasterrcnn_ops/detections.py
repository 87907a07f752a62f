"""`select_detections`: from the outputs of a box head to the detections of each image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasterrcnn_ops import _library
from fasterrcnn_ops._transforms import register_vmap

__all__ = ["select_detections", "select_detections_with_proposal"]

_library.load()


def select_detections(
    class_logits: Tensor,
    box_deltas: Tensor,
    proposals: Tensor,
    count: Tensor,
    image_sizes: Tensor | Sequence[tuple[float, float]],
    *,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
    inclusive: bool = False,
    min_size: float = 1e-2,
    candidates_per_class: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best boxes of every class and image: softmax, decode, clip, threshold, NMS among boxes of a class.

    Args:
        class_logits: ``[B, K, C + 1]`` or ``[B·K, C + 1]``, column 0 is background; float16, bfloat16, float32 or
            float64.
        box_deltas: ``[B, K, 4(C + 1)]``, or ``[B, K, 4C]`` where background has no box, or with ``B·K`` rows; four
            numbers (dx, dy, dw, dh) a class.
        proposals: ``[B, K, 4]`` (x1, y1, x2, y2) in pixels, the boxes that the deltas start from.
        count: Integers ``[B]``: of image b the first ``count[b]`` proposals are in use.
        image_sizes: ``[B, 2]`` (height, width) in pixels, of an integer or floating dtype, or a list of pairs. Boxes
            are clipped to them, inclusive ones to the last pixel.
        score_threshold: Detections have a greater probability, 0…1.
        nms_threshold: Largest IoU of two detections of one class.
        max_detections: D, the number of slots in the result, ≥ 0; the best are taken.
        weights: ``(wx, wy, ww, wh)``; deltas are divided by them.
        inclusive: x2 and y2 name the last pixel inside the box in decoding and clipping.
        min_size: Smallest side of a clipped box, x2 - x1 and y2 - y1, in pixels; equal sides stay.
        candidates_per_class: Of each class only the best so many enter NMS; None for all.

    Returns:
        boxes: ``[B, D, 4]`` in pixels, best first; float32, or float64 where an argument is.
        labels: int64 ``[B, D]`` in 1…C.
        scores: ``[B, D]``, the probability of the label.
        count: int64 ``[B]``, how many slots of each image are used; the others are 0.

    Raises:
        RuntimeError: A shape, dtype or device does not fit, a weight is not positive, a side or number negative.

    Note:
        A proposal may be detected as several classes. Equal scores keep the order of (proposal, class). Scores are
        torch's softmax, and only what passes the threshold is decoded. NaN scores and boxes that are not finite after
        clipping are never detected. Shapes depend on shapes alone: no synchronisation, no graph break. Deterministic;
        not differentiable: the results never require grad. On CUDA three launches, whatever the batch, with the bits
        of torch's softmax (up to 1024 columns, float64: 512) and exp on that device; deltas are divided by
        ``weights``, where torch's CUDA kernels multiply by the reciprocal. Negative sides in ``image_sizes`` raise on
        the CPU only, because on CUDA their values would have to be waited for; there such an image's boxes have no
        area.

    Source:
        Girshick, "Fast R-CNN", 2015, section 2.3.

    Example:
        >>> boxes, labels, scores, count = select_detections(
        ...     torch.tensor([[[0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]]), torch.zeros(1, 2, 12),
        ...     torch.tensor([[[0.0, 0.0, 8.0, 8.0], [4.0, 4.0, 16.0, 16.0]]]), torch.tensor([2]), [(32, 32)],
        ...     score_threshold=0.5, nms_threshold=0.5, max_detections=2)
        >>> labels, count
        (tensor([[1, 2]]), tensor([2]))
    """
    return select_detections_with_proposal(
        class_logits,
        box_deltas,
        proposals,
        count,
        image_sizes,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        max_detections=max_detections,
        weights=weights,
        inclusive=inclusive,
        min_size=min_size,
        candidates_per_class=candidates_per_class,
    )[:4]


def select_detections_with_proposal(
    class_logits: Tensor,
    box_deltas: Tensor,
    proposals: Tensor,
    count: Tensor,
    image_sizes: Tensor | Sequence[tuple[float, float]],
    *,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
    inclusive: bool = False,
    min_size: float = 1e-2,
    candidates_per_class: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """:func:`select_detections`, and the proposal each detection came from.

    Returns:
        boxes, labels, scores, count: As there.
        proposal: int64 ``[B, D]`` in 0…K-1, -1 in unused slots.
    """
    batch, slots = proposals.shape[:2]
    if class_logits.ndim == 2:
        class_logits = class_logits.unflatten(0, (batch, slots))
    if box_deltas.ndim == 2:
        box_deltas = box_deltas.unflatten(0, (batch, slots))
    if not isinstance(image_sizes, Tensor):
        image_sizes = (
            torch.tensor(image_sizes, dtype=torch.float64).reshape(-1, 2).to(proposals.device, non_blocking=True)
        )
    # Detached rather than under no_grad, which an exported graph would have to switch on and off again.
    return torch.ops.fasterrcnn_ops.select_detections(
        class_logits.detach(),
        box_deltas.detach(),
        proposals.detach(),
        count,
        image_sizes,
        score_threshold,
        nms_threshold,
        max_detections,
        [float(weight) for weight in weights],
        inclusive,
        min_size,
        candidates_per_class,
    )


@torch.library.register_fake("fasterrcnn_ops::select_detections")
def _select_detections_fake(class_logits, box_deltas, proposals, count, image_sizes, *options):
    max_detections = options[2]
    dtype = torch.promote_types(torch.promote_types(class_logits.dtype, box_deltas.dtype), proposals.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    batch = proposals.shape[0]
    return (
        proposals.new_empty((batch, max_detections, 4), dtype=dtype),
        proposals.new_empty((batch, max_detections), dtype=torch.int64),
        proposals.new_empty((batch, max_detections), dtype=dtype),
        proposals.new_empty(batch, dtype=torch.int64),
        proposals.new_empty((batch, max_detections), dtype=torch.int64),
    )


register_vmap("select_detections")
