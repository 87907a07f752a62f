"""How well two results match: in words for the table, an AssertionError where they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Of the kept boxes, how many may differ from torchvision's on CUDA, which contracts products to FMA there: an IoU
# within a rounding of the threshold may fall on either side, and what hangs on that box with it.
MOST_FLIPPED = 2e-3
# Of matches, for the same reason: an anchor has to be that near a threshold, or overlap two targets equally.
MOST_REMATCHED = 1e-4
# Of selected boxes, beside the share above: one that another took the place of.
ONE_SWAPPED = 2
SLOTS_FOR_A_SWAP = 100  # no swaps among fewer


def _pairs(found: Any, expected: Any) -> list[tuple[Tensor, Tensor]]:
    if isinstance(found, Tensor):
        return [(found, expected)]
    return list(zip(found, expected, strict=True))


def all_equal(found: Any, expected: Any) -> str:
    """Every value is the same."""
    for one, other in _pairs(found, expected):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    return "equal"


def close_to(relative: float, absolute: float) -> Callable[[Any, Any], str]:
    """An ``agree`` with tolerances; it tells the largest difference."""

    def agree(found: Any, expected: Any) -> str:
        largest = 0.0
        for one, other in _pairs(found, expected):
            torch.testing.assert_close(one, other, rtol=relative, atol=absolute, equal_nan=True)
            if one.numel():
                largest = max(largest, (one.double() - other.double()).abs().max().item())
        return "equal" if largest == 0 else f"within {largest:.1e}"

    return agree


def same_indices(found: Tensor, expected: Tensor) -> str:
    """The same boxes in the same order, up to ``MOST_FLIPPED`` of them."""
    if torch.equal(found, expected):
        return "equal"
    ours, theirs = set(found.tolist()), set(expected.tolist())
    flipped = len(ours ^ theirs)
    assert ours != theirs, "the same boxes in another order"
    assert flipped <= MOST_FLIPPED * len(theirs), f"{flipped} of {len(theirs)} kept boxes differ"
    return f"{flipped} of {len(theirs)} kept boxes differ"


def few_flipped(found: Tensor, expected: Tensor) -> str:
    """The same matches, up to ``MOST_REMATCHED`` of them."""
    differing = int((found != expected).sum())
    assert differing <= MOST_REMATCHED * expected.numel(), f"{differing} of {expected.numel()} matches differ"
    return "equal" if differing == 0 else f"{differing} of {expected.numel()} matches differ"


def as_many_drawn(found: Any, expected: Any) -> str:
    """Masks of what was drawn at random, of each kind [B, N] or a list of [N]: as many of each image."""
    same = True
    for one, other in zip(found, expected, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            counts = int(ours.sum()), int(theirs.sum())
            assert counts[0] == counts[1], f"{counts[0]} were drawn instead of {counts[1]}"
            same = same and torch.equal(ours.bool(), theirs.bool())
    return "equal" if same else "as many drawn"


def same_selection(score: float = 1e-5, pixels: float = 1e-2, share: float = MOST_FLIPPED) -> Callable[[Any, Any], str]:
    """An ``agree`` for boxes chosen by score: every box has a twin within these tolerances, few have none.

    Order does not count among nearly equal scores, but ours must descend. As for ``same_indices`` an IoU near the
    threshold may fall on either side, and a place at the end of the list may go to either of two equal scores.

    Args:
        score: largest difference of twins' scores.
        pixels: of their coordinates.
        share: of the boxes, how many may have no twin, those of both sides counted.
    """

    def agree(found: Any, expected: Any) -> str:
        total = alone = 0
        largest = 0.0
        for one, other in zip(selected_rows(found), selected_rows(expected), strict=True):
            assert (one[:, 0].diff() <= 0).all(), "scores do not descend"
            scale = torch.tensor([1 / score, 1e9, *[1 / pixels] * 4], dtype=torch.float64)  # a label has to be equal
            distance = torch.cdist(one * scale, other * scale, p=float("inf"))
            twins = [
                distance.amin(dim=axis) <= 1 if distance.numel() else torch.zeros(size, dtype=torch.bool)
                for axis, size in ((1, len(one)), (0, len(other)))
            ]
            total += len(other)
            alone += sum(int((~has_twin).sum()) for has_twin in twins)
            if distance.numel() and twins[0].any():
                nearest = distance.argmin(dim=1)[twins[0]]
                largest = max(largest, (one[twins[0]] - other[nearest])[:, 2:].abs().max().item())
        allowed = share * total + (ONE_SWAPPED if total >= SLOTS_FOR_A_SWAP else 0)
        assert alone <= allowed, f"{alone} boxes of {total} have no twin"
        if alone:
            return f"{alone} of {total} boxes have no twin"
        return "equal" if largest == 0 else f"within {largest:.1e} px"

    return agree


def selected_rows(result: Any) -> list[Tensor]:
    """Per image the selected boxes, float64 [K, 6] on the CPU: score, label (0 where there is none), x1, y1, x2, y2.

    Args:
        result: ours, in fixed capacity: (boxes [B, D, 4], scores [B, D], count [B]), or with labels before the scores;
            or torchvision's lists with a tensor for each image, in the same order and without the count.
    """
    boxes, *labels, scores = result[:-1] if isinstance(result[0], Tensor) else result
    counts = result[-1].tolist() if isinstance(result[0], Tensor) else [len(of_image) for of_image in boxes]
    labels = labels[0] if labels else [torch.zeros_like(of_image) for of_image in scores]
    return [
        torch.cat([score[:count, None].double(), label[:count, None].double(), box[:count].double()], dim=1).cpu()
        for box, label, score, count in zip(boxes, labels, scores, counts, strict=True)
    ]
