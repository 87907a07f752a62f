"""generate_proposals and select_detections against torchvision's detector, to the last bit where it defines one."""

from __future__ import annotations

import pytest
import support
import torch
from head_outputs import head_outputs
from rpn_maps import maps_of

from fasterrcnn_ops import cell_anchors, generate_proposals, select_detections

support.require_torchvision()
from torchvision.models.detection import rpn as their_rpn  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402
from torchvision.models.detection.roi_heads import RoIHeads  # noqa: E402

RATIOS = (0.5, 1.0, 2.0)
# (A, H, W) of a batch of 256 × 320 pixels.
LEVELS = ((3, 64, 80), (3, 32, 40), (3, 16, 20), (3, 8, 10))
SIDES = (16, 32, 64, 128)
SIZES = [(256, 310), (240, 320)]


def torchvision_proposals(objectness, deltas, sizes, top_n, post, threshold, score_threshold):
    generator = their_rpn.AnchorGenerator(tuple((side,) for side in SIDES), (RATIOS,) * len(SIDES))
    images = ImageList(torch.zeros(len(sizes), 3, 256, 320), sizes)
    anchors = generator(images, objectness)
    pre, post = {"training": top_n, "testing": top_n}, {"training": post, "testing": post}
    network = their_rpn.RegionProposalNetwork(
        generator, None, 0.7, 0.3, 256, 0.5, pre, post, threshold, score_threshold
    ).eval()
    logits, offsets = their_rpn.concat_box_prediction_layers(objectness, deltas)
    boxes = network.box_coder.decode(offsets, anchors).view(len(sizes), -1, 4)
    return network.filter_proposals(boxes, logits, images.image_sizes, [maps[0].numel() for maps in objectness])


@pytest.mark.parametrize("score_threshold", [0.0, 0.2])
@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize(("top_n", "post"), [(200, 100), (1000, 1000), (100_000, 2000)])
def test_generate_proposals(top_n, post, threshold, score_threshold):
    """Bitwise for one image; in a batch, torch's sigmoid of the last few logits of an image may differ by an ulp."""
    for seed in range(4):
        objectness, deltas, _ = maps_of(LEVELS, 2, seed=seed)
        cells = [cell_anchors(side, RATIOS, rule="torchvision") for side in SIDES]
        for image, size in enumerate(SIZES):
            one, offsets = [m[image : image + 1] for m in objectness], [m[image : image + 1] for m in deltas]
            (their_boxes,), (their_scores,) = torchvision_proposals(
                one, offsets, [size], top_n, post, threshold, score_threshold
            )
            boxes, scores, count = generate_proposals(
                one,
                offsets,
                cells,
                [4, 8, 16, 32],
                [size],
                pre_nms_top_n=top_n,
                post_nms_top_n=post,
                nms_threshold=threshold,
                score_threshold=score_threshold,
            )
            used = int(count)
            assert used == len(their_boxes)
            assert torch.equal(scores[0, :used], their_scores)
            # torchvision leaves the order of equal scores open.
            alone = (torch.diff(their_scores, prepend=their_scores[:1] + 1) != 0) & (
                torch.diff(their_scores, append=their_scores[-1:] - 1) != 0
            )
            assert alone.float().mean() > 0.8
            assert torch.equal(boxes[0, :used][alone], their_boxes[alone])


def test_generate_proposals_of_a_batch():
    objectness, deltas, _ = maps_of(LEVELS, 2)
    cells = [cell_anchors(side, RATIOS, rule="torchvision") for side in SIDES]
    rules = {"pre_nms_top_n": 500, "post_nms_top_n": 300, "nms_threshold": 0.7}
    boxes, scores, count = generate_proposals(objectness, deltas, cells, [4, 8, 16, 32], SIZES, **rules)
    for image, (their_boxes, their_scores) in enumerate(
        zip(*torchvision_proposals(objectness, deltas, SIZES, 500, 300, 0.7, 0.0), strict=True)
    ):
        used = int(count[image])
        assert used == len(their_boxes)
        torch.testing.assert_close(scores[image, :used], their_scores)
        torch.testing.assert_close(boxes[image, :used].sum(), their_boxes.sum())


@pytest.mark.parametrize("detections", [10, 500])
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_select_detections(threshold, detections):
    for seed in range(4):
        logits, deltas, proposals, _ = head_outputs(2, 120, 6, seed=seed)
        heads = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, None, 0.05, threshold, detections)
        theirs = heads.postprocess_detections(logits.flatten(0, 1), deltas.flatten(0, 1), list(proposals), SIZES)
        boxes, labels, scores, count = select_detections(
            logits,
            deltas,
            proposals,
            torch.tensor([120, 120]),
            SIZES,
            score_threshold=0.05,
            nms_threshold=threshold,
            max_detections=detections,
        )
        for image, (their_boxes, their_scores, their_labels) in enumerate(zip(*theirs, strict=True)):
            used = int(count[image])
            assert used == len(their_boxes)
            assert torch.equal(scores[image, :used], their_scores)
            assert torch.equal(labels[image, :used], their_labels)
            assert torch.equal(boxes[image, :used], their_boxes)
