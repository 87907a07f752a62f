"""A whole detector on the CPU: the C4 system, from image to detections.

Rivals: the same modules on torchvision's operators in contiguous float32 ("torchvision"), and the plain
``model.detect`` ("reference"). Ours is ``model.optimize_for_inference(dtype)``. Of the fixed-capacity form ours is
``forward_padded`` of images batched before, where the reference goes from a list to a list.
"""

from __future__ import annotations

import on_torchvision
import pytest
import torch
from torch import nn

import fasterrcnn
from fasterrcnn.backbone.resnet import Bottleneck
from fasterrcnn.types import Detections, PaddedDetections

IMAGE = (800, 1066)


def realistic(model: nn.Module) -> nn.Module:
    """Random weights whose activations stay in the range a trained network has them in; biases of the RPN spread."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.bn3.weight.data.fill_(0.2)
    with torch.no_grad():
        head = model.rpn.head
        head.cls_logits.weight.mul_(2)
        head.bbox_pred.weight.mul_(0.02)
        head.cls_logits.bias.copy_(torch.randn(head.cls_logits.bias.shape, generator=generator))
    return model


def same_scores(tolerance: float):
    """Detections hang on thresholds and ties: those that are there have nearly the same scores."""

    def same(found, expected):
        (found,), (expected,) = found, expected
        common = min(len(found), len(expected))
        assert common > 0
        assert abs(len(found) - len(expected)) <= 0.1 * len(expected)
        torch.testing.assert_close(found.scores[:common], expected.scores[:common], rtol=0, atol=tolerance)

    return same


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_c4(race, dtype):
    torch.manual_seed(0)
    model = realistic(fasterrcnn.build("resnet50_c4", num_classes=20, score_threshold=0.04)).eval()
    fast = model.optimize_for_inference(dtype)
    image = [torch.rand(3, *IMAGE, generator=torch.Generator().manual_seed(1))]
    implementations = {
        "ours": lambda: fast.detect(image),
        "reference": lambda: model.detect(image),
        "torchvision": lambda: on_torchvision.detect(model, image),
    }
    name = "float32" if dtype == torch.float32 else "bfloat16"
    race(f"detector/resnet50_c4_{name}", implementations, same_scores(1e-3 if dtype == torch.float32 else 2e-2))


@pytest.mark.parametrize("images", [1, 4])
def test_padded(race, images):
    """With a small trunk, so that what surrounds the convolutions shows."""
    torch.manual_seed(0)
    model = fasterrcnn.build("classic_resnet50", num_classes=20, backbone="tiny", score_threshold=0.04).eval()
    generator = torch.Generator().manual_seed(1)
    batch = [torch.rand(3, 320, 480, generator=generator) for _ in range(images)]

    def padded() -> PaddedDetections:
        with torch.no_grad():
            collated = model.batcher.collate(batch)
            return model.forward_padded(collated.images, collated.image_sizes(), collated.image_scales())

    def same(found: PaddedDetections, expected: list[Detections]) -> None:
        assert found.count.tolist() == [len(detections) for detections in expected]
        for scores, detections in zip(found.scores, expected, strict=True):
            assert torch.equal(scores[: len(detections)], detections.scores)

    race(f"detector/padded_{images}_images", {"ours": padded, "reference": lambda: model.detect(batch)}, same)
