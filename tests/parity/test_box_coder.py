"""Box coding against torchvision's BoxCoder."""

from __future__ import annotations

import math

import pytest
import support
import torch

from fasterrcnn_ops.box_coder import decode_boxes, encode_boxes

torchvision = support.require_torchvision()
from torchvision.models.detection._utils import BoxCoder  # noqa: E402

WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dtype", support.FULL_DTYPES, ids=support.dtype_id)
def test_encode(dtype, weights):
    boxes = support.random_boxes(3000, dtype=dtype)
    anchors = support.random_boxes(3000, dtype=dtype)
    expected = BoxCoder(weights).encode([boxes], [anchors])[0]
    support.assert_close(encode_boxes(boxes, anchors, weights), expected)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dtype", support.FULL_DTYPES, ids=support.dtype_id)
@pytest.mark.parametrize("per_anchor", [1, 21])
@pytest.mark.parametrize("clip", [math.log(1000 / 16), 0.2])
def test_decode(dtype, weights, per_anchor, clip):
    anchors = support.random_boxes(1000, dtype=dtype)
    deltas = torch.randn(1000, 4 * per_anchor, dtype=dtype) * 3
    expected = BoxCoder(weights, clip).decode(deltas, [anchors]).flatten(1)
    actual = decode_boxes(deltas, anchors, weights, clip=clip)
    # boxes grow to 62.5 anchors here, so float32 edges that cancel are good to a few hundredths of a pixel
    support.assert_close(actual, expected, atol=2e-2 if dtype == torch.float32 else 1e-9)


def test_bad_values_are_the_same():
    values = [math.nan, math.inf, -math.inf, 0.0, 1e30]
    deltas = torch.tensor([[a, b, a, b] for a in values for b in values])
    anchors = torch.tensor([[3.0, 4.0, 30.0, 40.0]]).repeat(len(deltas), 1)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    support.assert_close(decode_boxes(deltas, anchors), coder.decode(deltas, [anchors]).flatten(1))
    support.assert_close(encode_boxes(deltas, anchors), coder.encode([deltas], [anchors])[0])
    support.assert_close(encode_boxes(anchors, deltas), coder.encode([anchors], [deltas])[0])
