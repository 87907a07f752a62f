"""The anchors of a feature map, computed and never stored as parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasterrcnn.types import Size
from fasterrcnn_ops import cell_anchors, grid_anchors


class AnchorGrid:
    """One set of cell anchors repeated over the locations of a feature map.

    Args:
        sizes: Anchor sizes in input pixels, the side of the square of equal area.
        ratios: Aspect ratios, height / width.
        stride: Input pixels per location.
        rule: How sizes and ratios become boxes; see :func:`fasterrcnn_ops.cell_anchors`. The default "classic" stores
            its boxes transposed, (−h/2, −w/2, h/2, w/2) in the columns x1, y1, x2, y2: a ratio of 0.5 is tall here.
            Kept so that checkpoints of that line, trained with it, mean the same here.
        offset: Input pixels from a location's corner to the point its anchors lie around.
    """

    def __init__(
        self,
        sizes: Sequence[float],
        ratios: Sequence[float],
        stride: int,
        *,
        rule: str = "classic",
        offset: float = 0.0,
    ) -> None:
        # On the CPU even where a model is built under torch.device("meta"): there is nothing to load into anchors.
        self.cell_anchors = cell_anchors(sizes, ratios, rule=rule, device="cpu")
        self.stride = stride
        self.offset = offset

    def __len__(self) -> int:
        """A, the number of anchors per location."""
        return len(self.cell_anchors)

    def __call__(self, feature_size: Size, device: torch.device | str | None = None) -> Tensor:
        """float32[H·W·A, 4], in pixels of the input: anchor a of location (y, x) is row (y·W + x)·A + a."""
        cells = self.cell_anchors.to(device)
        return grid_anchors(cells, feature_size, self.stride, offset=self.offset)
