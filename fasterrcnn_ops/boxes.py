"""Box geometry: areas, formats, clipping, filtering and the family of overlap measures.

Signatures, dtypes and edge cases are those of ``torchvision.ops`` 0.29; what differs is named where it does. Boxes are
rows (x1, y1, x2, y2) in pixels unless a format says otherwise, x2 and y2 being the edge behind the last pixel.
:func:`box_iou` has a kernel; the others are composed of torch operations, differentiable and traceable as they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fasterrcnn_ops import _library
from fasterrcnn_ops._transforms import differentiable, register_vmap

_library.load()

_FORMATS = ("xyxy", "xywh", "cxcywh")
# Where the operator has a kernel in this build; elsewhere the same formula runs as torch operations.
_KERNEL_DEVICES = tuple(
    device
    for device in ("cpu", "cuda")
    if torch._C._dispatch_has_kernel_for_dispatch_key("fasterrcnn_ops::box_iou", device.upper())
)


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """Area of each box.

    Args:
        boxes: ``[..., 4]`` in pixels, any real dtype.
        fmt: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``.

    Returns:
        ``[...]`` in square pixels; negative where exactly one side is inverted. Narrow dtypes are widened first so that
        the product has room: float16 and bfloat16 to float32, integers to at least int32.

    Raises:
        ValueError: unknown format.

    Example:
        >>> box_area(torch.tensor([[0.0, 0.0, 4.0, 3.0]]))
        tensor([12.])
    """
    _check_format(fmt, "fmt")
    boxes = _widen(boxes)
    if fmt == "xyxy":
        return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return boxes[..., 2] * boxes[..., 3]


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Boxes in another format.

    Args:
        boxes: ``[..., 4]`` in pixels.
        in_fmt: Format of ``boxes``: ``"xyxy"`` (corners), ``"xywh"`` (first corner and sides) or ``"cxcywh"`` (centre
            and sides).
        out_fmt: Wanted format, one of the same.

    Returns:
        ``[..., 4]``, always a new tensor, also when the formats are the same. The dtype stays, except that integers
        become float32 where a centre is computed.

    Raises:
        ValueError: unknown format. torchvision's rotated formats are not supported: this library has axis-aligned boxes
            only.

    Example:
        >>> box_convert(torch.tensor([[10.0, 20.0, 30.0, 60.0]]), "xyxy", "cxcywh")
        tensor([[20., 40., 20., 40.]])
    """
    _check_format(in_fmt, "in_fmt")
    _check_format(out_fmt, "out_fmt")
    if in_fmt == out_fmt:
        return boxes.clone()
    if in_fmt != "xyxy":
        first, sides = boxes[..., :2], boxes[..., 2:]
        if in_fmt == "cxcywh":
            boxes = torch.cat((first - 0.5 * sides, first + 0.5 * sides), dim=-1)
        else:
            boxes = torch.cat((first, first + sides), dim=-1)
    if out_fmt == "xyxy":
        return boxes
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2 if out_fmt == "cxcywh" else low, high - low), dim=-1)


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes cut at the border of an image.

    Args:
        boxes: ``[..., 4]`` xyxy in pixels, floating point or integer.
        size: (height, width) of the image in pixels.

    Returns:
        ``[..., 4]``, a new tensor of the same dtype: x within [0, width], y within [0, height]. NaN stays NaN; a box
        outside the image keeps its place in the list with zero area.

    Example:
        >>> clip_boxes_to_image(torch.tensor([[-5.0, 10.0, 50.0, 90.0]]), (60, 40))
        tensor([[ 0., 10., 40., 60.]])
    """
    height, width = size
    if not boxes.dtype.is_floating_point:  # whole numbers up to the border, as far as the dtype goes
        largest = torch.iinfo(boxes.dtype).max
        height, width = min(int(height), largest), min(int(width), largest)
    x = boxes[..., 0::2].clamp(min=0, max=width)
    y = boxes[..., 1::2].clamp(min=0, max=height)
    return torch.stack((x, y), dim=-1).flatten(-2)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Indices of the boxes whose sides are both at least ``min_size``.

    Args:
        boxes: ``[N, 4]`` xyxy in pixels.
        min_size: Smallest side kept, in pixels; a side equal to it stays.

    Returns:
        int64 ``[K]``, K ≤ N, ascending. A box with a NaN coordinate is not kept.

    Example:
        >>> remove_small_boxes(torch.tensor([[0.0, 0.0, 2.0, 9.0], [0.0, 0.0, 1.9, 9.0]]), 2.0)
        tensor([0])
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.where((sides >= min_size).all(dim=-1))[0]


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union of every pair of boxes.

    Args:
        boxes1: ``[..., N, 4]`` in pixels, any real dtype.
        boxes2: ``[..., M, 4]``, on the same device; leading dimensions broadcast against those of ``boxes1``.
        fmt: Format of both: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``.

    Returns:
        ``[..., N, M]``: float64 if a float64 tensor takes part, else float32 (also for float16, bfloat16 and integers).

    Raises:
        ValueError: unknown format. torchvision's rotated formats are not supported.
        RuntimeError: the last dimension is not 4, or the devices differ.

    Note:
        * An empty set gives an empty matrix. Two boxes of zero area have 0/0 = NaN; NaN in a box makes its row or
          column NaN; inverted boxes give whatever the formula gives, as in torchvision.
        * float16, bfloat16 and narrow integers are widened before they are subtracted; torchvision widens the
          difference, which has lost digits (or wrapped around) by then.
        * Differentiable, twice too. Where two edges coincide each box receives half of that edge's gradient; boxes that
          only touch receive none for their (empty) overlap. The latter is what torch's ``clamp`` does from 2.14 on;
          before that it let the gradient through, and torchvision's result with it.
        * Deterministic, forward and backward; the result does not depend on the number of threads. Plain
          two-dimensional xyxy boxes of one floating dtype go to a kernel, and so does their gradient unless it is to
          be differentiated again; everything else takes the same formula through torch operations. A gradient is a sum
          over pairs, which CPU and CUDA take in orders of their own: its last digits may differ between them.

    Example:
        >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
        tensor([[0.3333]])
    """
    _check_format(fmt, "fmt")
    if fmt == "xyxy" and _has_kernel(boxes1, boxes2):
        return _box_iou(boxes1, boxes2)
    intersection, union = _intersection_union(boxes1, boxes2, fmt)
    return intersection / union


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalized IoU of every pair: IoU − (hull − union) / hull, hull being the smallest box around both.

    Args:
        boxes1: ``[..., N, 4]`` xyxy in pixels.
        boxes2: ``[..., M, 4]`` xyxy in pixels.

    Returns:
        ``[..., N, M]`` in [−1, 1] for valid boxes; dtype as for :func:`box_iou`. Differentiable. NaN for two empty
        boxes at one place.

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, algorithm 1.
    """
    intersection, union = _intersection_union(boxes1, boxes2, "xyxy")
    hull = _product(_hull_sides(boxes1, boxes2))
    return intersection / union - (hull - union) / hull


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Distance IoU of every pair: IoU − (distance of the centres)² / (diagonal of the hull)².

    Args:
        boxes1: ``[..., N, 4]`` xyxy in pixels.
        boxes2: ``[..., M, 4]`` xyxy in pixels.
        eps: Added to the squared diagonal, so that it is never zero.

    Returns:
        ``[..., N, M]`` in [−1, 1] for valid boxes; dtype as for :func:`box_iou`. Differentiable.

    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020, section "Distance-IoU Loss".
    """
    boxes1, boxes2 = _widen(boxes1, torch.int64), _widen(boxes2, torch.int64)
    return _distance_iou(box_iou(boxes1, boxes2), boxes1, boxes2, eps)


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Complete IoU of every pair: distance IoU − α·v, with v comparing the aspect ratios and α = v / (1 − IoU + v).

    Args:
        boxes1: ``[..., N, 4]`` xyxy in pixels.
        boxes2: ``[..., M, 4]`` xyxy in pixels.
        eps: Added to both denominators.

    Returns:
        ``[..., N, M]``; dtype as for :func:`box_iou`. Differentiable, α counting as a constant. NaN where a box has no
        width and no height.

    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020, section "Complete IoU Loss".
    """
    boxes1, boxes2 = _widen(boxes1, torch.int64), _widen(boxes2, torch.int64)
    iou = box_iou(boxes1, boxes2)
    angle = _aspect_angle(boxes1)[..., :, None] - _aspect_angle(boxes2)[..., None, :]
    v = (4 / math.pi**2) * angle.square()
    with torch.no_grad():
        alpha = v / (1 - iou + v + eps)
    return _distance_iou(iou, boxes1, boxes2, eps) - alpha * v


# ----------------------------------------------------------------------------------------------------------------------


def _check_format(fmt: str, name: str) -> None:
    if fmt not in _FORMATS:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, _FORMATS))}; got {fmt!r}")


def _check_pairs(boxes1: Tensor, boxes2: Tensor) -> None:
    for boxes, name in ((boxes1, "boxes1"), (boxes2, "boxes2")):
        if boxes.dim() < 2 or boxes.shape[-1] != 4:
            raise RuntimeError(f"{name}: expected shape [..., N, 4], got {list(boxes.shape)}")


def _has_kernel(boxes1: Tensor, boxes2: Tensor) -> bool:
    return (
        boxes1.device.type in _KERNEL_DEVICES
        and boxes1.device == boxes2.device
        and boxes1.dim() == boxes2.dim() == 2
        and boxes1.dtype == boxes2.dtype
        and boxes1.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    )


def _widen(boxes: Tensor, integer: torch.dtype = torch.int32) -> Tensor:
    """At least float32, or at least ``integer``, so that products of coordinates have room."""
    if boxes.is_floating_point():
        return boxes if boxes.dtype == torch.float64 else boxes.float()
    return boxes if boxes.dtype == torch.int64 else boxes.to(integer)


def _product(sides: Tensor) -> Tensor:
    """``[..., 2]`` → ``[...]``; unlike ``prod`` it keeps the dtype of integers and has a plain second derivative."""
    return sides[..., 0] * sides[..., 1]


def _intersection_union(boxes1: Tensor, boxes2: Tensor, fmt: str) -> tuple[Tensor, Tensor]:
    """Both ``[..., N, M]`` in square pixels."""
    _check_pairs(boxes1, boxes2)
    boxes1, boxes2 = _widen(boxes1, torch.int64), _widen(boxes2, torch.int64)
    area1, area2 = box_area(boxes1, fmt), box_area(boxes2, fmt)  # of the sides as given, not as differences of corners
    corners1, corners2 = box_convert(boxes1, fmt, "xyxy"), box_convert(boxes2, fmt, "xyxy")
    low = torch.maximum(corners1[..., :, None, :2], corners2[..., None, :, :2])  # [..., N, M, 2]
    high = torch.minimum(corners1[..., :, None, 2:], corners2[..., None, :, 2:])
    intersection = _product(torch.relu(high - low))
    return intersection, area1[..., :, None] + area2[..., None, :] - intersection


def _hull_sides(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """``[..., N, M, 2]``: width and height of the smallest box around each pair."""
    boxes1, boxes2 = _widen(boxes1, torch.int64), _widen(boxes2, torch.int64)
    low = torch.minimum(boxes1[..., :, None, :2], boxes2[..., None, :, :2])
    high = torch.maximum(boxes1[..., :, None, 2:], boxes2[..., None, :, 2:])
    return torch.relu(high - low)


def _distance_iou(iou: Tensor, boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    diagonal = _hull_sides(boxes1, boxes2).square().sum(dim=-1) + eps
    centres1 = (boxes1[..., :2] + boxes1[..., 2:]) / 2
    centres2 = (boxes2[..., :2] + boxes2[..., 2:]) / 2
    return iou - (centres1[..., :, None, :] - centres2[..., None, :, :]).square().sum(dim=-1) / diagonal


def _aspect_angle(boxes: Tensor) -> Tensor:
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.atan(sides[..., 0] / sides[..., 1])


# ---------------------------------------------------------------------------------------------------------------------
# The operator fasterrcnn_ops::box_iou: what torch must know beyond the kernel.


@torch.library.register_fake("fasterrcnn_ops::box_iou")
def _box_iou_fake(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return _widen(boxes1).new_empty((boxes1.size(0), boxes2.size(0)))


@torch.library.register_fake("fasterrcnn_ops::box_iou_backward")
def _box_iou_backward_fake(grad: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    return boxes1.new_empty(boxes1.shape), boxes2.new_empty(boxes2.shape)


def _box_iou_setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _box_iou_backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
    boxes1, boxes2 = ctx.saved_tensors
    if boxes1.device.type in _KERNEL_DEVICES and not torch.is_grad_enabled():
        return torch.ops.fasterrcnn_ops.box_iou_backward(grad, boxes1, boxes2)
    return _box_iou_gradient(grad, boxes1, boxes2)


def _box_iou_gradient(grad: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Quotient rule on IoU = I / (A1 + A2 − I), in torch operations so that it can be differentiated again.

    ``grad`` is ``[N, M]``; pairs are ``[N, M, 2]`` with the axes x and y last.
    """
    low1, high1 = _widen(boxes1)[:, None].split(2, dim=-1)  # [N, 1, 2]
    low2, high2 = _widen(boxes2)[None].split(2, dim=-1)  # [1, M, 2]
    sides1, sides2 = high1 - low1, high2 - low2
    overlap = torch.minimum(high1, high2) - torch.maximum(low1, low2)  # [N, M, 2]
    sides = torch.relu(overlap)
    intersection = _product(sides)
    union = _product(sides1) + _product(sides2) - intersection

    grad_area = -grad * intersection / union.square()  # for either area; the union holds both with weight 1
    grad_intersection = grad / union - grad_area
    grad_overlap = grad_intersection[..., None] * sides.flip(-1) * ~(overlap <= 0)  # d(w·h) = h·dw + w·dh

    # The inner edge of an overlap belongs to one box; where both edges coincide each takes half, as in torch.maximum.
    low_is_1 = ((low1 > low2).to(grad) + (low1 >= low2).to(grad)) / 2
    high_is_1 = ((high1 < high2).to(grad) + (high1 <= high2).to(grad)) / 2
    area1 = grad_area.sum(1)[:, None] * sides1.flip(-1)[:, 0]  # [N, 2]
    area2 = grad_area.sum(0)[:, None] * sides2.flip(-1)[0]  # [M, 2]
    grad1 = torch.cat((-(grad_overlap * low_is_1).sum(1) - area1, (grad_overlap * high_is_1).sum(1) + area1), dim=1)
    grad2 = torch.cat(
        (-(grad_overlap * (1 - low_is_1)).sum(0) - area2, (grad_overlap * (1 - high_is_1)).sum(0) + area2), dim=1
    )
    return grad1.to(boxes1.dtype), grad2.to(boxes2.dtype)


_box_iou = differentiable("box_iou", _box_iou_backward, _box_iou_setup_context)
register_vmap("box_iou_backward")
