"""Under autocast every operator gives what it gives for float32 tensors; features keep the dtype they came in.

torchvision gets there by casting; here the kernels compute in float32 anyway, and only operators that take several maps
of one dtype have a rule. tests/parity/test_autocast.py compares with torchvision itself.
"""

from __future__ import annotations

import functools

import pytest
import torch
from nms_scenes import clustered, random_ids, seeded
from pyramid_scenes import CANONICAL_LEVEL, CANONICAL_SCALE, SCALES, pyramid, rois_of_all_sizes
from rpn_maps import FPN, PYRAMID, PYRAMID_STRIDES, SIZES, maps_of
from support import HALF_DTYPES, assert_bitwise_equal, dtype_id

from fasterrcnn_ops import (
    batched_nms,
    decode_boxes,
    encode_boxes,
    generate_proposals,
    multi_scale_roi_align,
    nms,
    nms_padded,
    soft_nms,
)

pool_pyramid = functools.partial(
    multi_scale_roi_align,
    output_size=3,
    scales=SCALES,
    canonical_scale=CANONICAL_SCALE,
    canonical_level=CANONICAL_LEVEL,
)


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=dtype_id)
def test_suppression(device, dtype):
    """Half boxes decide as the same numbers in float32, inside and outside."""
    boxes, scores = (tensor.to(device, dtype) for tensor in clustered(60, seeded(0)))
    ids = random_ids(60, seeded(1), 4).to(device)
    for call in (
        lambda b, s: nms(b, s, 0.5),
        lambda b, s: batched_nms(b, s, ids, 0.5),
        lambda b, s: torch.cat([t.reshape(-1) for t in nms_padded(b, s, ids, iou_threshold=0.5, max_output=20)]),
        lambda b, s: soft_nms(b, s)[0],
    ):
        expected = call(boxes.float(), scores.float())
        assert torch.equal(call(boxes, scores), expected)
        with torch.autocast(device.type, dtype):
            assert torch.equal(call(boxes, scores), expected)


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("coder", [encode_boxes, decode_boxes])
def test_coding(device, coder, dtype):
    """Half deltas of float32 anchors: no coordinate is rounded to half."""
    anchors = clustered(30, seeded(0))[0].to(device)
    deltas = torch.rand(30, 4, generator=seeded(1)).to(device, dtype)
    with torch.autocast(device.type, dtype):
        found = coder(deltas, anchors)
    assert_bitwise_equal(found, coder(deltas.float(), anchors))


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("first", ["half", "float32"])
def test_levels_of_different_dtypes(device, first, dtype):
    """As layers leave them under autocast; the result and each gradient have the dtype of their map."""
    maps = [map_.to(device) for map_ in pyramid(seed=1)]
    maps = [map_.to(dtype) if (index % 2 == 0) == (first == "half") else map_ for index, map_ in enumerate(maps)]
    rois = rois_of_all_sizes(30).to(device)

    def run(levels):
        levels = [map_.detach().requires_grad_() for map_ in levels]
        pooled = pool_pyramid(levels, rois)
        return pooled, torch.autograd.grad(pooled.float().square().sum(), levels)

    expected, gradients = run([map_.float() for map_ in maps])
    with torch.autocast(device.type, dtype):
        pooled, found = run(maps)
    assert_bitwise_equal(pooled.detach(), expected.detach().to(maps[0].dtype))
    for gradient, other, map_ in zip(found, gradients, maps, strict=True):
        assert gradient.dtype == map_.dtype
        torch.testing.assert_close(gradient.float(), other, rtol=2e-2, atol=2e-2)
    with pytest.raises(RuntimeError, match="expected the dtype of features"):
        pool_pyramid(maps, rois)


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=dtype_id)
def test_float32_logits_beside_half_deltas(device, dtype):
    """A softmax under autocast widens its logits; the proposals lose nothing."""
    logits, deltas, cells = maps_of(PYRAMID, device=device)
    deltas = [map_.to(dtype) for map_ in deltas]
    propose = functools.partial(
        generate_proposals, cell_anchors=cells, strides=PYRAMID_STRIDES, image_sizes=SIZES.to(device), **FPN
    )
    expected = propose(logits, [map_.float() for map_ in deltas])
    with torch.autocast(device.type, dtype):
        found = propose(logits, deltas)
    for one, other in zip(found, expected, strict=True):
        assert_bitwise_equal(one, other)


def test_compiles():
    """The casts become part of the graph."""
    rois = rois_of_all_sizes(20)
    maps = [map_ if index else map_.bfloat16() for index, map_ in enumerate(pyramid())]

    def pool(levels):
        with torch.autocast("cpu", torch.bfloat16):
            return pool_pyramid(levels, rois)

    assert_bitwise_equal(torch.compile(pool, fullgraph=True, backend="aot_eager")(maps), pool(maps))


def test_keeps_float64():
    """As torchvision, autocast does not lower what is meant to be exact."""
    boxes, scores = clustered(20, seeded(0), torch.float64)
    maps = [map_.double() for map_ in pyramid()]
    with torch.autocast("cpu", torch.bfloat16):
        assert pool_pyramid(maps, rois_of_all_sizes(5)).dtype == torch.float64
        assert soft_nms(boxes, scores)[1].dtype == torch.float64
