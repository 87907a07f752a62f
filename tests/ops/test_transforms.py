"""torch.vmap and torch.func.grad: every operator against a loop over the entries."""

from __future__ import annotations

import itertools

import pytest
import torch
from nms_scenes import clustered, random_ids, seeded
from roi_scenes import MEMORY_FORMATS, SCALE, feature_map, ordinary
from support import assert_bitwise_equal, random_boxes

from fasterrcnn_ops import (
    batched_nms,
    box_iou,
    decode_boxes,
    encode_boxes,
    multi_scale_roi_align,
    nms,
    nms_padded,
    roi_align,
    roi_pool,
    soft_nms,
)
from fasterrcnn_ops._rois import fold_rois

ENTRIES = 3
SIZE = (2, 3, 6, 7)


def align(features, rois):
    return roi_align(features, rois, (2, 3), SCALE, 2, True)


def looped(call, in_dims, *arguments):
    """What vmap is to give: the results of each entry, stacked in front."""
    entries = []
    for entry in range(ENTRIES):
        picked = (a if d is None else a.select(d, entry) for a, d in zip(arguments, in_dims, strict=True))
        entries.append(call(*picked))
    if isinstance(entries[0], tuple):
        return tuple(torch.stack(column) for column in zip(*entries, strict=True))
    return torch.stack(entries)


def batched(make, dim: int | None):
    """A tensor of ``make(entry)`` along ``dim``; just the first if that is None."""
    return make(0) if dim is None else torch.stack([make(entry) for entry in range(ENTRIES)], dim)


def assert_same(found, expected) -> None:
    for one, other in zip(*((t if isinstance(t, tuple) else (t,)) for t in (found, expected)), strict=True):
        assert_bitwise_equal(one, other)


def some_boxes(entry: int):
    return random_boxes(6, image=60, max_side=40, generator=seeded(entry))


# --- nms_padded ------------------------------------------------------------------------------------------------------

BOX_DIMS = [
    dims for dims in itertools.product((None, 0, 2, -1), (None, 0, 1), ("none", None, 1)) if set(dims) & {0, 1, 2, -1}
]


@pytest.mark.parametrize("in_dims", BOX_DIMS, ids=str)
def test_nms_padded(in_dims):
    boxes = batched(lambda entry: clustered(40, seeded(entry))[0], in_dims[0])
    scores = batched(lambda entry: clustered(40, seeded(10 + entry))[1], in_dims[1])
    ids = None if in_dims[2] == "none" else batched(lambda entry: random_ids(40, seeded(entry), 3), in_dims[2])
    in_dims = tuple(None if dim == "none" else dim for dim in in_dims)

    def call(boxes, scores, ids):
        return nms_padded(boxes, scores, ids, iou_threshold=0.4, max_output=7)

    found = torch.vmap(call, in_dims)(boxes, scores, ids)
    assert found[0].shape == (ENTRIES, 7)
    assert_same(found, looped(call, in_dims, boxes, scores, ids))


def test_nms_padded_keeps_to_its_capacity():
    """An entry with many survivors takes nothing from another."""
    boxes = torch.stack([some_boxes(0)[:1].expand(6, 4), torch.arange(6.0)[:, None] * 100 + some_boxes(0)[:1]])
    keep, count = torch.vmap(lambda b: nms_padded(b, torch.arange(6.0), iou_threshold=0.5, max_output=4))(boxes)
    assert count.tolist() == [1, 4]
    assert keep.tolist() == [[5, -1, -1, -1], [5, 4, 3, 2]]


def test_no_entries_are_refused():
    with pytest.raises(ValueError, match=r"torch\.vmap: expected at least one entry, got none"):
        torch.vmap(lambda b: nms_padded(b, b[:, 0], iou_threshold=0.5, max_output=4))(torch.rand(0, 5, 4))


def test_nested_nms_padded():
    boxes = torch.stack([torch.stack([clustered(20, seeded(3 * i + j))[0] for j in range(3)]) for i in range(2)])
    scores = torch.rand(3, 20, generator=seeded(7))

    def call(boxes, scores):
        return nms_padded(boxes, scores, iou_threshold=0.5, max_output=20)

    keep, count = torch.vmap(torch.vmap(call), in_dims=(0, None))(boxes, scores)
    for i, j in itertools.product(range(2), range(3)):
        assert_same((keep[i, j], count[i, j]), call(boxes[i, j], scores[j]))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda b, s: nms(b, s, 0.5), "nms"),
        (lambda b, s: batched_nms(b, s, s, 0.5), "batched_nms"),
        (lambda b, s: soft_nms(b, s), "soft_nms"),
    ],
)
def test_sizes_that_depend_on_data_are_refused(call, name):
    with pytest.raises(RuntimeError, match=f"{name} under torch.vmap: the size of its result depends on the data"):
        torch.vmap(call)(torch.rand(2, 5, 4), torch.rand(2, 5))


# --- roi_align -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (4, 1), (2, 2), (1, None), (None, 1)], ids=str)
def test_roi_align(in_dims, layout):
    """Forward, the gradient of the vmapped call and the vmapped gradient, all bit for bit the loop's."""
    features = batched(lambda entry: feature_map(SIZE, seeded(entry), layout=layout), in_dims[0])
    rois = batched(lambda entry: ordinary(5, SIZE, seeded(20 + entry)), in_dims[1])
    assert_same(torch.vmap(align, in_dims)(features, rois), looped(align, in_dims, features, rois))

    def loss(features, rois):
        return align(features, rois).square().sum()

    def gradient(features, rois):
        features = features.detach().requires_grad_()
        return torch.autograd.grad(loss(features, rois), features)[0]

    expected = looped(gradient, in_dims, features, rois)
    assert_same(torch.vmap(torch.func.grad(loss), in_dims)(features, rois), expected)
    total = torch.func.grad(lambda features: torch.vmap(loss, in_dims)(features, rois).sum())(features)
    leaf = features.clone().requires_grad_()
    torch.vmap(loss, in_dims)(leaf, rois).sum().backward()
    if in_dims[0] is None:
        expected = expected.sum(0)
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(leaf.grad, expected)
    else:
        assert_same(total, expected.movedim(0, in_dims[0]))
        assert_same(leaf.grad, expected.movedim(0, in_dims[0]))


@pytest.mark.parametrize("in_dims", [(0, 0), (1, None), (None, 2)], ids=str)
def test_roi_align_backward(in_dims):
    grad = batched(lambda entry: torch.rand(5, 3, 2, 3, generator=seeded(entry)), in_dims[0])
    rois = batched(lambda entry: ordinary(5, SIZE, seeded(20 + entry)), in_dims[1])

    def call(grad, rois):
        return torch.ops.fasterrcnn_ops.roi_align_backward(grad, rois, SCALE, 2, 3, *SIZE, 2, True, False)

    assert_same(torch.vmap(call, in_dims)(grad, rois), looped(call, in_dims, grad, rois))


def test_second_derivatives():
    features = torch.stack([feature_map(SIZE, seeded(entry)) for entry in range(ENTRIES)])
    rois = ordinary(5, SIZE, seeded(1))

    def penalty(features):
        return torch.func.grad(lambda f: align(f, rois).pow(3).sum())(features).square().sum()

    leaf = features.clone().requires_grad_()
    for entry in leaf:
        (first,) = torch.autograd.grad(align(entry, rois).pow(3).sum(), entry, create_graph=True)
        first.square().sum().backward()
    torch.testing.assert_close(torch.vmap(torch.func.grad(penalty))(features), leaf.grad)


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0)], ids=str)
def test_nested_roi_align(in_dims):
    features = torch.stack([feature_map(SIZE, seeded(entry)) for entry in range(ENTRIES)])
    rois = torch.stack([ordinary(4, SIZE, seeded(9 + entry)) for entry in range(2)])
    found = torch.vmap(torch.vmap(align, (0, None)), (None, 0))(features, rois)
    for i, j in itertools.product(range(2), range(ENTRIES)):
        assert_same(found[i, j], align(features[j], rois[i]))


def test_an_entry_never_reads_anothers_image():
    """A batch index that exists only because other entries have images is as wrong as ever."""
    features, rois = torch.rand(ENTRIES, *SIZE), ordinary(4, SIZE, seeded(0)).repeat(ENTRIES, 1, 1)
    for index in (2.0, -1.0, float("nan")):
        rois[1, 2, 0] = index
        with pytest.raises(RuntimeError, match="row 6 has batch index -1, expected one of the 6 images"):
            torch.vmap(align)(features, rois)


def test_fold_rois():
    """Fractions are cut off, half indices widened before they are shifted."""
    rois = torch.zeros(2, 4, 5)
    rois[..., 0] = torch.tensor([[0, 1.75, -0.5, 2], [0, 1, -1, float("nan")]])
    assert fold_rois(rois, 2)[:, 0].tolist() == [0, 1, 0, -1, 2, 3, -1, -1]
    many = torch.zeros(300, 1, 5, dtype=torch.bfloat16)
    assert fold_rois(many, 3)[:, 0].tolist() == [3 * entry for entry in range(300)]


def test_no_rois_and_no_images():
    assert torch.vmap(align)(torch.rand(ENTRIES, *SIZE), torch.empty(ENTRIES, 0, 5)).shape == (ENTRIES, 0, 3, 2, 3)
    assert torch.vmap(align)(torch.rand(ENTRIES, 0, 3, 6, 7), torch.empty(ENTRIES, 0, 5)).shape[0] == ENTRIES


def test_compiles():
    features, rois = torch.rand(ENTRIES, *SIZE), ordinary(4, SIZE, seeded(0))
    mapped = torch.vmap(align, (0, None))
    compiled = torch.compile(mapped, fullgraph=True, backend="aot_eager")
    assert_same(compiled(features, rois), mapped(features, rois))


# --- the others ------------------------------------------------------------------------------------------------------

PAIRS = {
    "encode_boxes": encode_boxes,
    "decode_boxes": lambda anchors, deltas: decode_boxes(deltas / 100, anchors, image_size=(50, 60)),
    "box_iou": box_iou,
    "roi_pool": lambda a, b: roi_pool(a.reshape(1, 1, 4, 6), torch.nn.functional.pad(b, (1, 0)), 2, 1 / 8),
    "pyramid": lambda a, b: multi_scale_roi_align(
        [a.reshape(1, 1, 4, 6), a[:3, :2].reshape(1, 1, 2, 3)], torch.nn.functional.pad(b, (1, 0)), 2, [1 / 8, 1 / 16]
    ),
}


@pytest.mark.parametrize("in_dims", [(0, 0), (1, None), (None, 2)], ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_vmap_of_pairs(name, in_dims):
    first = batched(some_boxes, in_dims[0])
    second = batched(lambda entry: some_boxes(entry + 10), in_dims[1])
    found = torch.vmap(PAIRS[name], in_dims)(first, second)
    assert_same(found, looped(PAIRS[name], in_dims, first, second))


@pytest.mark.parametrize("name", PAIRS)
def test_functional_gradients(name):
    """torch.func.grad, alone and vmapped, gives what backward() gives."""

    def loss(first, second):
        return PAIRS[name](first, second).square().sum()

    first, second = batched(some_boxes, 0), batched(lambda entry: some_boxes(entry + 10), 0)
    leaf = first.clone().requires_grad_()
    sum(loss(*pair) for pair in zip(leaf, second, strict=True)).backward()
    torch.testing.assert_close(torch.func.grad(loss)(first[0], second[0]), leaf.grad[0])
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(first, second), leaf.grad)


def test_second_derivatives_of_a_pyramid():
    """Both operators with lists: of tensors taken, and of tensors returned."""
    first, second = some_boxes(0), some_boxes(10)

    def penalty(first):
        gradient = torch.func.grad(lambda value: PAIRS["pyramid"](value, second).pow(3).sum())(first)
        return gradient.square().sum()

    leaf = first.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(PAIRS["pyramid"](leaf, second).pow(3).sum(), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(gradient.square().sum(), leaf)
    assert expected.any()
    torch.testing.assert_close(torch.func.grad(penalty)(first), expected)
    torch.testing.assert_close(torch.vmap(torch.func.grad(penalty))(first[None])[0], expected)


def test_forward_mode_says_that_there_is_none():
    boxes = some_boxes(0)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda first: box_iou(first, boxes), (boxes,), (boxes,))
