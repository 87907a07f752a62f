"""`generate_proposals`: from the maps of a region proposal network's head to the proposals of each image."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fasterrcnn_ops import _library
from fasterrcnn_ops._transforms import register_autocast, register_vmap

__all__ = ["generate_proposals"]

_library.load()


def generate_proposals(
    objectness: Sequence[Tensor],
    deltas: Sequence[Tensor],
    cell_anchors: Sequence[Tensor],
    strides: Sequence[float | tuple[float, float]],
    image_sizes: Tensor | Sequence[tuple[float, float]],
    *,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_threshold: float,
    min_size: float | Tensor = 1e-3,
    score_threshold: float = 0.0,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    anchor_offset: float = 0.0,
    inclusive: bool = False,
    inclusive_sides: bool = False,
    filter_before_topk: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best boxes of every image of a batch, from the maps as an RPN head leaves them.

    On each of L levels the ``pre_nms_top_n`` best logits are chosen; their anchors are decoded and clipped; small boxes
    and low scores go; what a better box *of the same level* overlaps by more than ``nms_threshold`` goes; the best
    ``post_nms_top_n`` of all levels remain.

    Args:
        objectness: L maps ``[B, A, H, W]``, one logit per anchor; float16, bfloat16, float32 or float64. A softmax over
            (background, object) enters as the difference of its logits, object less background. A, H and W may differ
            between levels. Contiguous and channels_last maps are read where they lie, others are copied.
        deltas: L maps ``[B, 4A, H, W]`` of the same dtype (under autocast of any); channel ``4a + i`` is number i of
            (dx, dy, dw, dh) for anchor a.
        cell_anchors: L tensors ``[A, 4]``, the anchors of a location about the origin, in pixels.
        strides: Of each level, input pixels per location: a number, or ``(y, x)``.
        image_sizes: ``[B, 2]`` (height, width) in pixels, of an integer or floating dtype, or a list of pairs. Boxes
            are clipped to them, inclusive ones to the last pixel.
        pre_nms_top_n: How many anchors of each level are considered, ≥ 0.
        post_nms_top_n: P, the number of slots in the result, ≥ 0.
        nms_threshold: Largest IoU of two proposals of one level.
        min_size: Smallest side of a clipped box in pixels, for all images or ``[B]``; equal sides stay.
        score_threshold: Lowest score, 0…1; equal scores stay.
        weights: ``(wx, wy, ww, wh)``; deltas are divided by them.
        anchor_offset: Pixels from a location's corner to the point its anchors lie around.
        inclusive: x2 and y2 name the last pixel inside the box in decoding and clipping.
        inclusive_sides: Sides count their last pixel when they are compared with ``min_size``: x2 - x1 + 1.
        filter_before_topk: Boxes that are too small take up no place among the ``pre_nms_top_n``. Costs a pass that
            decodes every anchor.

    Returns:
        boxes: ``[B, P, 4]`` (x1, y1, x2, y2) in pixels, best first; float32, or float64 for float64 maps.
        scores: ``[B, P]`` of that dtype, the sigmoid of the logits.
        count: int64 ``[B]``, how many slots of each image are used; the others are 0.

    Raises:
        RuntimeError: A shape, dtype or device does not fit, there is no level, a weight is not positive, an image side
            or a count is negative.
        ValueError: ``strides`` or ``weights`` has the wrong form.

    Note:
        *Order.* Anchors are chosen by logit, ties by level and anchor index ``(y·W + x)·A + a``. Proposals compete and
        are returned by score, ties by level and place among the chosen, so where the sigmoid saturates the logits still
        decide within a level. That is torchvision's rule where torchvision's result is defined: which of two equal
        logits its ``topk`` takes is not.
        *Scores* are ``torch.sigmoid`` of the chosen logits of an image, all levels in a row, to the last bit, and boxes
        are those of a composition of torch calls. Both equal torchvision's for an image.
        *Bad values.* A NaN logit is never proposed and takes up no place; neither is a box that is not finite after
        clipping, but without ``filter_before_topk`` it has taken a place. Infinite logits are scores of 0 and 1.
        Shapes depend on shapes alone: no synchronisation, no graph break. Deterministic, the same for any number of
        threads, and for an image alone or in a batch. Not differentiable (approximate joint training): the results
        never require grad. On CUDA five launches while no level has more than 1024 candidates (float64: 512), with the
        bits of torch's exp and sigmoid on that device (deltas are divided by ``weights``, where torch's CUDA kernels
        multiply by the reciprocal: other than powers of two differ in the last bits); at most 16 levels. Negative
        ``image_sizes`` raise on the CPU only, because on CUDA their values would have to be waited for; there such an
        image's boxes have no area.

    Source:
        Ren et al., "Faster R-CNN", 2015, section 3.3; Lin et al., "Feature Pyramid Networks", 2017, section 4.1.

    Example:
        >>> logits = torch.tensor([[[[2.0, 1.0, 0.0]]]])  # one anchor at three locations
        >>> boxes, scores, count = generate_proposals(
        ...     [logits], [torch.zeros(1, 4, 1, 3)], [torch.tensor([[-8.0, -8.0, 8.0, 8.0]])], [8], [(32, 32)],
        ...     pre_nms_top_n=3, post_nms_top_n=2, nms_threshold=0.6, anchor_offset=8.0)
        >>> boxes[0], count
        (tensor([[ 0.,  0., 16., 16.],
                [ 8.,  0., 24., 16.]]), tensor([2]))
    """
    device = objectness[0].device if len(objectness) else torch.device("cpu")
    if not isinstance(image_sizes, Tensor):
        image_sizes = torch.tensor(image_sizes, dtype=torch.float64).reshape(-1, 2).to(device, non_blocking=True)
    min_sizes = None
    if isinstance(min_size, Tensor):
        min_sizes, min_size = min_size.double() - 1 if inclusive_sides else min_size, 0.0
    elif inclusive_sides:
        min_size = min_size - 1
    # Detached rather than under no_grad, which an exported graph would have to switch on and off again.
    return torch.ops.fasterrcnn_ops.generate_proposals(
        [maps.detach() for maps in objectness],
        [maps.detach() for maps in deltas],
        [cells.detach() for cells in cell_anchors],
        _stride_pairs(strides),
        image_sizes,
        min_sizes,
        float(min_size),
        pre_nms_top_n,
        post_nms_top_n,
        nms_threshold,
        score_threshold,
        [float(weight) for weight in weights],
        anchor_offset,
        inclusive,
        filter_before_topk,
    )


def _stride_pairs(strides: Sequence[float | tuple[float, float]]) -> list[float]:
    """(y, x) of every level in a row."""
    flat: list[float] = []
    for stride in strides:
        pair = (stride, stride) if isinstance(stride, (int, float)) else tuple(stride)
        if len(pair) != 2:
            raise ValueError(f"strides: expected a number or (y, x) for each level, got {stride}")
        flat += map(float, pair)
    return flat


@torch.library.register_fake("fasterrcnn_ops::generate_proposals")
def _generate_proposals_fake(objectness, deltas, cell_anchors, strides, image_sizes, min_sizes, min_size, *rest):
    logits, post_nms_top_n = objectness[0], rest[1]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    batch = logits.shape[0]
    return (
        logits.new_empty((batch, post_nms_top_n, 4), dtype=dtype),
        logits.new_empty((batch, post_nms_top_n), dtype=dtype),
        logits.new_empty(batch, dtype=torch.int64),
    )


register_vmap("generate_proposals")


def _one_dtype(objectness, deltas, *rest):
    """Under autocast a softmax gives float32 logits beside the half deltas of a convolution."""
    dtype = functools.reduce(torch.promote_types, {map_.dtype for map_ in (*objectness, *deltas)})
    return ([map_.to(dtype) for map_ in objectness], [map_.to(dtype) for map_ in deltas], *rest), None


register_autocast("generate_proposals", _one_dtype)
