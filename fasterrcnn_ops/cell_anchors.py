"""The anchors of one feature-map location, by the rule of each Faster R-CNN family.

A handful of numbers computed once on the host, so there is no kernel: plain Python in double precision
(``_cell_rules.py``), rounded once to the requested dtype. :func:`fasterrcnn_ops.grid_anchors` repeats them over a
feature map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasterrcnn_ops._cell_rules import cell_boxes


def cell_anchors(
    sizes: float | Sequence[float],
    ratios: float | Sequence[float],
    *,
    rule: str = "centered",
    base_size: float = 16.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Anchor boxes of a single location, one for each size and aspect ratio.

    Every rule reads its arguments alike; the families differ in rounding, in the point the boxes lie around and in the
    order of the result. With s a size and r a ratio:

    =============== ============================== ======================== ========================================
    rule            width × height                 around                   order (outer, inner); family
    =============== ============================== ======================== ========================================
    ``centered``    s/√r × s·√r                    (0, 0)                   sizes, ratios; detectron2
    ``torchvision`` s/√r × s·√r, corners rounded   (0, 0)                   ratios, sizes; torchvision
    ``stepwise``    s/√r × s·√r                    (0, 0)                   ratios, sizes; step-by-step VGG-16, laid on
                                                                            a grid with ``offset=8``
    ``classic``     s·√r × s/√r, **transposed**    (0, 0)                   ratios, sizes; the classic PyTorch line
    ``rounded``     w·s/base × h·s/base, in whole  (base−1)/2, (base−1)/2   ratios, sizes; py-faster-rcnn, GluonCV,
                    inclusive pixels                                        maskrcnn-benchmark, Detectron
    =============== ============================== ======================== ========================================

    * ``rounded`` starts from the window (0, 0, base − 1, base − 1) in coordinates that include their last pixel: per
      ratio w = round(√(base²/r)) and h = round(w·r), then both are multiplied by s/base, and
      x1, x2 = cx ∓ (w − 1)/2. With base 16, ratio 1 and size 128 that is (−56, −56, 71, 71): 128 pixels, x2 − x1 = 127.
    * ``classic`` writes heights into the x columns and widths into the y columns: (−h/2, −w/2, h/2, w/2). A ratio of
      0.5 is therefore *tall* here and wide under every other rule. Checkpoints of that family were trained so; kept on
      purpose.
    * Rounding is half to even, as NumPy and torch round.

    Args:
        sizes: One or several anchor sizes s in input pixels: the side of the square of the same area, > 0. A family
            that speaks of scales 8, 16, 32 over a base of 16 has the sizes 128, 256, 512.
        ratios: One or several aspect ratios r = height / width, > 0.
        rule: One of ``"centered"``, ``"torchvision"``, ``"stepwise"``, ``"classic"``, ``"rounded"``.
        base_size: Side in pixels, > 0, of the window in which ``"rounded"`` rounds; the published models use the
            feature stride. Other rules ignore it.
        dtype: Floating-point dtype of the result.
        device: Device of the result; the default is torch's.

    Returns:
        ``[A, 4]``, A = len(sizes) · len(ratios): boxes (x1, y1, x2, y2) in input pixels, relative to a location's point
        on the grid, in the order of the table.

    Raises:
        ValueError: ``sizes`` or ``ratios`` is empty, a number is not finite and positive, or the rule is unknown.
        TypeError: ``sizes`` or ``ratios`` holds something else than numbers, or ``dtype`` is not floating point.

    Note:
        Not differentiable: sizes and ratios are configuration.

    Sources: Ren et al., "Faster R-CNN", section 3.1.1; the rules follow the public code of each family.

    Example:
        >>> cell_anchors([32.0], [1.0])
        tensor([[-16., -16.,  16.,  16.]])
        >>> cell_anchors(128, (0.5, 1.0), rule="rounded")
        tensor([[-84., -40.,  99.,  55.],
                [-56., -56.,  71.,  71.]])
    """
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point dtype; got {dtype}")
    return torch.tensor(cell_boxes(sizes, ratios, rule, base_size), dtype=dtype, device=device)
