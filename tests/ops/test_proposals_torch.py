"""generate_proposals inside torch: opcheck, compile, autograd, determinism, error messages."""

from __future__ import annotations

import re

import pytest
import torch
from rpn_maps import ONE_LEVEL, PYRAMID, PYRAMID_STRIDES, maps_of
from support import assert_bitwise_equal, at_thread_counts

from fasterrcnn_ops import generate_proposals

SIZES = torch.tensor([[160, 235], [150, 240]])
RULES = {"pre_nms_top_n": 100, "post_nms_top_n": 50, "nms_threshold": 0.7}


@pytest.mark.parametrize("min_sizes", [None, torch.tensor([1.0, 2.0])])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad, min_sizes):
    objectness, deltas, cells = maps_of(PYRAMID)
    for maps in (*objectness, *deltas):
        maps.requires_grad_(requires_grad)
    strides = [float(s) for pair in PYRAMID_STRIDES for s in (pair if isinstance(pair, tuple) else (pair, pair))]
    options = (min_sizes, 1e-3, 100, 50, 0.7, 0.0, [1.0, 1.0, 1.0, 1.0], 0.0, False, True)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    if not requires_grad:
        tests += ("test_autograd_registration",)
    with torch.no_grad():  # as the wrapper calls it
        torch.library.opcheck(
            torch.ops.fasterrcnn_ops.generate_proposals.default,
            (objectness, deltas, cells, strides, SIZES, *options),
            test_utils=tests,
        )


def test_compiles_without_graph_breaks():
    def boxes_of(objectness, deltas, cells, sizes):
        boxes, scores, count = generate_proposals(objectness, deltas, cells, PYRAMID_STRIDES, sizes, **RULES)
        return boxes * 2, scores, count + 1

    compiled = torch.compile(boxes_of, fullgraph=True, backend="aot_eager")
    inputs = (*maps_of(PYRAMID), SIZES)
    for found, expected in zip(compiled(*inputs), boxes_of(*inputs), strict=True):
        assert torch.equal(found, expected)


def test_never_requires_grad():
    objectness, deltas, cells = maps_of(PYRAMID)
    expected = generate_proposals(objectness, deltas, cells, PYRAMID_STRIDES, SIZES, **RULES)
    for maps in (*objectness, *deltas):
        maps.requires_grad_()
    for found, wanted in zip(
        generate_proposals(objectness, deltas, cells, PYRAMID_STRIDES, SIZES, **RULES), expected, strict=True
    ):
        assert not found.requires_grad
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("filter_before_topk", [False, True])
@pytest.mark.parametrize("values", ["ordinary", "hostile"])
def test_deterministic_across_threads(values, filter_before_topk):
    """40,000 slots are more than torch gives to one thread at a time."""
    objectness, deltas, cells = maps_of(((3, 120, 120),), values=values)
    rules = {"pre_nms_top_n": 40_000, "post_nms_top_n": 1000, "nms_threshold": 0.5}
    arguments = (objectness, deltas, cells, [4], torch.full((2, 2), 480))
    runs = at_thread_counts(
        lambda: generate_proposals(*arguments, **rules, filter_before_topk=filter_before_topk), (1, 2, 2)
    )
    for other in runs[1:]:
        for found, expected in zip(other, runs[0], strict=True):
            assert_bitwise_equal(found, expected)


def fails(message: str, error: type[Exception] = RuntimeError, **changes):
    objectness, deltas, cells = maps_of(ONE_LEVEL)
    arguments = {
        "objectness": objectness,
        "deltas": deltas,
        "cell_anchors": cells,
        "strides": [16],
        "image_sizes": SIZES,
        **RULES,
        **changes,
    }
    with pytest.raises(error, match=re.escape(message)):
        generate_proposals(**arguments)


def test_error_messages():
    (logits,), (deltas,), (cells,) = maps_of(ONE_LEVEL)
    fails("objectness: expected at least one level, got none", objectness=[], deltas=[], cell_anchors=[], strides=[])
    fails("deltas: expected 1 levels as in objectness, got 2", deltas=[deltas, deltas])
    fails("cell_anchors: expected 1 levels as in objectness, got 0", cell_anchors=[])
    fails("strides: expected 1 levels as in objectness, got 2", strides=[16, 32])
    fails("strides: expected a number or (y, x) for each level, got (1, 2, 3)", ValueError, strides=[(1, 2, 3)])
    fails("objectness[0]: expected shape [B, A, H, W], got [9, 13, 17]", objectness=[logits[0]])
    fails("objectness: expected dtype float16, bfloat16, float32 or float64, got", objectness=[logits.long()])
    fails(
        "deltas[0]: expected shape [2, 36, 13, 17] beside objectness of [2, 9, 13, 17], got [2, 35, 13, 17]",
        deltas=[deltas[:, 1:]],
    )
    fails("deltas[0]: expected the dtype of objectness (float32), got float64", deltas=[deltas.double()])
    fails("cell_anchors[0]: expected 9 rows, one for each channel of objectness, got 8", cell_anchors=[cells[1:]])
    fails("cell_anchors: expected shape [N, 4], got [9, 2, 2]", cell_anchors=[cells.view(9, 2, 2)])
    two = {"deltas": [deltas, deltas[:1]], "cell_anchors": [cells, cells], "strides": [8, 16]}
    fails("objectness[1]: expected a batch of 2 as in objectness[0], got 1", objectness=[logits, logits[:1]], **two)
    fails(
        "objectness[1]: expected dtype float32 as in objectness[0], got float16",
        objectness=[logits, logits.half()],
        **{**two, "deltas": [deltas, deltas]},
    )
    fails("image_sizes: expected shape [2, 2], got [2]", image_sizes=torch.tensor([5, 5]))
    fails("image_sizes: expected shape [2, 2], got [1, 2]", image_sizes=[(5, 5)])
    fails("image_sizes: expected heights and widths >= 0, got -1", image_sizes=[(5, -1), (5, 5)])
    fails("image_sizes: expected heights and widths >= 0, got nan", image_sizes=[(5, float("nan")), (5, 5)])
    fails("min_size: expected shape [2], got [3]", min_size=torch.zeros(3))
    fails("pre_nms_top_n: expected a number >= 0, got -1", pre_nms_top_n=-1)
    fails("post_nms_top_n: expected a number >= 0, got -1", post_nms_top_n=-1)
    fails("weights: expected positive finite values, got 0", weights=(1, 1, 0, 1))
    fails("weights: expected 4 values (x, y, w, h), got 3", weights=(1, 1, 1))
