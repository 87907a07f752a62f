"""Mixed precision: features in bfloat16, anchors and boxes in float32 (bfloat16 near 1000 is good to 4 pixels)."""

from __future__ import annotations

import pytest
import torch

import fasterrcnn
from fasterrcnn.build import SYSTEMS


@pytest.mark.parametrize("system", SYSTEMS)
def test_anchors_and_decoding_stay_float32(system):
    torch.manual_seed(0)
    model = fasterrcnn.build(system, num_classes=2, backbone="tiny").eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = model.features(torch.rand(1, 3, 256, 320))
        assert features.dtype == torch.bfloat16
        output = model.rpn.predict(features)
        assert output.deltas.dtype == torch.bfloat16
        proposals = model.rpn.propose(output, [(250, 310)], [1.0], training=False)
    assert output.anchors.dtype == proposals.boxes.dtype == proposals.scores.dtype == torch.float32
    # The same maps, widened, outside autocast: decoding itself lost nothing.
    output.score_map, output.delta_map = output.score_map.float(), output.delta_map.float()
    again = model.rpn.propose(output, [(250, 310)], [1.0], training=False)
    assert torch.equal(proposals.boxes, again.boxes)
    assert int(proposals.count) > 0


@pytest.mark.parametrize("system", SYSTEMS)
def test_losses_and_detections_are_float32(system):
    torch.manual_seed(0)
    model = fasterrcnn.build(system, num_classes=2, backbone="tiny").train()
    images = [torch.rand(3, 100, 130)]
    targets = [{"boxes": torch.tensor([[10.0, 10, 60, 70]]), "labels": torch.tensor([2])}]
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, targets)
        (found,) = model.detect(images, score_threshold=0.0)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
