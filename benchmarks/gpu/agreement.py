"""How well two results match: in words for the table, an AssertionError where they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Of the kept boxes, how many may differ from torchvision's on CUDA, which contracts products to FMA there: an IoU
# within a rounding of the threshold may fall on either side, and what hangs on that box with it.
MOST_FLIPPED = 2e-3


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
