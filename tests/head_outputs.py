"""Outputs of a box head for the tests of detections."""

from __future__ import annotations

import torch
from torch import Tensor

SIZES = torch.tensor([[300, 400], [280, 410]])


def head_outputs(
    batch: int = 2,
    slots: int = 40,
    classes: int = 5,
    *,
    background_boxes: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    values: str = "ordinary",
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(class logits, box deltas, proposals, count); proposals crowd, so that NMS has work. ``values``: "ordinary",
    "ties" (few different logits) or "hostile"."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    logits = 2 * draw(batch, slots, classes + 1)
    deltas = draw(batch, slots, 4 * (classes + background_boxes))
    centre = torch.tensor([200.0, 150.0], dtype=torch.float64) + 60 * draw(batch, slots, 2)
    half = 10 + 60 * torch.rand(batch, slots, 2, generator=generator, dtype=torch.float64)
    proposals = torch.cat([centre - half, centre + half], dim=2)
    if values == "ties":
        logits, deltas = logits.round(), torch.zeros_like(deltas)
    if values == "hostile":
        bad = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, -0.0, 0.0], dtype=torch.float64)
        for tensor, share in ((logits, 0.02), (deltas, 0.1), (proposals, 0.02)):
            chosen = torch.rand(tensor.shape, generator=generator) < share
            tensor[chosen] = bad[torch.randint(len(bad), (int(chosen.sum()),), generator=generator)]
    count = torch.randint(slots // 2, slots + 1, (batch,), generator=generator)
    to = {"dtype": dtype, "device": device}
    return logits.to(**to), deltas.to(**to), proposals.to(**to), count.to(device)
