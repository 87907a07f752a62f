"""Training in fixed shapes: the same samples and losses as one image at a time, and nothing read back to the host."""

from __future__ import annotations

import math

import pytest
import torch
from padded_batches import COUNTS, SYSTEMS, batch, tiny
from torch import Tensor, nn

import fasterrcnn
from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.model import TwoStageDetector
from fasterrcnn.training import AnchorTargets, Matcher, ProposalTargets, Sampler, StageLoss
from fasterrcnn.training.targets import RoISamples
from fasterrcnn.types import Proposals
from fasterrcnn_ops import cell_anchors, grid_anchors

# Sample for sample.


def anchors() -> Tensor:
    return grid_anchors(cell_anchors((16, 32, 64), (0.5, 1.0, 2.0), rule="stepwise"), (6, 8), 16, offset=8)


@pytest.mark.parametrize("border", ["keep", "ignore", "exclude"])
@pytest.mark.parametrize("inclusive", [False, True])
def test_anchors_of_a_batch_are_those_of_its_images(border, inclusive):
    _, sizes, boxes, labels, seeds = batch(extra=2)
    targets = AnchorTargets(sampler=Sampler(40, 0.5), coder=BoxCoder(inclusive=inclusive), border=border)
    of_batch = targets(anchors(), boxes.masked_fill(labels[..., None] == 0, math.nan), sizes, seeds)
    assert [part.shape for part in of_batch] == [(3, 432), (3, 432, 4)]
    for image, (size, count) in enumerate(zip(sizes.tolist(), COUNTS, strict=True)):
        alone = targets(anchors(), boxes[image, :count], tuple(size), int(seeds[image]))
        for ours, theirs in zip(alone, of_batch, strict=True):
            assert torch.equal(ours, theirs[image])
        assert (alone[0] >= 0).sum() == 40
        assert (alone[0] == 1).any() == (count > 0)


@pytest.mark.parametrize("add_ground_truth", [True, False])
@pytest.mark.parametrize("matcher", [Matcher(0.5, 0.5), Matcher(0.6, 0.2)], ids=["one_threshold", "two"])
@pytest.mark.parametrize("samples", [16, 500])
def test_proposals_of_a_batch_are_those_of_its_images(add_ground_truth, matcher, samples):
    _, _, boxes, labels, seeds = batch(extra=2)
    generator = torch.Generator().manual_seed(5)
    near = boxes[:, :1].expand(-1, 50, -1) + torch.randn(3, 50, 4, generator=generator) * 6
    proposals = Proposals(near, torch.zeros(3, 50), torch.tensor([50, 20, 0]))
    proposals.boxes[~proposals.valid()] = 0
    targets = ProposalTargets(matcher, Sampler(samples, 0.25), add_ground_truth=add_ground_truth)
    nan_padded = boxes.masked_fill(labels[..., None] == 0, math.nan)
    found = targets.padded(proposals, nan_padded, labels, seeds)
    slots = min(samples, 50 + 5 * add_ground_truth)
    assert found.labels.shape == (3, slots)
    assert found.boxes.shape == found.deltas.shape == (3, slots, 4)
    for image, count in enumerate(COUNTS):
        of_image = proposals.boxes[image, : proposals.count[image]]
        alone = targets(of_image, boxes[image, :count], labels[image, :count], int(seeds[image]))
        used = len(alone[0])
        for ours, theirs in zip(alone, (found.boxes, found.labels, found.deltas), strict=True):
            assert torch.equal(ours, theirs[image, :used])
        assert (found.labels[image, used:] == -1).all()
        assert not found.deltas[image, used:].any()
        # Unused slots repeat the used ones in turn; without any they are some finite box.
        if used:
            assert torch.equal(found.boxes[image], alone[0][torch.arange(slots) % used])
        assert found.boxes.isfinite().all()


def test_no_ground_truth_anywhere():
    """M = 0: everything sampled is background."""
    _, sizes, boxes, labels, seeds = batch((0, 0))
    assert boxes.shape == (2, 0, 4)
    anchor_labels, deltas = AnchorTargets(sampler=Sampler(40, 0.5))(anchors(), boxes, sizes, seeds)
    assert (anchor_labels == 0).sum(dim=1).tolist() == [40, 40]
    assert not deltas.any()
    proposals = Proposals(torch.rand(2, 6, 4), torch.zeros(2, 6), torch.tensor([6, 0]))
    found = ProposalTargets().padded(proposals, boxes, labels, seeds)
    assert found.labels.tolist() == [[0] * 6, [-1] * 6]
    nothing = Proposals(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.tensor([0, 0]))
    assert ProposalTargets().padded(nothing, boxes, labels, seeds).labels.shape == (2, 0)


# Losses.


def plain_stage_loss(loss: StageLoss, logits, deltas, labels, targets) -> tuple[Tensor, Tensor]:
    """The definition, a row at a time."""
    rows = [row for row in range(len(labels)) if labels[row] >= 0]
    classification, box = logits.sum() * 0, deltas.sum() * 0
    for row in rows:
        if logits.shape[1] == 1:
            classification = classification - nn.functional.logsigmoid(logits[row, 0] * (1 if labels[row] > 0 else -1))
        else:
            classification = classification - logits[row].log_softmax(dim=0)[labels[row]]
        if labels[row] > 0:
            sets = deltas.shape[1] // 4
            which = 0 if sets == 1 else int(labels[row]) - (sets != logits.shape[1])
            distance = (deltas[row, 4 * which : 4 * which + 4] - targets[row]).abs()
            small = distance < loss.beta
            box = box + torch.where(small, distance**2 / (2 * loss.beta), distance - loss.beta / 2).sum()
    divisor = len(rows) if loss.normalizer == "sampled" else int((labels > 0).sum())
    return classification / max(len(rows), 1), loss.box_weight * box / max(divisor, 1)


@pytest.mark.parametrize("loss", [StageLoss(), StageLoss(1 / 9), StageLoss(box_weight=10.0, normalizer="positives")])
@pytest.mark.parametrize(("classes", "columns"), [(1, 1), (2, 1), (6, 6), (6, 5)])
def test_stage_loss_by_definition(loss, classes, columns):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(60, classes, generator=generator, requires_grad=True)
    deltas = torch.randn(60, 4 * columns, generator=generator, requires_grad=True)
    labels = torch.randint(-1, max(classes, 2), (60,), generator=generator)
    targets = torch.randn(60, 4, generator=generator)
    ours = loss(logits, deltas, labels, targets)
    plain = plain_stage_loss(loss, logits, deltas, labels, targets)
    for mine, definition in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, definition, rtol=1e-6, atol=1e-6)
    gradients = torch.autograd.grad(sum(ours), (logits, deltas))
    for mine, definition in zip(gradients, torch.autograd.grad(sum(plain), (logits, deltas)), strict=True):
        torch.testing.assert_close(mine, definition, rtol=1e-5, atol=1e-7)
    assert not gradients[0][labels < 0].any()
    assert not gradients[1][labels <= 0].any()


def test_gradcheck_of_a_stage_loss():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    deltas = torch.randn(7, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    labels, targets = torch.tensor([2, 0, -1, 3, 1, 0, -1]), torch.randn(7, 4, generator=generator)
    assert torch.autograd.gradcheck(lambda *both: sum(StageLoss(0.5)(*both, labels, targets)), (logits, deltas))


def losses_image_by_image(model: TwoStageDetector, images, sizes, boxes, labels, seeds) -> dict[str, Tensor]:
    """The plain reference: matching, sampling and encoding of one image after another, with lists."""
    features = model.features(model.batcher.normalize(images, sizes))
    output = model.rpn.predict(features)
    grid = output.anchors
    truths = [(boxes[i, labels[i] > 0], labels[i, labels[i] > 0]) for i in range(len(images))]
    rows = [
        model.anchor_targets(grid, truth, tuple(size), seed)
        for (truth, _), size, seed in zip(truths, sizes.tolist(), seeds.tolist(), strict=True)
    ]
    rpn = plain_stage_loss(
        model.rpn_loss,
        output.logits.flatten(0, 1).float(),
        output.deltas.flatten(0, 1),
        torch.cat([row[0] for row in rows]),
        torch.cat([row[1] for row in rows]),
    )
    losses = dict(zip(("loss_objectness", "loss_rpn_box_reg"), rpn, strict=True))
    if model.roi_heads is None:
        return losses
    proposals = model.rpn.propose(output, sizes, torch.ones(len(images)), training=True)
    samples = [
        model.proposal_targets(proposals.boxes[i, : proposals.count[i]], *truths[i], int(seeds[i]))
        for i in range(len(images))
    ]
    rois, roi_labels, targets = (torch.cat(parts) for parts in zip(*samples, strict=True))
    indices = torch.cat([torch.full((len(sample[0]),), i) for i, sample in enumerate(samples)])
    pooled = model.roi_heads.pool(features, rois, indices, images.shape[2:])
    roi = plain_stage_loss(model.roi_loss, *model.roi_heads.predict(pooled), roi_labels, targets)
    return {**losses, "loss_classifier": roi[0], "loss_box_reg": roi[1]}


@pytest.mark.parametrize("name", SYSTEMS)
def test_losses_equal_the_plain_reference(name):
    """With more slots than there are proposals, so that some stay empty; gradients of every parameter included."""
    fewer = {} if name == "rpn_only" else {"roi_samples": 48, "rpn_post_nms_top_n": (24, 24)}
    model = tiny(name, rpn_samples=32, **fewer)
    inputs = batch()
    ours, plain = model.losses_padded(*inputs), losses_image_by_image(model, *inputs)
    assert ours.keys() == plain.keys()
    parameters = list(model.parameters())
    for key, loss in ours.items():
        torch.testing.assert_close(loss, plain[key], rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(sum(ours.values()), parameters, allow_unused=True),
        torch.autograd.grad(sum(plain.values()), parameters, allow_unused=True),
        strict=True,
    ):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", SYSTEMS)
def test_padding_has_no_say(name):
    """Rubbish around the images and more rows of no ground truth give bitwise the same losses."""
    model = tiny(name, rpn_samples=32)
    images, sizes, boxes, labels, seeds = batch()
    expected = model.losses_padded(images, sizes, boxes, labels, seeds)
    images = images.clone()
    images[1, :, :, 100:] = math.nan
    images[2, :, 80:] = 1e30
    more = torch.full((3, 2, 4), math.nan)
    boxes, labels = torch.cat([boxes, more], dim=1), torch.cat([labels, labels.new_zeros(3, 2)], dim=1)
    found = model.losses_padded(images, sizes, boxes, labels, seeds)
    assert found == expected
    assert all(loss.isfinite() for loss in found.values())


@pytest.mark.parametrize("name", SYSTEMS)
def test_without_ground_truth(name):
    """M = 0: the same losses as with rows that are none, box losses of 0, and gradients that are numbers."""
    model = tiny(name)
    images, sizes, boxes, labels, seeds = batch((0, 0))
    losses = model.losses_padded(images, sizes, boxes, labels, seeds)
    nothing = boxes.new_zeros(2, 3, 4), labels.new_zeros(2, 3)
    padded = model.losses_padded(images, sizes, *nothing, seeds)
    assert losses["loss_rpn_box_reg"] == losses.get("loss_box_reg", torch.tensor(0.0)) == 0
    for key, loss in losses.items():
        torch.testing.assert_close(loss, padded[key])
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", SYSTEMS)
def test_lists_are_the_padded_form(name):
    """losses() resizes, pads and draws seeds; the rest is losses_padded. And both repeat bitwise."""
    model = tiny(name)
    pictures = [torch.rand(3, 96, 128), torch.rand(3, 60, 50)]
    targets = [
        {"boxes": torch.tensor([[5.0, 5, 60, 70], [40, 30, 100, 90]]), "labels": torch.tensor([2, 3])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    losses = model.losses(pictures, targets, torch.Generator().manual_seed(3))
    assert losses == model.losses(pictures, targets, torch.Generator().manual_seed(3))
    collated = model.batcher.collate(pictures, targets)
    seeds = fasterrcnn.training.image_seeds(2, torch.Generator().manual_seed(3))
    boxes = nn.utils.rnn.pad_sequence([target["boxes"] for target in collated.targets], batch_first=True)
    labels = nn.utils.rnn.pad_sequence([target["labels"] for target in collated.targets], batch_first=True)
    sizes, scales = torch.tensor(collated.sizes), torch.tensor(collated.scales, dtype=torch.float64)
    assert losses == model.losses_padded(collated.images, sizes, boxes, labels, seeds, scales)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("boxes", torch.zeros(2, 3, 4), r"boxes: expected shape \[3, M, 4\], got \[2, 3, 4\]"),
        ("labels", torch.ones(3, 1, dtype=torch.int64), r"labels: expected shape \[3, 3\], .*, got \[3, 1\]"),
        ("seeds", torch.zeros(1, dtype=torch.int64), r"seeds: expected shape \[3\], got \[1\]"),
        ("image_sizes", torch.ones(3, 3), r"image_sizes: expected shape \[3, 2\], got \[3, 3\]"),
        ("seeds", torch.zeros(3, dtype=torch.int64, device="meta"), "seeds: expected on cpu, .*, got meta"),
    ],
)
def test_wrong_arguments_are_named(name, value, message):
    """Some would be taken for something else: one seed for that of every image, one label for that of every box."""
    inputs = dict(zip(("images", "image_sizes", "boxes", "labels", "seeds"), batch(), strict=True))
    with pytest.raises(ValueError, match=message):
        tiny("resnet50_c4").losses_padded(**{**inputs, name: value})


def test_scales_matter_to_the_rule_that_needs_them():
    """The classic family's smallest proposal is 16 pixels of the *original*: 64 of an image enlarged by four."""
    classic, c4 = tiny("classic_vgg16"), tiny("resnet50_c4")
    inputs, scales = batch(), torch.full((3,), 4.0)
    assert classic.losses_padded(*inputs) != classic.losses_padded(*inputs, scales)
    assert c4.losses_padded(*inputs) == c4.losses_padded(*inputs, scales)


def test_a_sample_does_not_depend_on_the_batch(monkeypatch):
    """The same proposals of an image are drawn alone and among others."""
    drawn: list[RoISamples] = []
    plain = ProposalTargets.padded
    monkeypatch.setattr(ProposalTargets, "padded", lambda *a: drawn.append(plain(*a)) or drawn[-1])
    model = tiny("resnet50_c4", roi_samples=32)
    parts = batch()
    model.losses_padded(*parts)
    model.losses_padded(*(part[:1] for part in parts))
    torch.testing.assert_close(drawn[0].boxes[:1], drawn[1].boxes, rtol=1e-4, atol=1e-2)
    assert torch.equal(drawn[0].labels[:1], drawn[1].labels)


def test_unused_slots_keep_the_statistics_of_batch_norm():
    """Five proposals, all samples, in ten slots: a BatchNorm head sees each twice, and so the mean of the five."""

    class Normed(nn.Module):
        out_channels, stride, rpn_channels = 8, 16, 8

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 16, stride=16)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(images).relu()

        def roi_stage(self) -> fasterrcnn.backbone.RoIStage:
            layers = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, momentum=1.0), nn.Flatten())
            return fasterrcnn.backbone.RoIStage(3, layers, 8)

    torch.manual_seed(0)
    model = fasterrcnn.build(
        "resnet50_c4", num_classes=3, backbone=Normed(), rpn_post_nms_top_n=(5, 5), rpn_min_size=0, roi_samples=10
    )
    model.proposal_targets = ProposalTargets(Matcher(0.0, 0.0), Sampler(10, 1.0), add_ground_truth=False)
    pooled: list[Tensor] = []
    head = model.roi_heads.box.feature_extractor.head
    head.register_forward_hook(lambda module, inputs, output: pooled.append(inputs[0]))
    images, sizes, boxes, labels, seeds = (part[:1] for part in batch())
    model.losses_padded(images, sizes, boxes, labels, seeds)
    norm = next(module for module in head.modules() if isinstance(module, nn.BatchNorm2d))
    assert len(pooled[0]) == 5  # no more slots than candidates
    model.proposal_targets = ProposalTargets(Matcher(0.0, 0.0), Sampler(10, 0.4), add_ground_truth=False)
    model.losses_padded(images, sizes, boxes, labels, seeds)  # four positives, no negatives: four samples, one repeated
    torch.testing.assert_close(pooled[1][4], pooled[1][0])
    with torch.no_grad():
        expected = head[0](pooled[1]).mean(dim=(0, 2, 3))
    torch.testing.assert_close(norm.running_mean, expected)
