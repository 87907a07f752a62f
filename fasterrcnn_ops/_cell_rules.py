"""The rules behind `cell_anchors`, in plain Python: used with torch and without it.

What each rule means is written at :func:`fasterrcnn_ops.cell_anchors`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

Box = tuple[float, float, float, float]


def cell_boxes(
    sizes: float | Sequence[float], ratios: float | Sequence[float], rule: str, base_size: float
) -> list[Box]:
    """The A boxes (x1, y1, x2, y2) of one location in double precision; arguments and errors as `cell_anchors`."""
    if rule not in _RULES:
        raise ValueError(f"rule must be one of {', '.join(map(repr, _RULES))}; got {rule!r}")
    boxes = _RULES[rule](
        _positive_numbers(sizes, "sizes"),
        _positive_numbers(ratios, "ratios"),
        _positive_numbers(base_size, "base_size")[0],
    )
    return list(boxes)


def _positive_numbers(values: float | Sequence[float], name: str) -> list[float]:
    """``values`` as a non-empty list of finite, positive floats; a single number is a list of one."""
    if isinstance(values, str | bytes):
        raise TypeError(f"{name} must be a number or a sequence of numbers; got {values!r}")
    try:
        numbers = [float(value) for value in values]  # type: ignore[union-attr]
    except TypeError:
        try:
            numbers = [float(values)]  # type: ignore[arg-type]
        except TypeError:
            raise TypeError(f"{name} must be a number or a sequence of numbers; got {values!r}") from None
    if not numbers:
        raise ValueError(f"{name} must hold at least one number; got none")
    for number in numbers:
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be finite and positive; got {number}")
    return numbers


def _around_zero(width: float, height: float) -> Box:
    return (-width / 2, -height / 2, width / 2, height / 2)


def _centered(sizes: list[float], ratios: list[float], base_size: float) -> Iterator[Box]:
    for size, ratio in product(sizes, ratios):
        yield _around_zero(size / math.sqrt(ratio), size * math.sqrt(ratio))


def _stepwise(sizes: list[float], ratios: list[float], base_size: float) -> Iterator[Box]:
    for ratio, size in product(ratios, sizes):
        yield _around_zero(size / math.sqrt(ratio), size * math.sqrt(ratio))


def _torchvision(sizes: list[float], ratios: list[float], base_size: float) -> Iterator[Box]:
    for x1, y1, x2, y2 in _stepwise(sizes, ratios, base_size):
        yield (round(x1), round(y1), round(x2), round(y2))


def _classic(sizes: list[float], ratios: list[float], base_size: float) -> Iterator[Box]:
    for x1, y1, x2, y2 in _stepwise(sizes, ratios, base_size):
        yield (y1, x1, y2, x2)


def _rounded(sizes: list[float], ratios: list[float], base_size: float) -> Iterator[Box]:
    centre = (base_size - 1) / 2
    for ratio, size in product(ratios, sizes):
        window_width = round(math.sqrt(base_size * base_size / ratio))
        window_height = round(window_width * ratio)
        half_width = (window_width * size / base_size - 1) / 2
        half_height = (window_height * size / base_size - 1) / 2
        yield (centre - half_width, centre - half_height, centre + half_width, centre + half_height)


_RULES: dict[str, Callable[[list[float], list[float], float], Iterator[Box]]] = {
    "centered": _centered,
    "torchvision": _torchvision,
    "stepwise": _stepwise,
    "classic": _classic,
    "rounded": _rounded,
}
