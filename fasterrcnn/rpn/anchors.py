"""The anchors of a feature map, computed and never stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fasterrcnn.types import Size
from fasterrcnn_ops import cell_anchors, grid_anchors


class AnchorGrid(nn.Module):
    """One set of cell anchors repeated over the locations of a feature map.

    A module so that its anchors are where the model is, and need no copy from the host. They are in no state dict, and
    stay float32 whatever the model becomes: bfloat16 has eight bits for a coordinate.

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
        super().__init__()
        # On the CPU even where a model is built under torch.device("meta"): there is nothing to load into anchors.
        self._cells = cell_anchors(sizes, ratios, rule=rule, device="cpu")
        self.register_buffer("cell_anchors", self._cells, persistent=False)
        self.stride = stride
        self.offset = offset

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AnchorGrid:
        # Every move or change of format of a model comes through here. Only the place is taken from it.
        self.cell_anchors = self._cells.to(fn(self.cell_anchors).device)
        return self

    def __len__(self) -> int:
        """A, the number of anchors per location."""
        return len(self.cell_anchors)

    def forward(self, feature_size: Size, device: torch.device | str | None = None) -> Tensor:
        """float32[H·W·A, 4], in pixels of the input: anchor a of location (y, x) is row (y·W + x)·A + a."""
        return grid_anchors(self.cell_anchors.to(device), feature_size, self.stride, offset=self.offset)

    def extra_repr(self) -> str:
        return f"{len(self)} per location, stride={self.stride}, offset={self.offset}"
