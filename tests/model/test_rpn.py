"""Anchors, proposals and the family's filling up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fasterrcnn
from fasterrcnn.box_coder import BoxCoder
from fasterrcnn.rpn import (
    AnchorGrid,
    ProposalLayer,
    RegionProposalNetwork,
    RPNHead,
    SeparateRPNHead,
    fill_up,
    objectness,
)
from fasterrcnn.types import Proposals
from fasterrcnn_ops import box_iou

SIZE = (200, 300)


def logit_order_model() -> fasterrcnn.FasterRCNN:
    return fasterrcnn.FasterRCNN(2, backbone="tiny")


class Anchors(AnchorGrid):
    """Any boxes as the anchors of the only location of a map."""

    def __init__(self, boxes: Tensor) -> None:
        self.cell_anchors, self.stride, self.offset = boxes, 1, 0.0


def proposals_of(layer: ProposalLayer, anchors: Tensor, scores: Tensor, deltas: Tensor, sizes, scales) -> Proposals:
    """Of anchors [N, 4], probabilities [B, N] and deltas [B, N, 4]; in use."""
    maps = scores.logit()[..., None, None], deltas.reshape(len(deltas), -1, 1, 1)
    return layer([maps[0]], [maps[1]], [Anchors(anchors)], sizes, scales, training=False)


def propose(anchors: Tensor, scores: list[float] | Tensor, *, training=False, scale=1.0, **rules) -> Proposals:
    """Proposals of one image whose anchors are not moved."""
    logits = torch.as_tensor(scores).logit()[None, :, None, None]
    deltas = torch.zeros(1, 4 * len(anchors), 1, 1)
    return ProposalLayer(**rules)([logits], [deltas], [Anchors(anchors)], [SIZE], [scale], training=training)


def spread(count: int, side: float = 20.0) -> Tensor:
    """``count`` boxes without any overlap."""
    x = torch.arange(count) % 10 * 25.0
    y = torch.arange(count) // 10 * 25.0
    return torch.stack([x, y, x + side, y + side], dim=1)


def test_anchors_are_transposed():
    """Half the square root of 2 golden: ratio 0.5, size 128 is 90.51 high, and that is what x spans in this family."""
    anchors = AnchorGrid([128, 256, 512], [0.5, 1, 2], 16)((2, 3))
    assert anchors.shape == (2 * 3 * 9, 4)
    torch.testing.assert_close(anchors[0], torch.tensor([-45.254834, -90.509668, 45.254834, 90.509668]))
    torch.testing.assert_close(anchors[1], torch.tensor([-90.509668, -181.019336, 90.509668, 181.019336]))
    torch.testing.assert_close(anchors[3], torch.tensor([-64.0, -64.0, 64.0, 64.0]))
    torch.testing.assert_close(anchors[6], torch.tensor([-90.509668, -45.254834, 90.509668, 45.254834]))


def test_anchor_order():
    """Anchor a of location (y, x) is row (y·W + x)·A + a, moved by 16x, 16y."""
    anchors = AnchorGrid([128, 256, 512], [0.5, 1, 2], 16)((4, 5)).view(4, 5, 9, 4)
    torch.testing.assert_close(anchors[3, 2, 7] - anchors[0, 0, 7], torch.tensor([32.0, 48.0, 32.0, 48.0]))


def test_scores_and_deltas_follow_the_anchors():
    """A bias on one output channel appears at exactly that anchor and column, at every location."""
    rpn = logit_order_model().rpn
    anchors = len(rpn.anchors)
    with torch.no_grad():
        for layer in (rpn.conv1, rpn.score, rpn.loc):
            layer.weight.zero_()
        rpn.score.bias[2 * 4 + 1] = 3.0
        rpn.loc.bias[4 * 5 + 2] = 7.0
        output = rpn.predict(torch.rand(2, 160, 3, 4))
    logits, deltas = output.logits.view(2, 12, anchors, 2), output.deltas.view(2, 12, anchors, 4)
    assert (logits[:, :, 4, 1] == 3).all()
    assert logits.sum() == 3 * 2 * 12
    assert (deltas[:, :, 5, 2] == 7).all()
    assert deltas.sum() == 7 * 2 * 12


def test_objectness():
    torch.testing.assert_close(objectness(torch.tensor([[0.0, 0.0], [0.0, 2.0]])), torch.tensor([0.5, 0.880797]))
    torch.testing.assert_close(objectness(torch.tensor([[0.0], [2.0]])), torch.tensor([0.5, 0.880797]))


def test_default_numbers():
    layer = fasterrcnn.FasterRCNN(1, backbone="tiny").rpn.proposal_layer
    assert layer.pre_nms_top_n == (12000, 3000)
    assert layer.post_nms_top_n == (600, 300)
    assert (layer.nms_threshold, layer.min_size) == (0.7, 16.0)


def test_best_first_and_padded():
    proposals = propose(spread(4), [0.1, 0.9, 0.5, 0.7], post_nms_top_n=(9, 6))
    assert proposals.boxes.shape == (1, 6, 4)
    assert proposals.count.tolist() == [4]
    torch.testing.assert_close(proposals.scores[0], torch.tensor([0.9, 0.7, 0.5, 0.1, 0, 0]))
    torch.testing.assert_close(proposals.boxes[0, :4], spread(4)[[1, 3, 2, 0]])
    assert not proposals.boxes[0, 4:].any()
    assert proposals.valid().tolist() == [[True] * 4 + [False] * 2]


def test_training_and_use_counts():
    boxes, scores = spread(40), torch.linspace(1, 0.1, 40)
    rules = {"pre_nms_top_n": (30, 20), "post_nms_top_n": (25, 35)}
    assert propose(boxes, scores, training=True, **rules).count.tolist() == [25]
    assert propose(boxes, scores, training=False, **rules).count.tolist() == [20]


def test_nms_threshold():
    """IoU of the first two is 18/22 = 0.82, of the last two 0.6."""
    boxes = torch.tensor([[0, 0, 20, 20], [2, 0, 22, 20], [100, 0, 120, 20], [105, 0, 125, 20.0]])
    proposals = propose(boxes, [0.9, 0.8, 0.7, 0.6])
    torch.testing.assert_close(proposals.boxes[0, :3], boxes[[0, 2, 3]])
    assert proposals.count.tolist() == [3]


@pytest.mark.parametrize(("scale", "kept"), [(1.0, [0, 1]), (2.0, [0]), (0.5, [0, 1, 2])])
def test_small_boxes_go_before_top_k(scale, kept):
    """Side ≥ 16 · scale, exactly 16 stays; the small ones use up no place among the best two or three."""
    boxes = torch.tensor([[0, 0, 40, 40], [100, 0, 116, 30], [200, 0, 215, 30], [50, 100, 57, 150.0]])
    scores = [0.1, 0.2, 0.8, 0.9]
    proposals = propose(boxes, scores, scale=scale, pre_nms_top_n=(3, 3), post_nms_top_n=(4, 4))
    expected = boxes[sorted(kept, key=lambda i: -scores[i])]
    assert proposals.count.tolist() == [len(kept)]
    torch.testing.assert_close(proposals.boxes[0, : len(kept)], expected)


def test_clipped_to_each_image():
    anchors = torch.tensor([[-50.0, -50, 400, 400]])
    layer = ProposalLayer()
    sizes = [(100, 80), (60, 90)]
    proposals = proposals_of(layer, anchors, torch.ones(2, 1), torch.zeros(2, 1, 4), sizes, [1, 1])
    assert proposals.boxes[:, 0].tolist() == [[0, 0, 80, 100], [0, 0, 90, 60]]


def test_bad_values_are_never_proposed():
    boxes = spread(4)
    deltas = torch.zeros(1, 4, 4)
    deltas[0, 1, 0] = float("nan")
    scores = torch.tensor([[0.5, 0.9, float("nan"), 0.4]])
    proposals = proposals_of(ProposalLayer(), boxes, scores, deltas, [SIZE], [1.0])
    assert proposals.count.tolist() == [2]
    torch.testing.assert_close(proposals.boxes[0, :2], boxes[[0, 3]])


def test_equal_scores_keep_the_anchors_order():
    proposals = propose(spread(30), [0.5] * 30, pre_nms_top_n=(20, 20))
    torch.testing.assert_close(proposals.boxes[0, :20], spread(20))


def test_invariants_on_random_anchors():
    torch.manual_seed(3)
    corner = torch.rand(2000, 2) * torch.tensor([250.0, 150.0])
    anchors = torch.cat([corner, corner + 5 + torch.rand(2000, 2) * 60], dim=1)
    scores, deltas = torch.rand(2, 2000), torch.randn(2, 2000, 4) * 0.1
    proposals = proposals_of(ProposalLayer(), anchors, scores, deltas, [SIZE, SIZE], [1.0, 1.0])
    for boxes, scores, count in zip(proposals.boxes, proposals.scores, proposals.count.tolist(), strict=True):
        assert 0 < count <= 300
        used = boxes[:count]
        assert ((used[:, 2:] - used[:, :2]) >= 16).all()
        iou = box_iou(used, used).fill_diagonal_(0)
        assert iou.max() <= 0.7
        assert (scores[:count].diff() <= 0).all()


def test_no_anchors_at_all():
    proposals = propose(torch.zeros(0, 4), torch.zeros(0))
    assert proposals.boxes.shape == (1, 300, 4)
    assert proposals.count.tolist() == [0]


def fill_case() -> Proposals:
    boxes = torch.zeros(2, 50, 4)
    boxes[0, :3] = spread(3)
    return Proposals(boxes, torch.zeros(2, 50), torch.tensor([3, 0]))


def test_fill_up_repeats_survivors():
    filled = fill_up(fill_case(), SIZE, seed=1)
    assert filled.shape == (2, 50, 4)
    torch.testing.assert_close(filled[0, :3], spread(3))
    drawn = {tuple(box) for box in filled[0, 3:].tolist()}
    assert drawn == {tuple(box) for box in spread(3).tolist()}  # all of them, 47 draws


def test_fill_up_of_nothing_is_the_whole_image():
    assert (fill_up(fill_case(), SIZE)[1] == torch.tensor([0.0, 0, 300, 200])).all()


def test_fill_up_is_seeded():
    first, again, other = (fill_up(fill_case(), SIZE, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fill_up_leaves_full_images_alone():
    boxes = torch.rand(2, 5, 4)
    assert torch.equal(fill_up(Proposals(boxes, torch.rand(2, 5), torch.tensor([5, 5])), SIZE), boxes)


def test_family_forward_fills_and_the_shared_form_does_not():
    """With a smallest side larger than the image no anchor survives."""
    model = fasterrcnn.FasterRCNN(2, "predict", backbone="tiny", rpn_min_size=1000, min_size=64)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        _, scores, rois, indices = model(images)
    assert (rois == torch.tensor([0.0, 0, 96, 64])).all()
    assert indices.tolist() == [[0] * 300, [1] * 300]
    assert scores.shape == (2, 300, 3)
    assert [len(found) for found in model(list(images))] == [0, 0]


def test_scale_is_the_smallest_side():
    model = fasterrcnn.FasterRCNN(2, "predict", backbone="tiny")
    images = torch.rand(1, 3, 320, 320)
    with torch.no_grad():
        for scale in (1.0, 5.0):
            rois = model(images, scale)[2]
            assert (rois[..., 2:] - rois[..., :2]).min() >= 16 * scale


@pytest.mark.parametrize("scale_min_size", [True, False])
def test_smallest_side_in_pixels_of_the_batch_or_of_the_image(scale_min_size):
    """At twice the size a side of 20 is 10 of the image's pixels: too small for 16 of those, large enough for 16."""
    boxes = torch.tensor([[0, 0, 40, 40], [100, 0, 120, 20.0]])
    proposals = propose(boxes, [0.5, 0.9], scale=2.0, scale_min_size=scale_min_size)
    assert proposals.count.tolist() == [1 if scale_min_size else 2]


@pytest.mark.parametrize(("inclusive_sides", "smallest"), [(True, 15.0), (False, 16.0)])
def test_sides_may_count_their_last_pixel(inclusive_sides, smallest):
    """x2 − x1 + 1 ≥ 16, or x2 − x1 ≥ 16; both sides have to be."""
    sides = [(smallest, 40.0), (40.0, smallest), (smallest - 0.01, 40.0), (40.0, smallest - 0.01)]
    boxes = torch.tensor([[60.0 * i, 0, 60 * i + w, h] for i, (w, h) in enumerate(sides)])
    proposals = propose(boxes, [0.4, 0.3, 0.2, 0.1], inclusive_sides=inclusive_sides)
    assert proposals.count.tolist() == [2]
    torch.testing.assert_close(proposals.boxes[0, :2], boxes[:2])


def test_no_smallest_side_keeps_what_clipping_leaves_as_a_line():
    """min_size 0 with inclusive sides: a box outside the image is one pixel wide, and stays."""
    boxes = torch.tensor([[310, 10, 340, 50], [20, 20, 60, 60.0]])
    assert propose(boxes, [0.9, 0.5], min_size=0.0, inclusive_sides=True).count.tolist() == [2]


@pytest.mark.parametrize(("before", "kept"), [(True, [2, 3]), (False, [2])])
def test_small_boxes_go_before_or_after_top_k(before, kept):
    """Of the best three two are small: they take up places among the three, or they do not."""
    boxes = torch.tensor([[0, 0, 5, 5], [30, 0, 35, 5], [100, 0, 140, 40], [200, 0, 240, 40], [200, 60, 240, 100.0]])
    scores = [0.9, 0.8, 0.7, 0.6, 0.5]
    rules = {"pre_nms_top_n": (3, 3), "post_nms_top_n": (2, 2), "filter_before_top_k": before}
    proposals = propose(boxes, scores, **rules)
    assert proposals.count.tolist() == [len(kept)]
    torch.testing.assert_close(proposals.boxes[0, : len(kept)], boxes[kept])
    torch.testing.assert_close(proposals.scores[0, : len(kept)], torch.tensor([scores[i] for i in kept]))
    assert not proposals.boxes[0, len(kept) :].any()


def test_a_small_box_suppresses_nothing_even_when_it_is_dropped_late():
    """IoU 0.9 with the box below, and better; it is gone before NMS either way."""
    boxes = torch.tensor([[0, 0, 100, 15], [0, 0, 100, 16.5]])
    for before in (True, False):
        proposals = propose(boxes, [0.9, 0.5], filter_before_top_k=before)
        assert proposals.count.tolist() == [1]
        torch.testing.assert_close(proposals.boxes[0, 0], boxes[1])


def test_inclusive_boxes_end_at_the_last_pixel():
    """Clipped to width − 1 and height − 1, as the families do that count it."""
    layer = ProposalLayer(coder=BoxCoder(inclusive=True))
    anchors = torch.tensor([[-50.0, -50, 400, 400]])
    proposals = proposals_of(layer, anchors, torch.ones(1, 1), torch.zeros(1, 1, 4), [(100, 80)], [1.0])
    assert proposals.boxes[0, 0].tolist() == [0, 0, 79, 99]


def test_separate_head():
    """Scores and offsets come from convolutions of their own, linear ones: a change of one leaves the other alone."""
    head = SeparateRPNHead(6, 5, 3, 2)
    features = torch.randn(2, 6, 4, 7)
    scores, deltas = head(features)
    assert scores.shape == (2, 6, 4, 7)
    assert deltas.shape == (2, 12, 4, 7)
    with torch.no_grad():
        head.score_conv.weight.mul_(2)
    twice, same = head(features)
    torch.testing.assert_close(twice, scores * 2)  # biases are 0
    assert torch.equal(same, deltas)


def test_one_score_per_anchor():
    """Channel a is anchor a's; a sigmoid makes it a probability."""
    head = RPNHead(6, 5, 3, 1)
    rpn = RegionProposalNetwork(head, AnchorGrid([32], [0.5, 1, 2], 16, rule="rounded"), ProposalLayer(), 1)
    with torch.no_grad():
        for layer in (head.conv, head.cls_logits, head.bbox_pred):
            layer.weight.zero_()
        head.cls_logits.bias[1] = 3.0
        head.bbox_pred.bias[4 * 2 + 3] = 5.0
        output = rpn.predict(torch.rand(1, 6, 2, 4))
    assert output.logits.view(8, 3).tolist() == [[0, 3, 0]] * 8
    assert output.deltas.view(8, 3, 4)[:, 2].tolist() == [[0, 0, 0, 5]] * 8
    assert output.deltas.sum() == 5 * 8
    torch.testing.assert_close(objectness(output.logits)[0, :3], torch.tensor([0.5, 0.952574, 0.5]))
