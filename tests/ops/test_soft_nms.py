"""soft_nms: golden, reference, invariants, edges, torch, determinism, errors."""

from __future__ import annotations

import itertools

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nms_scenes import INF, NAN, SCENES, assert_same, clustered, on_a_grid, seeded
from support import FLOAT_DTYPES, FULL_DTYPES, LAYOUTS, assert_bitwise_equal, at_thread_counts, dtype_id

from fasterrcnn_ops.nms import nms
from fasterrcnn_ops.reference.soft_nms import soft_nms as reference
from fasterrcnn_ops.soft_nms import soft_nms

METHODS = ("naive", "linear", "gaussian")
over_methods = pytest.mark.parametrize("method", METHODS)


def assert_equal(found, expected) -> None:
    """The same indices, and the same bits of scores; float64 exponentials may differ in the last place or two."""
    assert_same(found[0], expected[0])
    assert found[1].dtype == expected[1].dtype
    tolerance = 1e-14 if expected[1].dtype == torch.float64 else 0.0
    torch.testing.assert_close(found[1], expected[1], rtol=tolerance, atol=0.0, equal_nan=True)


# --- hand-computed ---------------------------------------------------------------------------------------------------


def test_golden(device):
    """IoU (0, 1) is 1/2; box 2 shares an edge with both, box 3 is apart."""
    boxes = torch.tensor([[0, 0, 4, 4], [0, 2, 4, 4], [0, 4, 4, 5], [9, 9, 10, 10.0]], device=device)
    scores = torch.tensor([1.0, 0.75, 0.625, 0.25], device=device)
    keep, decayed = soft_nms(boxes, scores, 0.3, method="linear")
    assert keep.tolist() == [0, 2, 1, 3]
    assert decayed.tolist() == [1.0, 0.625, 0.375, 0.25]
    keep, decayed = soft_nms(boxes, scores, 0.3, method="naive")
    assert (keep.tolist(), decayed.tolist()) == ([0, 2, 3], [1.0, 0.625, 0.25])
    keep, decayed = soft_nms(boxes, scores, 0.3, sigma=0.5, method="gaussian")
    assert keep.tolist() == [0, 2, 1, 3]
    # exp(-(1/2)^2 / (1/2)) = exp(-1/2)
    torch.testing.assert_close(decayed.cpu(), torch.tensor([1.0, 0.625, 0.75 * 0.6065306597, 0.25]))


def test_a_decayed_box_decays_others_by_its_overlap_alone(device):
    """Box 1 is lowered by box 0 (IoU 1/2) and then lowers box 2 (IoU 1/3; with box 0: 1/5) whatever its own score."""
    boxes = torch.tensor([[0, 0, 4, 4], [0, 2, 4, 4], [0, 3, 4, 5.0]], device=device)
    keep, decayed = soft_nms(boxes, torch.tensor([1.0, 0.75, 0.25], device=device), 0.3, method="linear")
    assert keep.tolist() == [0, 1, 2]
    torch.testing.assert_close(decayed.cpu(), torch.tensor([1.0, 0.375, 0.25 * 2 / 3]))


@pytest.mark.parametrize(("threshold", "kept"), [(0.5, 1), (0.5000001, 2)])
def test_an_overlap_at_the_threshold_counts(device, threshold, kept):
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 2.0]], device=device)
    scores = torch.tensor([1.0, 0.5], device=device)
    assert len(soft_nms(boxes, scores, threshold, method="naive")[0]) == kept


# --- against the reference -------------------------------------------------------------------------------------------


@over_methods
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("scene", SCENES)
def test_equals_reference(device, scene, dtype, method):
    for seed, n in enumerate((0, 1, 2, 15, 16, 17, 33, 64, 120)):
        boxes, scores = (values.to(device) for values in SCENES[scene](n, seeded(seed), dtype))
        for threshold, min_score in ((0.3, 1e-3), (0.7, 0.2), (0.0, -1.0), (-0.5, 0.0)):
            arguments = (boxes, scores, threshold, 0.5, min_score, method)
            assert_equal(soft_nms(*arguments), reference(*arguments))


@over_methods
def test_large_equals_reference(device, method):
    """Enough boxes for the remaining ones to close up several times."""
    boxes, scores = (values.to(device) for values in clustered(700, seeded(3)))
    arguments = (boxes, scores, 0.3, 0.3, 0.05, method)
    assert_equal(soft_nms(*arguments), reference(*arguments))


@pytest.mark.parametrize(("box_dtype", "score_dtype"), list(itertools.permutations(FLOAT_DTYPES, 2)), ids=dtype_id)
def test_mixed_dtypes(device, box_dtype, score_dtype):
    boxes, scores = clustered(60, seeded(0), torch.float64)
    boxes, scores = boxes.to(device, box_dtype), scores.to(device, score_dtype)
    assert_equal(soft_nms(boxes, scores), reference(boxes, scores))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_are_free(device, layout):
    boxes, scores = (values.to(device) for values in clustered(50, seeded(0)))
    assert_equal(soft_nms(LAYOUTS[layout](boxes), support.strided_copy(scores)), reference(boxes, scores))


@over_methods
@pytest.mark.parametrize("max_output", [0, 1, 7, 40, 100])
def test_max_output_cuts(device, method, max_output):
    boxes, scores = (values.to(device) for values in clustered(60, seeded(1)))
    keep, decayed = soft_nms(boxes, scores, method=method)
    found = soft_nms(boxes, scores, method=method, max_output=max_output)
    assert_same(found[0], keep[:max_output])
    assert torch.equal(found[1], decayed[:max_output])
    assert_equal(found, reference(boxes, scores, method=method, max_output=max_output))


# --- invariants ------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 70),
    scene=st.sampled_from([clustered, on_a_grid]),
    dtype=st.sampled_from(FULL_DTYPES),
    method=st.sampled_from(METHODS),
    threshold=st.floats(0.01, 1),
    sigma=st.floats(0.01, 10),
    min_score=st.floats(1e-6, 0.5),
)
def test_invariants(device, seed, n, scene, dtype, method, threshold, sigma, min_score):
    boxes, scores = (values.to(device) for values in scene(n, seeded(seed), dtype))
    scores = scores.abs()
    keep, decayed = soft_nms(boxes, scores, threshold, sigma, min_score, method)
    assert len(keep) == len(set(keep.tolist())) == len(decayed)
    assert (decayed.diff() <= 0).all()
    assert (decayed <= scores[keep]).all()  # weights are at most 1
    assert (decayed[1:] >= torch.tensor(min_score, dtype=dtype)).all()
    if n > 0:
        assert keep[0] == torch.sort(scores, stable=True, descending=True).indices[0]
        assert decayed[0] == scores[keep[0]]
    if method == "naive":  # weights 0 and 1 alone: scores stay
        assert torch.equal(decayed, scores[keep])


def test_naive_is_nms():
    """Where no IoU equals the threshold, and all scores reach min_score."""
    boxes, scores = clustered(300, seeded(5))
    scores = scores + 0.01
    assert_same(soft_nms(boxes, scores, 0.4, method="naive")[0], nms(boxes, scores, 0.4))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 50),
    method=st.sampled_from(METHODS),
    threshold=st.floats(allow_nan=True, allow_infinity=True),
    min_score=st.sampled_from([1e-3, 0.0, -1.0, INF, -INF, NAN]),
)
def test_any_threshold_and_hostile_values(device, seed, n, method, threshold, min_score):
    boxes, scores = (values.to(device) for values in SCENES["hostile"](n, seeded(seed)))
    arguments = (boxes, scores, threshold, 0.5, min_score, method)
    assert_equal(soft_nms(*arguments), reference(*arguments))


# --- edges -----------------------------------------------------------------------------------------------------------


@over_methods
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
def test_empty(device, dtype, method):
    keep, decayed = soft_nms(
        torch.empty(0, 4, dtype=dtype, device=device), torch.empty(0, dtype=dtype, device=device), method=method
    )
    assert (keep.shape, keep.dtype, decayed.shape, decayed.dtype) == ((0,), torch.int64, (0,), dtype)


APART = torch.arange(6)[:, None] * 20.0 + torch.tensor([0.0, 0.0, 10.0, 10.0])


@over_methods
def test_order_of_scores(device, method):
    """NaN first, then descending; zeros of both signs tie; ties by index."""
    scores = torch.tensor([0.0, 1.0, -0.0, NAN, 1.0, INF], device=device)
    keep, decayed = soft_nms(APART.to(device), scores, min_score=0.0, method=method)
    assert keep.tolist() == [3, 5, 1, 4, 0, 2]
    assert decayed[0].isnan()


@over_methods
def test_the_first_is_selected_whatever_its_score(device, method):
    scores = torch.tensor([1e-5, 1e-4, 1e-4, 0.0, 1e-5, 1e-6], device=device)
    assert soft_nms(APART.to(device), scores, method=method)[0].tolist() == [1]


@over_methods
@pytest.mark.parametrize("box", [[3.0, 3.0, 3.0, 9.0], [10.0, 10.0, 0.0, 0.0], [0.0, 0.0, NAN, 10.0], [0, 0, INF, INF]])
def test_overlaps_that_are_no_numbers_lower_nothing(device, method, box):
    boxes = torch.tensor([box, box], device=device)
    keep, decayed = soft_nms(boxes, torch.tensor([0.5, 0.75], device=device), method=method)
    assert (keep.tolist(), decayed.tolist()) == ([1, 0], [0.75, 0.5])


def test_far_exponents_vanish(device):
    """exp(-1 / 1e-6) is 0 in every type, and a score of 0 is below min_score."""
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device, dtype=torch.float64).repeat(2, 1)
    scores = torch.tensor([1.0, 0.5], device=device, dtype=torch.float64)
    assert soft_nms(boxes, scores, sigma=1e-6, method="gaussian")[0].tolist() == [0]
    keep, decayed = soft_nms(boxes, scores, sigma=1e-6, min_score=0.0, method="gaussian")
    assert (keep.tolist(), decayed.tolist()) == ([0, 1], [1.0, 0.0])


def test_exponentials_to_the_last_place(device):
    """IoUs all over (0, 1) and sigmas down to 1e-3: weights of 1 down to e^-700."""
    height = torch.rand(4000, generator=seeded(0), dtype=torch.float64)
    for sigma in (10.0, 0.5, 1e-2, 1.5e-3):
        for dtype in FULL_DTYPES:
            boxes = torch.zeros(4000, 4, dtype=dtype)
            boxes[:, 2], boxes[:, 3] = 1.0, height.to(dtype)
            boxes[0, 3] = 1.0
            scores = torch.ones(4000, dtype=dtype)
            arguments = (boxes.to(device), scores.to(device), 0.3, sigma, 0.0, "gaussian")
            found, expected = soft_nms(*arguments, max_output=2), reference(*arguments, max_output=2)
            assert_equal(found, expected)


# --- inside torch ----------------------------------------------------------------------------------------------------


@over_methods
@pytest.mark.parametrize("n", [0, 20])
def test_opcheck(n, method):
    boxes, scores = clustered(n, seeded(0))
    operator = torch.ops.fasterrcnn_ops.soft_nms.default
    torch.library.opcheck(operator, (boxes, scores, 0.3, 0.5, 1e-3, METHODS.index(method)))
    torch.library.opcheck(operator, (boxes, scores, 0.3, 0.5, 1e-3, METHODS.index(method), 5))


def test_data_dependent_sizes_are_traced():
    def best_boxes(boxes, scores):
        keep, decayed = soft_nms(boxes, scores)
        return boxes[keep] * decayed[:, None]

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(best_boxes, fullgraph=True, backend="aot_eager")
        inputs = clustered(50, seeded(0))
        assert torch.equal(compiled(*inputs), best_boxes(*inputs))


def test_never_requires_grad():
    """There is no gradcheck: the results are cut off from the graph."""
    boxes, scores = clustered(30, seeded(0))
    expected = soft_nms(boxes, scores)
    found = soft_nms(boxes.requires_grad_(), scores.requires_grad_())
    assert_equal(found, expected)
    assert not found[0].requires_grad
    assert not found[1].requires_grad


def test_arguments_are_left_alone(device):
    boxes, scores = (values.to(device) for values in clustered(30, seeded(0)))
    before = boxes.clone(), scores.clone()
    soft_nms(boxes, scores, method="gaussian")
    assert torch.equal(boxes, before[0])
    assert torch.equal(scores, before[1])


@over_methods
def test_deterministic_across_threads(method):
    boxes, scores = SCENES["hostile"](1000, seeded(0))
    first, *others = at_thread_counts(lambda: soft_nms(boxes, scores, method=method), (1, 2, 2))
    for other in others:
        assert_bitwise_equal(other[0], first[0])
        assert_bitwise_equal(other[1], first[1])


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes": torch.zeros(3, 5)}, r"boxes: expected shape \[N, 4\], got \[3, 5\]"),
        ({"boxes": torch.tensor(1.0)}, r"boxes: expected shape \[N, 4\], got \[\]"),
        ({"boxes": torch.zeros(3, 4).long()}, "boxes: expected dtype float16, bfloat16, float32 or float64"),
        ({"scores": torch.zeros(2)}, r"scores: expected shape \[3\], one score per box, got \[2\]"),
        ({"scores": torch.zeros(3).int()}, "scores: expected dtype float16, bfloat16, float32 or float64"),
        ({"sigma": 0.0}, "sigma: expected a number > 0, got 0"),
        ({"sigma": NAN}, "sigma: expected a number > 0, got nan"),
        ({"max_output": -1}, "max_output: expected a number >= 0, got -1"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        soft_nms(**{"boxes": torch.zeros(3, 4), "scores": torch.zeros(3), **arguments})


def test_unknown_method():
    with pytest.raises(ValueError, match="method: expected one of naive, linear, gaussian, got 'soft'"):
        soft_nms(torch.zeros(3, 4), torch.zeros(3), method="soft")
    with pytest.raises(RuntimeError, match="method: expected 0"):
        torch.ops.fasterrcnn_ops.soft_nms(torch.zeros(3, 4), torch.zeros(3), 0.3, 0.5, 1e-3, 3)
