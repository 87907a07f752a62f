"""Boxes as offsets from reference boxes: the coordinates in which both stages of the detector regress."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fasterrcnn.types import Size
from fasterrcnn_ops import decode_boxes, encode_boxes


@dataclass(frozen=True)
class BoxCoder:
    """The parametrisation (dx, dy, dw, dh) of the Faster R-CNN paper, equation 2, with the choices of a family.

    Attributes:
        weights: Factors on (dx, dy, dw, dh). Dividing targets by standard deviations of (.1, .1, .2, .2), as the
            classic line writes it, is the same as weights (10, 10, 5, 5).
        inclusive: Widths count their last pixel (x2 − x1 + 1), the old convention of Detectron and its relatives.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    inclusive: bool = False

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Offsets [L, 4] that lead from ``references`` [L, 4] to ``boxes`` [L, 4], pixels to dimensionless."""
        return encode_boxes(boxes, references, self.weights, inclusive=self.inclusive)

    def decode(self, deltas: Tensor, references: Tensor, image_size: Size | None = None) -> Tensor:
        """Boxes that ``deltas`` [L, 4k] describe from ``references`` [L, 4], clipped to ``image_size`` if given.

        Always computed in float32 or better: an fp16 coordinate near 1000 is only good to half a pixel.
        """
        references = references if references.dtype.itemsize >= 4 else references.float()
        return decode_boxes(
            deltas.to(references.dtype), references, self.weights, image_size=image_size, inclusive=self.inclusive
        )
