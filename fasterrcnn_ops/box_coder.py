"""Box coding: ``encode_boxes`` (boxes → deltas) and ``decode_boxes`` (deltas → boxes)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fasterrcnn_ops import _library
from fasterrcnn_ops._transforms import differentiable

__all__ = ["decode_boxes", "encode_boxes"]

_library.load()

DELTA_CLIP = math.log(1000 / 16)  # e^clip = 62.5: a box 16 pixels wide grows to 1000 at most


def encode_boxes(
    boxes: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    inclusive: bool = False,
) -> Tensor:
    """Regression deltas that take ``anchors`` to ``boxes``; the inverse of :func:`decode_boxes`.

    With centre ``c`` and sides ``w, h`` of a box and of its anchor (subscript a)::

        dx = wx (cx - cx_a) / w_a    dy = wy (cy - cy_a) / h_a    dw = ww log(w / w_a)    dh = wh log(h / h_a)

    Args:
        boxes: ``[N, 4]`` (x1, y1, x2, y2) in pixels; floating point.
        anchors: ``[N, 4]``, likewise, row by row the anchor of each box.
        weights: ``(wx, wy, ww, wh)``, positive. Targets normalised by a standard deviation σ use ``1 / σ``.
        inclusive: x2 and y2 name the last pixel inside the box, so that ``w = x2 - x1 + 1``.

    Returns:
        ``[N, 4]`` deltas (dx, dy, dw, dh), dtype promoted from both arguments.

    Raises:
        RuntimeError: a shape, dtype or device does not fit, or a weight is not positive.

    Note:
        Computed in float32 (float64 for float64). A box or anchor without area gives infinite or NaN deltas, as the
        formula says; NaN stays NaN. Differentiable in both arguments, deterministic.

    Source:
        Girshick et al., "Rich feature hierarchies", 2014, appendix C; Ren et al., "Faster R-CNN", 2015, eq. 2.

    Example:
        >>> encode_boxes(torch.tensor([[4.0, 0.0, 12.0, 8.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
        tensor([[0.5000, 0.0000, 0.0000, 0.0000]])
    """
    return _encode(boxes, anchors, _floats(weights, "weights"), inclusive)


def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    clip: float = DELTA_CLIP,
    image_size: tuple[float, float] | None = None,
    inclusive: bool = False,
) -> Tensor:
    """Boxes that ``deltas`` make of ``anchors``; the inverse of :func:`encode_boxes`.

    Args:
        deltas: ``[N, 4 * K]`` (dx, dy, dw, dh) K times, as a class-specific box head gives them; floating point.
        anchors: ``[N, 4]`` (x1, y1, x2, y2) in pixels; each serves its row's K boxes.
        weights: ``(wx, wy, ww, wh)``, positive; deltas are divided by them.
        clip: upper bound of ``dw`` and ``dh`` before the exponential; ``math.inf`` for none.
        image_size: ``(height, width)``; boxes are clamped to it if given. Inclusive boxes are clamped to
            ``(height - 1, width - 1)``, their last pixel.
        inclusive: x2 and y2 name the last pixel inside the box.

    Returns:
        ``[N, 4 * K]`` boxes in pixels, dtype promoted from both tensors: half deltas on float32 anchors keep float32
        coordinates.

    Raises:
        RuntimeError: a shape, dtype or device does not fit, a weight is not positive, or an image side is negative.

    Note:
        Computed in float32 (float64 for float64). NaN stays NaN. Differentiable in ``deltas`` and ``anchors`` (zero
        where ``clip`` or the image border cut), deterministic.

    Source:
        As :func:`encode_boxes`; the bound log(1000 / 16) is that of the published detectors.

    Example:
        >>> decode_boxes(torch.tensor([[0.5, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
        tensor([[ 4.,  0., 12.,  8.]])
    """
    if image_size is not None:
        image_size = _floats(image_size, "image_size", 2)
    return _decode(deltas, anchors, _floats(weights, "weights"), float(clip), image_size, inclusive)


def _floats(values: Sequence[float], name: str, count: int = 4) -> list[float]:
    values = [float(value) for value in values]
    if len(values) != count:
        raise ValueError(f"{name}: expected {count} numbers, got {len(values)}")
    return values


@torch.library.register_fake("fasterrcnn_ops::encode_boxes")
def _encode_boxes_fake(boxes, anchors, weights, inclusive):
    return boxes.new_empty(boxes.shape, dtype=torch.promote_types(boxes.dtype, anchors.dtype))


@torch.library.register_fake("fasterrcnn_ops::decode_boxes")
def _decode_boxes_fake(deltas, anchors, weights, clip, image_size, inclusive):
    return deltas.new_empty(deltas.shape, dtype=torch.promote_types(deltas.dtype, anchors.dtype))


# Autograd. With w = x2 - x1 + extent and cx = x1 + w / 2, a gradient in (cx, w) reaches (x1, x2) as follows.


def _to_corners(grad_centre: Tensor, grad_side: Tensor) -> tuple[Tensor, Tensor]:
    return 0.5 * grad_centre - grad_side, 0.5 * grad_centre + grad_side


def _sides_and_centres(boxes: Tensor, extent: float) -> tuple[Tensor, Tensor]:
    """``[N, 4]`` boxes → sides ``[N, 2]`` and centres ``[N, 2]``, in at least float32."""
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    sides = boxes[:, 2:] - boxes[:, :2] + extent
    return sides, boxes[:, :2] + 0.5 * sides


def _times(pairs: Tensor, x: float, y: float) -> Tensor:
    """``[..., 2]`` times (x, y). Not a tensor of the two: bringing one to a card would wait for it."""
    return torch.stack((pairs[..., 0] * x, pairs[..., 1] * y), dim=-1)


def _inside(pairs: Tensor, x: float, y: float) -> Tensor:
    """Which coordinates of ``[..., 2]`` lie in [0, x] and [0, y]."""
    return (pairs >= 0) & torch.stack((pairs[..., 0] <= x, pairs[..., 1] <= y), dim=-1)


def _encode_backward(ctx, grad):
    boxes, anchors = ctx.saved_tensors
    grad = grad.to(torch.promote_types(grad.dtype, torch.float32))
    sides, centres = _sides_and_centres(boxes, ctx.extent)  # [N, 2] each
    anchor_sides, anchor_centres = _sides_and_centres(anchors, ctx.extent)
    grad_shift, grad_scale = _times(grad[:, :2], *ctx.weights[:2]), _times(grad[:, 2:], *ctx.weights[2:])
    grad_boxes = grad_anchors = None
    if ctx.needs_input_grad[0]:
        grad_boxes = torch.cat(_to_corners(grad_shift / anchor_sides, grad_scale / sides), dim=1).to(boxes.dtype)
    if ctx.needs_input_grad[1]:
        shift = (centres - anchor_centres) / anchor_sides
        grad_sides = -(grad_shift * shift + grad_scale) / anchor_sides
        grad_anchors = torch.cat(_to_corners(-grad_shift / anchor_sides, grad_sides), dim=1).to(anchors.dtype)
    return grad_boxes, grad_anchors, None, None


def _encode_setup(ctx, inputs, output):
    boxes, anchors, weights, inclusive = inputs
    ctx.save_for_backward(boxes, anchors)
    ctx.weights, ctx.extent = weights, float(inclusive)


def _decode_backward(ctx, grad):
    deltas, anchors = ctx.saved_tensors
    n, k = deltas.shape[0], deltas.shape[1] // 4
    sides, centres = _sides_and_centres(anchors, ctx.extent)
    sides, centres = sides[:, None], centres[:, None]  # [N, 1, 2]
    inverse = [1 / weight for weight in ctx.weights]
    shift, scale = deltas.to(sides.dtype).view(n, k, 4).split(2, dim=2)  # [N, K, 2]
    shift, scale = _times(shift, *inverse[:2]), _times(scale, *inverse[2:])
    grad = grad.to(sides.dtype).reshape(n, k, 4)
    growth = scale.clamp(max=ctx.clip).exp()

    grad_low, grad_high = grad.split(2, dim=2)
    if ctx.image_size is not None:  # the image border cut these coordinates off
        height, width = ctx.image_size
        limit = (width - ctx.extent, height - ctx.extent)
        middle, half = centres + shift * sides, 0.5 * growth * sides
        grad_low = grad_low * _inside(middle - half, *limit)
        grad_high = grad_high * _inside(middle + half - ctx.extent, *limit)
    grad_centre, grad_side = grad_low + grad_high, 0.5 * (grad_high - grad_low)

    grad_deltas = grad_anchors = None
    if ctx.needs_input_grad[0]:
        grad_shift = _times(grad_centre * sides, *inverse[:2])
        grad_scale = _times(grad_side * growth * sides * (scale <= ctx.clip), *inverse[2:])
        grad_deltas = torch.cat((grad_shift, grad_scale), dim=2).view(n, 4 * k).to(deltas.dtype)
    if ctx.needs_input_grad[1]:
        to_side = (grad_centre * shift + grad_side * growth).sum(dim=1)
        grad_anchors = torch.cat(_to_corners(grad_centre.sum(dim=1), to_side), dim=1).to(anchors.dtype)
    return grad_deltas, grad_anchors, None, None, None, None


def _decode_setup(ctx, inputs, output):
    deltas, anchors, weights, clip, image_size, inclusive = inputs
    ctx.save_for_backward(deltas, anchors)
    ctx.weights, ctx.clip, ctx.image_size, ctx.extent = weights, clip, image_size, float(inclusive)


def _vmap(operator, info, in_dims, first, second, *settings):
    """Every row is on its own: the rows of all entries in one call."""
    first, second = (
        tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip((first, second), in_dims, strict=False)
    )
    return operator(first.flatten(0, 1), second.flatten(0, 1), *settings).unflatten(0, first.shape[:2]), 0


_encode = differentiable("encode_boxes", _encode_backward, _encode_setup, _vmap)
_decode = differentiable("decode_boxes", _decode_backward, _decode_setup, _vmap)
