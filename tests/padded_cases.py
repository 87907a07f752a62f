"""Small detectors of every system and batches for them: what the tests of the fixed-capacity form share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import fasterrcnn
from fasterrcnn.build import SYSTEMS
from fasterrcnn.padded import PaddedDetector
from fasterrcnn.types import PaddedDetections

CASES = (*SYSTEMS, "rpn_only")


def tiny(case: str, **overrides) -> nn.Module:
    """The system, or the RPN of ``resnet50_c4`` alone, with the tiny backbone and a low threshold, for use."""
    torch.manual_seed(0)
    small = {"image_size": (96, 128)} if case == "stepwise_vgg16" else {"min_size": 96, "max_size": 144}
    overrides = {"score_threshold": 0.01, **small, **overrides}
    if case == "rpn_only":
        return fasterrcnn.build("resnet50_c4", num_classes=3, backbone="tiny", rpn_only=True, **overrides).eval()
    return fasterrcnn.build(case, num_classes=3, backbone="tiny", **overrides).eval()


def padded_batch(sizes: list[tuple[int, int]], height: int = 96, width: int = 128) -> tuple[Tensor, Tensor]:
    """Noise [B, 3, H, W], the padding included, and sizes int64[B, 2]."""
    generator = torch.Generator().manual_seed(len(sizes) + height + width)
    return torch.rand(len(sizes), 3, height, width, generator=generator), torch.tensor(sizes)


# Another number of images, other sizes.
BATCHES = (
    padded_batch([(96, 128), (80, 100)]),
    padded_batch([(64, 112), (60, 50), (33, 40), (64, 64)], 64, 112),
    padded_batch([(120, 90)], 120, 90),
)


def exported(case: str) -> ExportedProgram:
    """The program of a system for any number and size of images."""
    return export(tiny(case), BATCHES[0])


def export(model: nn.Module, batch: tuple[Tensor, Tensor]) -> ExportedProgram:
    detector = PaddedDetector(model)
    return torch.export.export(detector, batch, strict=True, dynamic_shapes=detector.dynamic_shapes())


def assert_detects(found: Sequence[Tensor], expected: PaddedDetections) -> None:
    """The same but for the rounding of another order of additions, by which nearly equal scores may change places."""
    boxes, labels, scores, count = found
    assert (count - expected.count).abs().max() <= 2
    used = torch.arange(labels.shape[1]) < torch.minimum(count, expected.count)[:, None]
    torch.testing.assert_close(scores[used], expected.scores[used], rtol=1e-3, atol=1e-4)
    same = torch.isclose(boxes, expected.boxes, rtol=1e-3, atol=1e-2).all(dim=2) & (labels == expected.labels)
    assert same[used].float().mean() > 0.95
