"""nms, batched_nms and nms_padded inside torch: opcheck, compile, autograd, determinism, error messages.

There is no gradcheck: indices have no gradient; what is tested instead is that boxes may require one.
"""

from __future__ import annotations

import pytest
import torch
from nms_scenes import SCENES, assert_same, clustered, random_ids, seeded
from support import assert_bitwise_equal, at_thread_counts

from fasterrcnn_ops.nms import batched_nms, nms, nms_padded

# --- opcheck, compile, autograd, determinism --------------------------------------------------------------------------


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("n", [0, 20])
def test_opcheck(n, requires_grad):
    boxes, scores = clustered(n, seeded(0))
    boxes.requires_grad_(requires_grad)
    ids = random_ids(n, seeded(0), 3)
    ops = torch.ops.fasterrcnn_ops
    torch.library.opcheck(ops.nms.default, (boxes, scores, 0.5))
    torch.library.opcheck(ops.batched_nms.default, (boxes, scores, ids, 0.5))
    torch.library.opcheck(ops.nms_padded.default, (boxes, scores, ids, 0.5, 8))
    torch.library.opcheck(ops.nms_padded.default, (boxes, scores, None, 0.5, 8))


def test_compiles_without_graph_breaks():
    def best_boxes(boxes, scores, ids):
        keep, count = nms_padded(boxes, scores, ids, iou_threshold=0.5, max_output=10)
        return boxes[keep.clamp(min=0)] * (keep >= 0)[:, None], count

    compiled = torch.compile(best_boxes, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (12, 60):
        inputs = (*clustered(n, seeded(n)), random_ids(n, seeded(n), 3))
        for found, expected in zip(compiled(*inputs), best_boxes(*inputs), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("function", ["nms", "batched_nms"])
def test_data_dependent_sizes_are_traced(function):
    """The fake kernel's unbacked size survives fullgraph compilation and is right at run time."""

    def kept_boxes(boxes, scores, ids):
        keep = nms(boxes, scores, 0.5) if function == "nms" else batched_nms(boxes, scores, ids, 0.5)
        return boxes[keep]

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(kept_boxes, fullgraph=True, backend="aot_eager")
        inputs = (*clustered(50, seeded(0)), random_ids(50, seeded(0), 3))
        assert torch.equal(compiled(*inputs), kept_boxes(*inputs))


def test_never_requires_grad():
    boxes, scores = clustered(30, seeded(0))
    expected = nms(boxes, scores, 0.5)
    boxes.requires_grad_()
    scores.requires_grad_()
    assert_same(nms(boxes, scores, 0.5), expected)
    keep, count = nms_padded(boxes, scores, iou_threshold=0.5, max_output=5)
    for result in (nms(boxes, scores, 0.5), batched_nms(boxes, scores, torch.zeros(30), 0.5), keep, count):
        assert not result.requires_grad
    boxes[keep].sum().backward()  # gathering with the result is differentiable
    assert boxes.grad is not None


def test_deterministic_across_threads():
    boxes, scores = SCENES["hostile"](3000, seeded(0))
    ids = random_ids(3000, seeded(0), 10)
    first, *others = at_thread_counts(lambda: batched_nms(boxes, scores, ids, 0.5), (1, 2, 2))
    for other in others:
        assert_bitwise_equal(other, first)


# --- errors ----------------------------------------------------------------------------------------------------------

BOXES, SCORES, IDS = torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes": torch.zeros(4)}, r"boxes: expected shape \[N, 4\], got \[4\]"),
        ({"boxes": torch.zeros(3, 5)}, r"boxes: expected shape \[N, 4\], got \[3, 5\]"),
        ({"boxes": torch.zeros(1, 3, 4)}, r"boxes: expected shape \[N, 4\], got \[1, 3, 4\]"),
        ({"boxes": torch.zeros(0)}, r"boxes: expected shape \[N, 4\], got \[0\]"),
        ({"boxes": BOXES.long()}, "boxes: expected dtype float16, bfloat16, float32 or float64"),
        ({"scores": torch.zeros(2)}, r"scores: expected shape \[3\], one score per box, got \[2\]"),
        ({"scores": torch.zeros(3, 1)}, r"scores: expected shape \[3\], one score per box, got \[3, 1\]"),
        ({"scores": SCORES.int()}, "scores: expected dtype float16, bfloat16, float32 or float64"),
        ({"idxs": torch.zeros(4)}, r"idxs: expected shape \[3\], one id per box, got \[4\]"),
        ({"idxs": torch.zeros(3, 1)}, r"idxs: expected shape \[3\], one id per box, got \[3, 1\]"),
        ({"idxs": SCORES.to(torch.complex64)}, "idxs: expected an integer, bool or floating"),
        ({"idxs": SCORES.to(torch.float8_e4m3fn)}, "idxs: expected an integer, bool or floating"),
        ({"max_output": -1}, "max_output: expected a number >= 0, got -1"),
    ],
)
def test_errors(arguments, message):
    given = {"boxes": BOXES, "scores": SCORES, "idxs": IDS, "iou_threshold": 0.5, "max_output": 2, **arguments}
    with pytest.raises(RuntimeError, match=message):
        nms_padded(**given)
    del given["max_output"]
    if "max_output" not in arguments:
        with pytest.raises(RuntimeError, match=message):
            batched_nms(**given)
    if arguments.keys() & {"boxes", "scores"}:
        del given["idxs"]
        with pytest.raises(RuntimeError, match=message):
            nms(**given)


def test_missing_arguments():
    with pytest.raises(TypeError, match="must be given for 3 boxes"):
        batched_nms(BOXES, None, None, None)
