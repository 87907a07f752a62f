"""Whole detectors on a card: from images to detections without waiting for it. Skipped, visibly, without one."""

from __future__ import annotations

import pytest
import support
import torch
from padded_cases import BATCHES, CASES, tiny

pytestmark = support.needs_cuda_kernel("nms_padded")

CUDA = torch.device("cuda")


@pytest.mark.parametrize("case", CASES)
def test_nothing_waits_for_the_card(case):
    model = tiny(case).to(CUDA)
    images, sizes = (tensor.to(CUDA) for tensor in BATCHES[0])
    scales = torch.ones(2, device=CUDA)
    with torch.no_grad():
        model.forward_padded(images, sizes)  # libraries start up
        with support.no_synchronisation():
            found = model.forward_padded(images, sizes, scales, score_threshold=0.01, nms_threshold=0.4)
    assert found.boxes.device.type == "cuda"
    assert found.count.min() > 0


@pytest.mark.parametrize("case", CASES)
def test_detect_agrees_with_the_card(case):
    """The one read-back is detect's; scores of untrained weights differ by roundings of the convolutions."""
    model = tiny(case)
    images = [torch.rand(3, 64, 90), torch.rand(3, 120, 80)]
    expected = model.detect(images)
    for found, other in zip(model.to(CUDA).detect(images), expected, strict=True):
        assert found.boxes.device.type == "cuda"
        common = min(len(found), len(other))
        assert common > 0.8 * max(len(found), len(other))
        torch.testing.assert_close(found.scores[:common].cpu(), other.scores[:common], rtol=0, atol=1e-2)
