"""generate_proposals on a card: what the operator tests, which run on every device, cannot ask.

The reference's decisions at full size, streams, graphs, no synchronisation, other devices, levels beyond one tile.
Skipped, visibly, without a card.
"""

from __future__ import annotations

import pytest
import support
import torch
from rpn_maps import LAYOUTS, PYRAMID, SYSTEMS, maps_of
from support import FLOAT_DTYPES, assert_bitwise_equal, dtype_id

from fasterrcnn_ops import generate_proposals
from fasterrcnn_ops.reference import proposals as ref

pytestmark = support.needs_cuda_kernel("generate_proposals")

CUDA = torch.device("cuda")
FULL = ((3, 200, 336), (3, 100, 168), (3, 50, 84), (3, 25, 42), (3, 13, 21))
FULL_STRIDES = (4, 8, 16, 32, 64)
RULES = {"pre_nms_top_n": 1000, "post_nms_top_n": 1000, "nms_threshold": 0.7}


def on_card(levels=FULL, batch: int = 2, layout: str = "contiguous", **values):
    """Arguments on the card: maps, cell anchors, strides, sizes of the images."""
    objectness, deltas, cells = maps_of(levels, batch, device=CUDA, **values)
    strides = FULL_STRIDES[: len(levels)]
    sizes = torch.tensor([[800, 1333], [750, 1200]], device=CUDA).repeat(batch // 2 + 1, 1)[:batch]
    return [LAYOUTS[layout](m) for m in objectness], [LAYOUTS[layout](m) for m in deltas], cells, strides, sizes


def assert_same(found, expected) -> None:
    """The same proposals in the same order; the reference is composed of torch's own exp and sigmoid of that device."""
    boxes, scores, count = found
    assert torch.equal(count, expected[2])
    support.assert_close(scores, expected[1], rtol=1e-6, atol=0)
    support.assert_close(boxes, expected[0], rtol=1e-6, atol=1e-3)


def assert_all_equal(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        assert_bitwise_equal(one.cpu(), other.cpu())


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_reference(layout, dtype):
    arguments = on_card(layout=layout, dtype=dtype)
    found = generate_proposals(*arguments, **RULES)
    assert found[0].device.type == "cuda"
    assert_same(found, ref.generate_proposals(*arguments, **RULES))


@pytest.mark.parametrize("rules", SYSTEMS.values(), ids=SYSTEMS)
@pytest.mark.parametrize("values", ["ties", "hostile"])
def test_rules_of_the_systems(rules, values):
    arguments = on_card(PYRAMID, values=values)
    rules = {name: value.to(CUDA) if isinstance(value, torch.Tensor) else value for name, value in rules.items()}
    assert_same(generate_proposals(*arguments, **rules), ref.generate_proposals(*arguments, **rules))


def test_scores_are_torchs_sigmoid():
    """Bitwise: of one level without NMS or filters, the best logits in order."""
    objectness, deltas, cells, strides, sizes = on_card(((3, 50, 84),), batch=1)
    rules = {"pre_nms_top_n": 900, "post_nms_top_n": 900, "nms_threshold": 1.0, "min_size": -1.0}
    _, scores, count = generate_proposals(objectness, deltas, cells, strides, sizes, **rules)
    assert count.item() == 900
    assert_bitwise_equal(scores[0], objectness[0].flatten().topk(900).values.sigmoid().sort(descending=True).values)


@pytest.mark.parametrize("pre_nms_top_n", [1023, 1024, 1025, 2000, 6000, 12000])
def test_several_tiles_and_rounds(pre_nms_top_n):
    """Around the 1024 that one block sorts, and the 4096 that one round of NMS takes."""
    arguments = on_card(((9, 50, 84),), batch=2)
    rules = {**RULES, "pre_nms_top_n": pre_nms_top_n, "post_nms_top_n": 2000}
    assert_same(generate_proposals(*arguments, **rules), ref.generate_proposals(*arguments, **rules))


def test_one_logit_everywhere():
    """More equal logits than the list of the search has room for: the maps are read again, digit by digit."""
    objectness, *rest = on_card()
    objectness = [torch.zeros_like(maps) for maps in objectness]
    assert_same(generate_proposals(objectness, *rest, **RULES), ref.generate_proposals(objectness, *rest, **RULES))


@pytest.mark.parametrize("values", ["ties", "hostile"])
def test_repeats_itself(values):
    arguments = on_card(batch=3, values=values)
    first = generate_proposals(*arguments, **RULES)
    for _ in range(5):
        assert_all_equal(generate_proposals(*arguments, **RULES), first)


def test_an_image_alone_and_in_a_batch():
    objectness, deltas, cells, strides, sizes = on_card(batch=3)
    together = generate_proposals(objectness, deltas, cells, strides, sizes, **RULES)
    for i in range(3):
        one = slice(i, i + 1)
        alone = generate_proposals(
            [maps[one] for maps in objectness], [maps[one] for maps in deltas], cells, strides, sizes[one], **RULES
        )
        assert_all_equal(alone, [tensor[one] for tensor in together])


@pytest.mark.parametrize("dtype", [torch.int32, torch.float16, torch.float32, torch.float64])
def test_dtypes_of_sizes(dtype):
    *arguments, sizes = on_card(PYRAMID)
    sizes = sizes // 8
    expected = generate_proposals(*arguments, sizes, **RULES)
    assert_all_equal(generate_proposals(*arguments, sizes.to(dtype), **RULES), expected)


def test_negative_sizes_are_not_looked_for():
    """That would take a synchronisation; nothing is found in such an image, and the other is as ever."""
    *arguments, sizes = on_card(PYRAMID)
    expected = generate_proposals(*arguments, sizes, **RULES)
    sizes[0] = -5
    found = generate_proposals(*arguments, sizes, **RULES)
    assert found[2][0].item() == 0
    assert_all_equal([tensor[1] for tensor in found], [tensor[1] for tensor in expected])


def copied(objectness, deltas, cells, strides, sizes):
    """Empty tensors like the arguments, and all tensors beside what goes into them."""
    late = ([torch.zeros_like(m) for m in objectness], [torch.zeros_like(m) for m in deltas])
    return (*late, cells, strides, sizes.clone()), list(zip((*late[0], *late[1]), (*objectness, *deltas), strict=True))


def test_side_stream_without_synchronisation():
    arguments = on_card()
    expected = generate_proposals(*arguments, **RULES)
    side = torch.cuda.Stream()
    late, pairs = copied(*arguments)
    with support.no_synchronisation(), torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        for to, tensor in pairs:
            to.copy_(tensor)  # on another stream than this, the operator would see zeros
        found = generate_proposals(*late, **RULES)
    side.synchronize()
    assert_all_equal(found, expected)


@pytest.mark.parametrize("pre_nms_top_n", [1000, 6000])
def test_graph(pre_nms_top_n):
    rules = {**RULES, "pre_nms_top_n": pre_nms_top_n}
    place, _ = copied(*on_card())
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        generate_proposals(*place, **rules)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = generate_proposals(*place, **rules)
    for seed in (1, 2):
        arguments = on_card(seed=seed)
        for to, tensor in zip((*place[0], *place[1]), (*arguments[0], *arguments[1]), strict=True):
            to.copy_(tensor)
        for tensor in found:
            tensor.fill_(-7)
        graph.replay()
        assert_all_equal(found, generate_proposals(*arguments, **rules))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_another_device_than_the_current_one():
    objectness, deltas, cells, strides, sizes = on_card(PYRAMID)
    moved = [[tensor.to("cuda:1") for tensor in tensors] for tensors in (objectness, deltas, cells)]
    with torch.cuda.device(0):
        found = generate_proposals(*moved, strides, sizes.to("cuda:1"), **RULES)
        assert torch.cuda.current_device() == 0
    assert found[0].device == torch.device("cuda", 1)
    assert_all_equal(found, generate_proposals(objectness, deltas, cells, strides, sizes, **RULES))
