"""generate_proposals: values. What it is inside torch is in test_proposals_torch.py."""

from __future__ import annotations

import math

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rpn_maps import FPN, LAYOUTS, ONE_LEVEL, PYRAMID, PYRAMID_STRIDES, SIZES, SYSTEMS, maps_of

from fasterrcnn_ops import box_iou, generate_proposals
from fasterrcnn_ops.reference import proposals as ref

over_systems = pytest.mark.parametrize("rules", SYSTEMS.values(), ids=SYSTEMS)
over_dtypes = pytest.mark.parametrize("dtype", support.FLOAT_DTYPES, ids=support.dtype_id)


def strides_of(levels):
    return PYRAMID_STRIDES if levels is PYRAMID else (16,)


def both(levels, device="cpu", layout="contiguous", sizes=SIZES, rules=FPN, **values):
    """(ours, the reference's) on the same maps."""
    objectness, deltas, cells = maps_of(levels, device=device, **values)
    objectness, deltas = [LAYOUTS[layout](m) for m in objectness], [LAYOUTS[layout](m) for m in deltas]
    rules = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in rules.items()}
    arguments = (objectness, deltas, cells, strides_of(levels), sizes.to(device))
    return generate_proposals(*arguments, **rules), ref.generate_proposals(*arguments, **rules)


def assert_same(found, expected):
    """The same proposals in the same order; boxes to the rounding of the exponential."""
    boxes, scores, count = found
    assert torch.equal(count, expected[2])
    support.assert_close(scores, expected[1], rtol=1e-6, atol=0)
    support.assert_close(boxes, expected[0], rtol=1e-6, atol=1e-4)


# --- by hand ---------------------------------------------------------------------------------------------------------


def one_row(logits, deltas=None, cells=((-8.0, -8.0, 8.0, 8.0),), stride=8, sizes=((32, 64),), device="cpu", **options):
    """Proposals of one level with one row of locations, (8, 8), (16, 8) …; ``logits`` are [A, W]."""
    objectness = torch.tensor(logits, device=device)[None, :, None]
    deltas = torch.zeros(1, 4 * len(logits), 1, len(logits[0]), device=device) if deltas is None else deltas
    options = {"pre_nms_top_n": 10, "post_nms_top_n": 4, "nms_threshold": 0.7, "anchor_offset": 8.0, **options}
    boxes, scores, count = generate_proposals(
        [objectness], [deltas], [torch.tensor(cells, device=device)], [stride], list(sizes), **options
    )
    return boxes[0], scores[0], int(count)


def test_by_hand(device):
    """IoU of neighbours is 8 / 24; the best comes first, unused slots are 0."""
    boxes, scores, count = one_row([[0.0, 2.0, -1.0]], device=device)
    assert boxes.tolist() == [[8, 0, 24, 16], [0, 0, 16, 16], [16, 0, 32, 16], [0, 0, 0, 0]]
    support.assert_close(scores, torch.tensor([0.880797, 0.5, 0.268941, 0], device=device))
    assert count == 3


def test_suppression_by_hand(device):
    boxes, _, count = one_row([[0.0, 2.0, -1.0]], nms_threshold=0.3, device=device)
    assert boxes[:count].tolist() == [[8, 0, 24, 16]]


def test_deltas_by_hand(device):
    """dx = 0.5 moves by half a width, dw = log 2 doubles it; channel 4a + i is number i of anchor a."""
    deltas = torch.zeros(1, 8, 1, 1, device=device)
    deltas[0, 4, 0, 0], deltas[0, 6, 0, 0] = 0.5, math.log(2)
    cells = ((-4.0, -4.0, 4.0, 4.0), (-8.0, -4.0, 8.0, 4.0))
    boxes, _, count = one_row([[1.0], [0.0]], deltas, cells, anchor_offset=16.0, device=device)
    support.assert_close(boxes[:count], torch.tensor([[12.0, 12, 20, 20], [8, 12, 40, 20]], device=device))


def test_weights_divide_deltas(device):
    deltas = torch.zeros(1, 4, 1, 1, device=device)
    deltas[0, 0] = 5.0
    boxes, _, _ = one_row([[1.0]], deltas, weights=(10, 1, 1, 1), device=device)
    assert boxes[0].tolist() == [8, 0, 24, 16]


def test_clipped_to_height_and_width(device):
    cells = ((-100.0, -100.0, 100.0, 100.0),)
    assert one_row([[1.0]], None, cells, device=device)[0][0].tolist() == [0, 0, 64, 32]
    assert one_row([[1.0]], None, cells, inclusive=True, device=device)[0][0].tolist() == [0, 0, 63, 31]


@pytest.mark.parametrize(("min_size", "kept"), [(16.0, 2), (16.001, 1), (15.0, 2)])
def test_smallest_side_is_inclusive(min_size, kept, device):
    cells = ((-8.0, -8.0, 8.0, 8.0), (-8.0, -8.0, 24.0, 24.0))
    assert one_row([[1.0], [0.0]], None, cells, min_size=min_size, device=device)[2] == kept
    assert one_row([[1.0], [0.0]], None, cells, min_size=min_size + 1, inclusive_sides=True, device=device)[2] == kept
    each = torch.tensor([min_size], device=device)
    assert one_row([[1.0], [0.0]], None, cells, min_size=each, device=device)[2] == kept
    assert one_row([[1.0], [0.0]], None, cells, min_size=each + 1, inclusive_sides=True, device=device)[2] == kept


def test_small_boxes_take_up_places_unless_filtered_before(device):
    cells = ((-4.0, -4.0, 4.0, 4.0), (-8.0, -8.0, 8.0, 8.0))
    rules = {"pre_nms_top_n": 2, "min_size": 10.0, "device": device}
    logits = [[9.0, 8.0], [1.0, 0.0]]
    assert one_row(logits, None, cells, **rules)[2] == 0
    boxes, _, count = one_row(logits, None, cells, filter_before_topk=True, **rules)
    assert boxes[:count].tolist() == [[0, 0, 16, 16], [8, 0, 24, 16]]


def test_score_threshold_is_inclusive(device):
    assert one_row([[0.0, -0.001]], score_threshold=0.5, device=device)[2] == 1


def test_levels_do_not_compete():
    """The same box on two levels stays twice; each level has its own top n."""
    maps = [torch.tensor([[[[3.0, 1.0]]]]), torch.tensor([[[[2.0, 2.5]]]])]
    deltas = [torch.zeros(1, 4, 1, 2)] * 2
    cells = [torch.tensor([[-8.0, -8.0, 8.0, 8.0]])] * 2
    boxes, scores, count = generate_proposals(
        maps, deltas, cells, [0, 0], [(32, 32)], pre_nms_top_n=1, post_nms_top_n=4, nms_threshold=0.1
    )
    assert count.tolist() == [2]
    assert torch.equal(scores[0, :2], torch.sigmoid(torch.tensor([3.0, 2.5])))
    assert boxes[0, :2].tolist() == [[0, 0, 8, 8]] * 2


def test_equal_logits_keep_the_order_of_anchors(device):
    """(y·W + x)·A + a in both layouts, though memory is ordered otherwise; on equal scores the lower level first."""
    cells = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [-2.0, -2.0, 2.0, 2.0]], device=device)
    deltas = torch.zeros(1, 8, 2, 3, device=device)
    for layout in LAYOUTS.values():
        boxes, _, count = generate_proposals(
            [layout(torch.zeros(1, 2, 2, 3, device=device))] * 2,
            [layout(deltas)] * 2,
            [cells] * 2,
            [10, 10],
            [(100, 100)],
            pre_nms_top_n=5,
            post_nms_top_n=10,
            nms_threshold=0.7,
            anchor_offset=5.0,
        )
        assert count.tolist() == [10]
        sides = [2, 4, 2, 4, 2]
        assert (boxes[0, :, 2] - boxes[0, :, 0]).tolist() == sides * 2
        assert boxes[0, :5, 0].tolist() == [4, 3, 14, 13, 24]
        assert boxes[0, 0, 1] == 4


def test_saturated_scores_are_ordered_by_logit(device):
    """sigmoid is 1 for both."""
    boxes, scores, _ = one_row([[30.0, 40.0]], device=device)
    assert scores[:2].tolist() == [1, 1]
    assert boxes[:2].tolist() == [[8, 0, 24, 16], [0, 0, 16, 16]]


# --- against the reference -------------------------------------------------------------------------------------------


@over_systems
@pytest.mark.parametrize("levels", [PYRAMID, ONE_LEVEL], ids=["pyramid", "one_level"])
@pytest.mark.parametrize("layout", LAYOUTS)
@over_dtypes
def test_equals_reference(device, levels, layout, dtype, rules):
    found, expected = both(levels, device, layout, rules=rules, dtype=dtype)
    assert found[2].min() > 0
    assert_same(found, expected)


@over_systems
@pytest.mark.parametrize("values", ["ties", "hostile"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_reference_on_odd_values(device, layout, values, rules):
    for seed in range(4):
        assert_same(*both(PYRAMID, device, layout, rules=rules, values=values, seed=seed))


@pytest.mark.parametrize("post", [0, 1, 7, 10_000])
@pytest.mark.parametrize("pre", [0, 1, 40, 10_000])
def test_equals_reference_for_any_counts(device, pre, post):
    rules = {**FPN, "pre_nms_top_n": pre, "post_nms_top_n": post}
    found, expected = both(PYRAMID, device, rules=rules)
    assert found[0].shape == (2, post, 4)
    assert_same(found, expected)


@pytest.mark.parametrize("threshold", [0.3, 0.999, 2.0, math.nan, -1.0])
def test_equals_reference_for_any_score_threshold(device, threshold):
    assert_same(*both(PYRAMID, device, rules={**FPN, "score_threshold": threshold}))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0, math.nan, -1.0])
def test_equals_reference_for_any_nms_threshold(device, threshold):
    assert_same(*both(PYRAMID, device, rules={**FPN, "nms_threshold": threshold}))


def test_large_levels_equal_reference(device):
    """Where the bound from groups decides what is looked at: noise, neighbours, a constant, steps."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.randn(1, 3, 12, 20, generator=generator), size=(120, 200))
    noise = torch.randn(1, 3, 120, 200, generator=generator)
    cells = [torch.tensor([[-16.0, -16.0, 16.0, 16.0], [-24.0, -12.0, 24.0, 12.0], [-12.0, -24.0, 12.0, 24.0]])]
    deltas = [torch.randn(1, 12, 120, 200, generator=generator) * 0.3]
    for logits in (noise, smooth, smooth + 0.01 * noise, torch.zeros_like(noise), noise.round(), -noise.exp() * 1e30):
        for k in (1, 50, 1000):
            maps = ([tensor.to(device) for tensor in tensors] for tensors in ([logits], deltas, cells))
            arguments = (*maps, [4], torch.tensor([[480, 800]], device=device))
            rules = {"pre_nms_top_n": k, "post_nms_top_n": 300, "nms_threshold": 0.7}
            assert_same(generate_proposals(*arguments, **rules), ref.generate_proposals(*arguments, **rules))


@settings(deadline=None, max_examples=60)
@given(
    levels=st.lists(st.tuples(*(st.integers(0, 5),) * 3), min_size=1, max_size=3),
    batch=st.integers(0, 3),
    pre=st.integers(0, 30),
    values=st.sampled_from(["ordinary", "ties", "hostile"]),
    layout=st.sampled_from(list(LAYOUTS)),
    filter_before=st.booleans(),
    device=st.sampled_from(support.DEVICES),
)
def test_any_shapes_equal_reference(levels, batch, pre, values, layout, filter_before, device):
    objectness, deltas, cells = maps_of(levels, batch, values=values, device=device)
    objectness, deltas = [LAYOUTS[layout](m) for m in objectness], [LAYOUTS[layout](m) for m in deltas]
    arguments = (objectness, deltas, cells, [9] * len(levels), torch.full((batch, 2), 40, device=device))
    rules = {"pre_nms_top_n": pre, "post_nms_top_n": 20, "nms_threshold": 0.5, "filter_before_topk": filter_before}
    assert_same(generate_proposals(*arguments, **rules), ref.generate_proposals(*arguments, **rules))


# --- invariants ------------------------------------------------------------------------------------------------------


@over_systems
def test_invariants(device, rules):
    boxes, scores, count = both(ONE_LEVEL, device, rules=rules)[0]
    for image, (n, (height, width)) in enumerate(zip(count.tolist(), SIZES.tolist(), strict=True)):
        used = boxes[image, :n]
        assert used.min() >= 0
        assert (used <= torch.tensor([width, height, width, height], device=device)).all()
        assert (scores[image, :n].diff() <= 0).all()
        iou = box_iou(used, used).fill_diagonal_(0)
        assert not (iou > 0.7).any()  # NaN between boxes without area
        assert not boxes[image, n:].any()
        assert not scores[image, n:].any()


def test_scores_are_torch_sigmoids():
    """To the last bit, except that torch's own sigmoid of a value depends on its place at the end of a tensor."""
    objectness, deltas, cells = maps_of(((1, 32, 32),), 1)
    _, scores, count = generate_proposals(
        objectness, deltas, cells, [16], [(512, 512)], pre_nms_top_n=1024, post_nms_top_n=2000, nms_threshold=1.0
    )
    expected = torch.sigmoid(objectness[0].flatten().sort(descending=True).values)
    kept = scores[0, : int(count)]
    assert torch.isin(kept, expected).all()
    assert count > 900


@over_systems
@pytest.mark.parametrize("levels", [PYRAMID, ONE_LEVEL], ids=["pyramid", "one_level"])
def test_an_image_alone_and_in_a_batch(levels, rules):
    """Bitwise."""
    objectness, deltas, cells = maps_of(levels, 2)
    together = generate_proposals(objectness, deltas, cells, strides_of(levels), SIZES, **rules)
    for image in range(2):
        own = {**rules}
        if isinstance(own.get("min_size"), torch.Tensor):
            own["min_size"] = own["min_size"][image : image + 1]
        alone = generate_proposals(
            [maps[image : image + 1] for maps in objectness],
            [maps[image : image + 1] for maps in deltas],
            cells,
            strides_of(levels),
            SIZES[image : image + 1],
            **own,
        )
        for found, expected in zip(alone, together, strict=True):
            support.assert_bitwise_equal(found[0], expected[image])


# --- edges -----------------------------------------------------------------------------------------------------------


def test_nan_logits_and_deltas_are_never_proposed(device):
    """A NaN logit takes up no place; a NaN box does, unless boxes are filtered before."""
    logits, bad = [[1.0, math.nan, 3.0, 2.0]], torch.zeros(1, 4, 1, 4, device=device)
    bad[0, 2, 0, 2] = math.nan
    boxes, _, count = one_row(logits, bad, pre_nms_top_n=2, device=device)
    assert boxes[:count].tolist() == [[24, 0, 40, 16]]
    boxes, _, count = one_row(logits, bad, pre_nms_top_n=2, filter_before_topk=True, device=device)
    assert boxes[:count].tolist() == [[24, 0, 40, 16], [0, 0, 16, 16]]


def test_infinite_logits_are_scores_of_one_and_zero(device):
    _, scores, count = one_row([[-math.inf, math.inf, 0.0]], device=device)
    assert count == 3
    assert scores[:3].tolist() == [1, 0.5, 0]


def test_negative_infinity_is_better_than_nan(device):
    for pre in (1, 2, 3):
        boxes, _, count = one_row([[math.nan, -math.inf, math.nan]], pre_nms_top_n=pre, device=device)
        assert count == 1
        assert boxes[0].tolist() == [8, 0, 24, 16]


@pytest.mark.parametrize("levels", [((0, 4, 5),), ((3, 0, 5),), ((3, 0, 0), (3, 4, 5)), ((0, 0, 0), (3, 4, 5))])
def test_empty_levels(device, levels):
    objectness, deltas, cells = maps_of(levels, device=device)
    arguments = (objectness, deltas, cells, [16] * len(levels), SIZES.to(device))
    found = generate_proposals(*arguments, **FPN)
    assert_same(found, ref.generate_proposals(*arguments, **FPN))
    assert (found[2] > 0).all() == (len(levels) == 2)


def test_empty_batch(device):
    objectness, deltas, cells = maps_of(PYRAMID, 0, device=device)
    boxes, scores, count = generate_proposals(
        objectness, deltas, cells, PYRAMID_STRIDES, torch.zeros(0, 2, device=device), **FPN
    )
    assert (boxes.shape, scores.shape, count.shape) == ((0, 150, 4), (0, 150), (0,))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.float64, torch.float16])
def test_image_sizes_of_any_dtype(device, dtype):
    objectness, deltas, cells = maps_of(PYRAMID, device=device)
    arguments = (objectness, deltas, cells, PYRAMID_STRIDES)
    expected = generate_proposals(*arguments, SIZES.to(device), **FPN)
    for sizes in (SIZES.to(device, dtype), SIZES.tolist(), [tuple(size) for size in SIZES.tolist()]):
        for found, wanted in zip(generate_proposals(*arguments, sizes, **FPN), expected, strict=True):
            assert torch.equal(found, wanted)


def test_an_image_without_area_has_no_proposals(device):
    objectness, deltas, cells = maps_of(PYRAMID, device=device)
    sizes = torch.tensor([[0, 0], [150, 240]], device=device)
    count = generate_proposals(objectness, deltas, cells, PYRAMID_STRIDES, sizes, **FPN)[2]
    assert count[0] == 0
    assert count[1] > 0


def test_views_of_a_larger_batch(device):
    """Images that do not follow one another in memory are read where they are."""
    objectness, deltas, cells = maps_of(PYRAMID, 4, device=device)
    expected = generate_proposals(
        [maps[::2].contiguous() for maps in objectness],
        [maps[::2].contiguous() for maps in deltas],
        cells,
        PYRAMID_STRIDES,
        SIZES.to(device),
        **FPN,
    )
    views = [maps[::2] for maps in objectness], [maps[::2] for maps in deltas]
    found = generate_proposals(*views, cells, PYRAMID_STRIDES, SIZES.to(device), **FPN)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("levels", [((3, 4, 5), (1, 7, 1)), ((5, 1, 1),), ((1, 1, 1), (2, 1, 6))], ids=str)
def test_one_image_for_all_and_sides_of_one(device, levels):
    """Expanded batches (stride 0), and dimensions of size 1, whose strides say nothing about the layout."""
    objectness, deltas, cells = maps_of(levels, 1, device=device)
    for layout in LAYOUTS.values():
        maps = [layout(m).expand(3, -1, -1, -1) for m in objectness], [layout(m).expand(3, -1, -1, -1) for m in deltas]
        arguments = (*maps, cells, [16] * len(levels), torch.full((3, 2), 90, device=device))
        assert_same(generate_proposals(*arguments, **FPN), ref.generate_proposals(*arguments, **FPN))
