"""Training on a card: a step never waits for it, and draws the CPU's samples. Skipped, visibly, without one."""

from __future__ import annotations

import pytest
import support
import torch

import fasterrcnn
from fasterrcnn.training import AnchorTargets, Sampler, image_seeds
from fasterrcnn_ops import cell_anchors, grid_anchors

pytestmark = support.needs_cuda_kernel("nms_padded")

SYSTEMS = ("classic_vgg16", "resnet50_c4", "resnet50_c4_sigmoid", "stepwise_vgg16")


def batch(device: str) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 4, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 20 + torch.rand(2, 4, 2, generator=generator) * 36], dim=2)
    labels = torch.tensor([[1, 2, 3, 0], [2, 0, 0, 0]])
    sizes = torch.tensor([[96, 128], [80, 100]])
    images = torch.rand(2, 3, 96, 128, generator=generator)
    return tuple(part.to(device) for part in (images, sizes, boxes, labels, image_seeds(2, generator)))


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_step_never_waits(name):
    model = fasterrcnn.build(name, num_classes=3, backbone="tiny").cuda()
    inputs = batch("cuda")
    sum(model.losses_padded(*inputs).values()).backward()  # lets cuDNN and the allocator do their first work
    with support.no_synchronisation():
        losses = model.losses_padded(*inputs)
        sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("name", SYSTEMS)
def test_losses_of_lists_never_wait(name):
    """Images and targets that are on the card already are resized, padded and learned from there."""
    model = fasterrcnn.build(name, num_classes=3, backbone="tiny").cuda()
    images, _, boxes, labels, _ = batch("cuda")
    targets = [{"boxes": boxes[image, :count], "labels": labels[image, :count]} for image, count in ((0, 3), (1, 1))]
    sum(model.losses(list(images), targets).values()).backward()
    with support.no_synchronisation():
        losses = model.losses(list(images), targets)
        sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("border", ["keep", "ignore", "exclude"])
def test_samples_are_those_of_the_cpu(border):
    targets = AnchorTargets(sampler=Sampler(40, 0.5), border=border)
    found = []
    for device in ("cpu", "cuda"):
        _, sizes, boxes, labels, seeds = batch(device)
        cells = cell_anchors((16, 32, 64), (0.5, 1.0, 2.0), rule="stepwise", device=device)
        anchors = grid_anchors(cells, (6, 8), 16, offset=8)
        found.append(targets(anchors, boxes.masked_fill(labels[..., None] == 0, torch.nan), sizes, seeds))
    assert torch.equal(found[0][0], found[1][0].cpu())
    support.assert_close(found[0][1], found[1][1].cpu())
