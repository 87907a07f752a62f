"""The box operators for NumPy arrays: the same CPU kernels and the same results, without torch.

For code behind ONNX Runtime or OpenVINO, data tools and the like; importing this module does not import torch, and the
functions work where it is not installed. They have the names of the torch operators and differ in this:

* Arguments are anything ``np.asarray`` takes. float32 and float64 are computed as they are, float16 in float32, and
  integers (and lists of them) as float64. Contiguous arrays are read in place; strided, unaligned or byte-swapped ones
  are copied first. ``[]`` and ``np.array([])`` stand for no boxes.
* What does not fit raises ValueError (shapes, values) or TypeError (dtypes).
* One call runs on one thread, without the GIL: threads of yours run calls side by side.

The instruction set is chosen at run time; the environment variable FASTERRCNN_OPS_CPU_LEVEL forces one
(``baseline``, ``avx2`` or ``avx512``), with the same results.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fasterrcnn_ops._cell_rules import cell_boxes

try:
    from fasterrcnn_ops import _numpy
except ImportError as error:
    raise ImportError(
        f"fasterrcnn_ops.numpy: the compiled module could not be loaded ({error}). It is built for one Python version; "
        "reinstall it for this one: pip install --force-reinstall --no-deps . Working in the source folder, compile it "
        "first: pip install -e . --no-build-isolation"
    ) from error

__all__ = [
    "batched_nms",
    "box_iou",
    "cell_anchors",
    "cpu_level",
    "decode_boxes",
    "encode_boxes",
    "grid_anchors",
    "nms",
    "soft_nms",
]

DELTA_CLIP = math.log(1000 / 16)  # as in box_coder.py, which needs torch
_NO_LIMIT = 2**63 - 1
_SOFT_METHODS = ("naive", "linear", "gaussian")  # their position is the kernel's number for them


def nms(
    boxes: ArrayLike, scores: ArrayLike, iou_threshold: float, *, max_output: int | None = None
) -> NDArray[np.int64]:
    """Keep the best-scored box of every cluster of overlapping boxes; see :func:`fasterrcnn_ops.nms`.

    Args:
        boxes: ``[N, 4]`` corners (x1, y1, x2, y2) in pixels.
        scores: ``[N]``, higher is better; its dtype may differ from that of the boxes.
        iou_threshold: Largest IoU two kept boxes may have; overlaps *strictly* above it are suppressed.
        max_output: Stop once so many boxes are kept, >= 0; None keeps all.

    Returns:
        int64 ``[K]``, the indices of the kept boxes by descending score, K <= max_output.

    Raises:
        ValueError: A shape does not fit, or ``max_output`` is negative.
        TypeError: An array is not of real numbers.

    Note:
        Equal scores keep the lower index first, NaN scores come first, an IoU of NaN never suppresses. Deterministic.

    Example:
        >>> nms([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]], [0.8, 0.9, 0.5], 0.5)
        array([1, 2])
    """
    return _numpy.nms(_boxes(boxes), _real(scores), None, float(iou_threshold), _limit(max_output))


def batched_nms(
    boxes: ArrayLike, scores: ArrayLike, idxs: ArrayLike, iou_threshold: float, *, max_output: int | None = None
) -> NDArray[np.int64]:
    """`nms` within each class, image or level at once: boxes with different ids never suppress each other.

    Ids are compared exactly and boxes are not moved; see :func:`fasterrcnn_ops.batched_nms`.

    Args:
        boxes: ``[N, 4]``, as in `nms`.
        scores: ``[N]``, as in `nms`.
        idxs: ``[N]`` ids of any integer, bool or floating dtype. Floats are compared by value; a NaN id equals nothing.
        iou_threshold: As in `nms`.
        max_output: As in `nms`, over all ids together.

    Returns:
        int64 ``[K]``, the indices of the kept boxes by descending score over all ids.

    Raises:
        ValueError, TypeError: As in `nms`, and for ``idxs`` likewise.

    Example:
        >>> batched_nms([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]], [0.8, 0.9, 0.5], [1, 1, 2], 0.5)
        array([1, 2])
    """
    return _numpy.nms(_boxes(boxes), _real(scores), np.asarray(idxs), float(iou_threshold), _limit(max_output))


def soft_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    *,
    max_output: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Select boxes by descending score, lowering the scores of those that overlap each selected one.

    See :func:`fasterrcnn_ops.soft_nms`.

    Args:
        boxes: ``[N, 4]`` corners (x1, y1, x2, y2) in pixels.
        scores: ``[N]``, higher is better; its dtype may differ from that of the boxes.
        iou_threshold: For "naive" and "linear": IoUs of at least this lower a score.
        sigma: For "gaussian": how far IoU reaches, > 0.
        min_score: Boxes with less are dropped.
        method: What a score is multiplied by at an IoU o: "linear", 1 - o; "gaussian", exp(-o² / sigma); "naive", 0.
        max_output: Stop after so many selections, >= 0; None: no limit.

    Returns:
        keep: int64 ``[K]``, the indices of the selected boxes in order of selection.
        scores: ``[K]``, dtype of ``scores`` (float64 for integers): their scores when selected.

    Raises:
        ValueError: A shape does not fit, ``sigma`` is not positive, ``max_output`` is negative, or an unknown method.
        TypeError: An array is not of real numbers.

    Example:
        >>> soft_nms([[0, 0, 10, 10], [0, 0, 10, 5], [20, 0, 30, 10]], [0.75, 0.5, 0.375])
        (array([0, 2, 1]), array([0.75 , 0.375, 0.25 ]))
    """
    if method not in _SOFT_METHODS:
        raise ValueError(f"method: expected one of {', '.join(_SOFT_METHODS)}, got {method!r}")
    numbers = float(iou_threshold), float(sigma), float(min_score)
    return _numpy.soft_nms(_boxes(boxes), _real(scores), *numbers, _SOFT_METHODS.index(method), _limit(max_output))


def box_iou(boxes1: ArrayLike, boxes2: ArrayLike) -> NDArray[np.floating]:
    """Intersection over union of every pair of boxes; see :func:`fasterrcnn_ops.box_iou`.

    Args:
        boxes1: ``[N, 4]`` corners (x1, y1, x2, y2) in pixels.
        boxes2: ``[M, 4]``, likewise.

    Returns:
        ``[N, M]``: float64 if one of the arrays is, else float32.

    Raises:
        ValueError: A shape does not fit.
        TypeError: An array is not of real numbers.

    Note:
        Two boxes without area, and NaN coordinates, give NaN.

    Example:
        >>> box_iou([[0, 0, 2, 2]], [[1, 0, 2, 2], [4, 0, 6, 2]])
        array([[0.5, 0. ]])
    """
    return _numpy.box_iou(_boxes(boxes1), _boxes(boxes2))


def encode_boxes(
    boxes: ArrayLike,
    anchors: ArrayLike,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    inclusive: bool = False,
) -> NDArray[np.floating]:
    """Regression deltas that take ``anchors`` to ``boxes``; see :func:`fasterrcnn_ops.encode_boxes`.

    Args:
        boxes: ``[N, 4]`` corners (x1, y1, x2, y2) in pixels.
        anchors: ``[N, 4]``, likewise, row by row the anchor of each box.
        weights: ``(wx, wy, ww, wh)``, positive; deltas are multiplied by them.
        inclusive: x2 and y2 name the last pixel inside the box.

    Returns:
        ``[N, 4]`` deltas (dx, dy, dw, dh) in the promoted dtype of both.

    Raises:
        ValueError: A shape does not fit, or a weight is not positive.
        TypeError: An array is not of real numbers.

    Example:
        >>> encode_boxes([[4.0, 0.0, 12.0, 8.0]], [[0.0, 0.0, 8.0, 8.0]])
        array([[0.5, 0. , 0. , 0. ]])
    """
    return _numpy.encode_boxes(_boxes(boxes), _boxes(anchors), [float(weight) for weight in weights], bool(inclusive))


def decode_boxes(
    deltas: ArrayLike,
    anchors: ArrayLike,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    clip: float = DELTA_CLIP,
    image_size: tuple[float, float] | None = None,
    inclusive: bool = False,
) -> NDArray[np.floating]:
    """Boxes that ``deltas`` make of ``anchors``; see :func:`fasterrcnn_ops.decode_boxes`.

    Args:
        deltas: ``[N, 4 * K]`` (dx, dy, dw, dh) K times.
        anchors: ``[N, 4]`` corners (x1, y1, x2, y2) in pixels; each serves its row's K boxes.
        weights: ``(wx, wy, ww, wh)``, positive; deltas are divided by them.
        clip: Upper bound of dw and dh before the exponential; ``math.inf`` for none.
        image_size: ``(height, width)`` in pixels; boxes are clamped to it if given.
        inclusive: x2 and y2 name the last pixel inside the box.

    Returns:
        ``[N, 4 * K]`` boxes in pixels, in the promoted dtype of both.

    Raises:
        ValueError: A shape does not fit, a weight is not positive, or an image side is negative.
        TypeError: An array is not of real numbers.

    Example:
        >>> decode_boxes([[0.5, 0.0, 0.0, 0.0]], [[0.0, 0.0, 8.0, 8.0]])
        array([[ 4.,  0., 12.,  8.]])
    """
    size = None if image_size is None else [float(side) for side in image_size]
    numbers = [float(weight) for weight in weights]
    return _numpy.decode_boxes(_boxes(deltas), _boxes(anchors), numbers, float(clip), size, bool(inclusive))


def cell_anchors(
    sizes: float | Sequence[float],
    ratios: float | Sequence[float],
    *,
    rule: str = "centered",
    base_size: float = 16.0,
    dtype: DTypeLike = np.float32,
) -> NDArray[np.floating]:
    """Anchor boxes of a single location, one for each size and ratio; see :func:`fasterrcnn_ops.cell_anchors`.

    Args:
        sizes: One or several sizes in pixels, > 0: the side of the square of the same area.
        ratios: One or several ratios height / width, > 0.
        rule: ``"centered"``, ``"torchvision"``, ``"stepwise"``, ``"classic"`` or ``"rounded"``: the family's rounding
            and order.
        base_size: Side in pixels of the window in which ``"rounded"`` rounds.
        dtype: Floating-point dtype of the result.

    Returns:
        ``[A, 4]``, A = len(sizes) · len(ratios): boxes (x1, y1, x2, y2) in pixels about the location.

    Raises:
        ValueError: No or no positive sizes or ratios, or an unknown rule.
        TypeError: ``sizes`` or ``ratios`` holds no numbers, or ``dtype`` is not floating point.

    Example:
        >>> cell_anchors([32.0], [1.0])
        array([[-16., -16.,  16.,  16.]], dtype=float32)
    """
    if np.dtype(dtype).kind != "f":
        raise TypeError(f"dtype must be a floating-point dtype; got {np.dtype(dtype)}")
    return np.array(cell_boxes(sizes, ratios, rule, base_size), dtype=dtype)


def grid_anchors(
    cell_anchors: ArrayLike,
    feature_size: tuple[int, int],
    stride: float | tuple[float, float],
    *,
    offset: float = 0.0,
    dtype: DTypeLike | None = None,
) -> NDArray[np.floating]:
    """Places every cell anchor at every location of a feature map; see :func:`fasterrcnn_ops.grid_anchors`.

    Args:
        cell_anchors: ``[A, 4]`` boxes (x1, y1, x2, y2) about the origin, in input pixels.
        feature_size: ``(H, W)`` of the feature map, each >= 0.
        stride: Input pixels between neighbouring locations, one number or ``(stride_y, stride_x)``.
        offset: Input pixels from the image corner to location (0, 0).
        dtype: Floating-point dtype of the result; that of ``cell_anchors`` by default.

    Returns:
        ``[H * W * A, 4]`` anchors in input pixels; anchor ``a`` of location ``(y, x)`` is row ``(y * W + x) * A + a``.

    Raises:
        ValueError: A shape does not fit, a size is negative, or ``feature_size`` or ``stride`` is not a pair.
        TypeError: An array is not of real numbers, or a size is not an integer.

    Example:
        >>> grid_anchors([[-8.0, -8.0, 8.0, 8.0]], (1, 2), stride=16)
        array([[-8., -8.,  8.,  8.],
               [ 8., -8., 24.,  8.]])
    """
    height, width = (operator.index(side) for side in _pair(feature_size, "feature_size"))
    stride_h, stride_w = (stride, stride) if np.ndim(stride) == 0 else _pair(stride, "stride")
    cells = _boxes(cell_anchors)
    if dtype is not None:
        cells = cells.astype(dtype)
    return _numpy.grid_anchors(cells, height, width, float(stride_h), float(stride_w), float(offset))


def cpu_level() -> str:
    """The instruction set in use: ``"baseline"``, ``"avx2"`` or ``"avx512"``.

    Raises:
        RuntimeError: FASTERRCNN_OPS_CPU_LEVEL names a level that does not exist or that this machine cannot run.
    """
    return _numpy.cpu_level()


def _real(values: ArrayLike) -> NDArray:
    """An array; integers as float64, the only dtype that holds all those that occur as coordinates."""
    array = np.asarray(values)
    return array.astype(np.float64) if array.dtype.kind in "iu" else array


def _boxes(values: ArrayLike) -> NDArray:
    array = _real(values)
    return array.reshape(0, 4) if array.shape == (0,) else array


def _limit(max_output: int | None) -> int:
    return _NO_LIMIT if max_output is None else operator.index(max_output)


def _pair(value: Sequence, name: str) -> Sequence:
    if np.ndim(value) != 1 or len(value) != 2:
        raise ValueError(f"{name}: expected a pair (y, x), got {value!r}")
    return value
