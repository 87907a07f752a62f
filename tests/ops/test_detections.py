"""select_detections: hand-computed, against the reference, invariants, edges, inside torch, messages."""

from __future__ import annotations

import math
import re

import pytest
import support
import torch
from head_outputs import SIZES, head_outputs
from hypothesis import given, settings
from hypothesis import strategies as st

from fasterrcnn_ops import box_iou, select_detections, select_detections_with_proposal
from fasterrcnn_ops.reference import detections as ref

PLAIN = {"score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 30}
# The rules of the published systems, with numbers that fit these outputs.
SYSTEMS = {
    "fpn": PLAIN,
    "classic": {**PLAIN, "nms_threshold": 0.3},
    "c4_sigmoid": {**PLAIN, "score_threshold": 0.01, "nms_threshold": 0.3, "candidates_per_class": 4},
    "c4": {**PLAIN, "inclusive": True},
    "stepwise": {**PLAIN, "weights": (1, 1, 1, 1), "max_detections": 1000},
}
over_systems = pytest.mark.parametrize("rules", SYSTEMS.values(), ids=SYSTEMS)
BOXES = torch.tensor([[10, 10, 50, 50], [12, 10, 52, 50], [100, 20, 140, 60], [60, 60, 90, 90.0]])
PROBABILITIES = torch.tensor([[0.09, 0.8, 0.11], [0.2, 0.7, 0.1], [0.32, 0.08, 0.6], [0.97, 0.02, 0.01]])


def both(device="cpu", layout="contiguous", rules=PLAIN, sizes=SIZES, **values):
    """(ours, the reference's) on the same outputs."""
    logits, deltas, proposals, count = head_outputs(device=device, **values)
    logits, deltas, proposals = (support.LAYOUTS[layout](tensor) for tensor in (logits, deltas, proposals))
    arguments = (logits, deltas, proposals, count, sizes.to(device))
    return select_detections_with_proposal(*arguments, **rules), ref.select_detections_with_proposal(
        *arguments, **rules
    )


def assert_same(found, expected):
    """The same detections in the same order; boxes to the rounding of the exponential."""
    for name, index in {"labels": 1, "count": 3, "proposal": 4}.items():
        assert torch.equal(found[index], expected[index]), name
    support.assert_close(found[2], expected[2], rtol=1e-6, atol=0)
    support.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-4)


def detect(probabilities=PROBABILITIES, boxes=BOXES, deltas=None, device="cpu", **rules):
    """Of one image of 100 × 200: boxes, labels, scores, proposals of what was found."""
    boxes = boxes.to(device)
    logits = torch.as_tensor(probabilities, device=device).log()[None]
    deltas = torch.zeros(1, len(boxes), 4 * logits.shape[2], device=device) if deltas is None else deltas[None]
    count = torch.tensor([len(boxes)], device=device)
    *found, count, proposal = select_detections_with_proposal(
        logits, deltas, boxes[None], count, [(100, 200)], **{**PLAIN, **rules}
    )
    return [tensor[0, : int(count)] for tensor in (*found, proposal)]


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_by_hand(device):
    """The second box loses to the first (IoU 0.905) in either class; 0.05 drops the last; a box may be found twice."""
    boxes, labels, scores, proposal = detect(device=device)
    assert labels.tolist() == [1, 2, 2, 1]
    assert proposal.tolist() == [0, 2, 0, 2]
    support.assert_close(scores, torch.tensor([0.8, 0.6, 0.11, 0.08], device=device))
    assert torch.equal(boxes, BOXES.to(device)[[0, 2, 0, 2]])


def test_unused_slots_are_zero(device):
    logits = PROBABILITIES.log()[None].to(device)
    boxes, labels, scores, count, proposal = select_detections_with_proposal(
        logits,
        torch.zeros(1, 4, 12, device=device),
        BOXES[None].to(device),
        torch.tensor([4], device=device),
        [(100, 200)],
        **PLAIN,
    )
    assert (boxes.shape, labels.dtype, count.tolist()) == ((1, 30, 4), torch.int64, [4])
    assert not boxes[0, 4:].any()
    assert not labels[0, 4:].any()
    assert not scores[0, 4:].any()
    assert (proposal[0, 4:] == -1).all()


def test_threshold_is_exclusive(device):
    half = torch.full((1, 2), 0.5)
    assert len(detect(half, BOXES[:1], score_threshold=0.5, device=device)[0]) == 0
    assert len(detect(half, BOXES[:1], score_threshold=0.4999, device=device)[0]) == 1


def test_the_best_are_taken(device):
    assert detect(max_detections=2, device=device)[1].tolist() == [1, 2]


def test_candidates_per_class(device):
    """With one each, the third box is no candidate of class 1 and cannot be found as such."""
    assert detect(candidates_per_class=1, device=device)[3].tolist() == [0, 2]
    assert detect(candidates_per_class=0, device=device)[3].tolist() == []


@pytest.mark.parametrize("columns", [2, 3])
def test_each_class_has_its_own_deltas(columns, device):
    """dx = 1 / 10 of the width and dh = 1 / 5 in the logarithm, for class 2 only; with and without background's."""
    deltas = torch.zeros(4, 4 * columns, device=device)
    deltas[2, 4 * (columns - 1)], deltas[2, 4 * columns - 1] = 1.0, 1.0
    boxes, labels, _, _ = detect(deltas=deltas, score_threshold=0.5, device=device)
    half = 20 * math.exp(0.2)
    assert labels.tolist() == [1, 2]
    support.assert_close(boxes[1], torch.tensor([104, 40 - half, 144, 40 + half], device=device))
    support.assert_close(boxes[0], BOXES[0].to(device))


def test_clipped_and_nothing_left_is_dropped(device):
    boxes = torch.tensor([[-20, 50, 30, 130], [250, 10, 290, 40.0]])
    sure = torch.tensor([[0.1, 0.9], [0.1, 0.9]])
    assert detect(sure, boxes, device=device)[0].tolist() == [[0, 50, 30, 100]]
    assert detect(sure, boxes, min_size=0.0, device=device)[0].tolist() == [[0, 50, 30, 100], [200, 10, 200, 40]]
    assert detect(sure, boxes, inclusive=True, device=device)[0].tolist() == [[0, 50, 30, 99]]


# --- against the reference -------------------------------------------------------------------------------------------


@over_systems
@pytest.mark.parametrize("background_boxes", [True, False])
@pytest.mark.parametrize("layout", support.LAYOUTS)
@pytest.mark.parametrize("dtype", support.FLOAT_DTYPES, ids=support.dtype_id)
def test_equals_reference(device, layout, dtype, background_boxes, rules):
    found, expected = both(device, layout, rules, dtype=dtype, background_boxes=background_boxes)
    assert found[3].min() > 0
    assert_same(found, expected)


@over_systems
@pytest.mark.parametrize("values", ["ties", "hostile"])
def test_equals_reference_on_odd_values(device, values, rules):
    for seed in range(5):
        assert_same(*both(device, rules=rules, values=values, seed=seed))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0, 2.0, -1.0, math.nan, math.inf, -math.inf])
def test_equals_reference_for_any_thresholds(device, threshold):
    assert_same(*both(device, rules={**PLAIN, "score_threshold": threshold, "max_detections": 300}))
    assert_same(*both(device, rules={**PLAIN, "nms_threshold": threshold}))


def test_mixed_dtypes(device):
    """As under autocast: half predictions of float32 proposals."""
    logits, deltas, proposals, count = head_outputs(device=device)
    arguments = (logits.bfloat16(), deltas.bfloat16(), proposals, count, SIZES.to(device))
    found = select_detections_with_proposal(*arguments, **PLAIN)
    assert found[0].dtype == found[2].dtype == torch.float32
    assert_same(found, ref.select_detections_with_proposal(*arguments, **PLAIN))
    arguments = (logits, deltas.half(), proposals.double(), count, SIZES.to(device))
    assert_same(
        select_detections_with_proposal(*arguments, **PLAIN), ref.select_detections_with_proposal(*arguments, **PLAIN)
    )


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(0, 3),
    slots=st.integers(0, 20),
    classes=st.integers(0, 4),
    background_boxes=st.booleans(),
    values=st.sampled_from(["ordinary", "ties", "hostile"]),
    detections=st.integers(0, 30),
    per_class=st.none() | st.integers(0, 8),
    device=st.sampled_from(support.DEVICES),
)
def test_any_shapes_equal_reference(batch, slots, classes, background_boxes, values, detections, per_class, device):
    sizes = torch.full((batch, 2), 300)
    rules = {**PLAIN, "max_detections": detections, "candidates_per_class": per_class}
    shapes = {"batch": batch, "slots": slots, "classes": classes, "background_boxes": background_boxes}
    assert_same(*both(device, rules=rules, sizes=sizes, values=values, **shapes))


# --- invariants ------------------------------------------------------------------------------------------------------


@over_systems
def test_invariants(device, rules):
    boxes, labels, scores, count, proposal = both(device, rules=rules)[0]
    for image, n in enumerate(count.tolist()):
        kept, of_class = boxes[image, :n], labels[image, :n]
        assert (scores[image, :n].diff() <= 0).all()
        assert (scores[image, :n] > rules["score_threshold"]).all()
        assert of_class.min() >= 1
        iou = box_iou(kept, kept).fill_diagonal_(0) * (of_class[:, None] == of_class)
        assert not (iou > rules["nms_threshold"]).any()
        pairs = set(zip(proposal[image, :n].tolist(), of_class.tolist(), strict=True))
        assert len(pairs) == n


def test_rows_of_all_images_in_one_table(device):
    """``[B·K, …]`` is the same as ``[B, K, …]``."""
    logits, deltas, proposals, count = head_outputs(device=device)
    expected = select_detections(logits, deltas, proposals, count, SIZES.to(device), **PLAIN)
    found = select_detections(logits.flatten(0, 1), deltas.flatten(0, 1), proposals, count, SIZES.tolist(), **PLAIN)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_an_image_alone_and_in_a_batch():
    """Bitwise."""
    outputs = head_outputs()
    together = select_detections_with_proposal(*outputs, SIZES, **PLAIN)
    for image in range(2):
        alone = select_detections_with_proposal(*(t[image : image + 1] for t in (*outputs, SIZES)), **PLAIN)
        for found, expected in zip(alone, together, strict=True):
            support.assert_bitwise_equal(found[0], expected[image])


# --- edges -----------------------------------------------------------------------------------------------------------


def test_slots_beyond_count_are_not_read(device):
    logits, deltas, proposals, count = head_outputs(device=device)
    expected = select_detections(logits, deltas, proposals, count, SIZES.to(device), **PLAIN)
    for image, used in enumerate(count.tolist()):
        for tensor in (logits, deltas, proposals):
            tensor[image, used:] = math.nan
    for one, other in zip(
        select_detections(logits, deltas, proposals, count, SIZES.to(device), **PLAIN), expected, strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("used", [[0, 0], [-3, 1000]])
def test_any_count(device, used):
    """Clamped to 0…K: nothing is read outside."""
    logits, deltas, proposals, _ = head_outputs(device=device)
    used_slots = torch.tensor(used, device=device)
    count = select_detections(logits, deltas, proposals, used_slots, SIZES.to(device), **PLAIN)[3]
    assert (count > 0).tolist() == [False, used[1] > 0]


def test_bad_values_are_not_detected(device):
    deltas = torch.zeros(2, 8, device=device)
    deltas[1, 4] = math.nan
    assert len(detect(torch.tensor([[1.0, math.nan], [0.1, 0.9]]), BOXES[:2], deltas, device=device)[0]) == 0


# --- inside torch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_class", [None, 3])
def test_opcheck(per_class):
    arguments = (*head_outputs(), SIZES, 0.05, 0.5, 10, [10.0, 10.0, 5.0, 5.0], False, 0.01, per_class)
    torch.library.opcheck(torch.ops.fasterrcnn_ops.select_detections.default, arguments)


def test_compiles_without_graph_breaks():
    def found(*arguments):
        boxes, labels, scores, count = select_detections(*arguments, **PLAIN)
        return boxes * 2, labels + 1, scores, count

    compiled = torch.compile(found, fullgraph=True, backend="aot_eager")
    arguments = (*head_outputs(), SIZES)
    for one, other in zip(compiled(*arguments), found(*arguments), strict=True):
        assert torch.equal(one, other)


def test_never_requires_grad():
    logits, deltas, proposals, count = head_outputs()
    for tensor in (logits, deltas, proposals):
        tensor.requires_grad_()
    assert not any(t.requires_grad for t in select_detections(logits, deltas, proposals, count, SIZES, **PLAIN))


@pytest.mark.parametrize("values", ["ordinary", "hostile"])
def test_deterministic_across_threads(values):
    outputs = head_outputs(4, 400, 20, values=values)
    sizes = SIZES.repeat(2, 1)
    runs = support.at_thread_counts(lambda: select_detections(*outputs, sizes, **PLAIN), (1, 2, 2))
    for other in runs[1:]:
        for found, expected in zip(other, runs[0], strict=True):
            support.assert_bitwise_equal(found, expected)


# --- messages --------------------------------------------------------------------------------------------------------


def fails(message: str, **changes):
    logits, deltas, proposals, count = head_outputs()
    arguments = {"class_logits": logits, "box_deltas": deltas, "proposals": proposals, "count": count}
    with pytest.raises(RuntimeError, match=re.escape(message)):
        select_detections(**{**arguments, "image_sizes": SIZES, **PLAIN, **changes})


def test_error_messages():
    logits, deltas, proposals, count = head_outputs()
    fails("proposals: expected shape [B, K, 4], got [2, 40, 3]", proposals=proposals[..., :3])
    fails("class_logits: expected shape [2, 40, C + 1], got [2, 39, 6]", class_logits=logits[:, 1:])
    fails("class_logits: expected dtype float16, bfloat16, float32 or float64, got", class_logits=logits.long())
    fails(
        "box_deltas: expected shape [2, 40, 24] or [2, 40, 20] (without background) beside class_logits of "
        "[2, 40, 6], got [2, 40, 4]",
        box_deltas=deltas[..., :4],
    )
    fails("count: expected 2 integers, one for each image, got float32 of shape [2]", count=count.float())
    fails("count: expected 2 integers, one for each image, got", count=count[:1])
    fails("image_sizes: expected shape [2, 2], got [1, 2]", image_sizes=SIZES[:1])
    fails("image_sizes: expected heights and widths >= 0, got -5", image_sizes=[(5, 5), (-5, 5)])
    fails("max_detections: expected a number >= 0, got -1", max_detections=-1)
    fails("candidates_per_class: expected a number >= 0, got -1", candidates_per_class=-1)
    fails("weights: expected positive finite values, got -1", weights=(-1, 1, 1, 1))
