"""Anchors and box coding on a card: what the operator tests, which run on every device, cannot ask.

The CPU's numbers, streams, graphs, no synchronisation (backward too), other devices. Skipped, visibly, without a card.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import support
import torch
from support import assert_bitwise_equal, random_boxes

from fasterrcnn_ops import decode_boxes, encode_boxes, grid_anchors

pytestmark = support.needs_cuda_kernel("decode_boxes")

CUDA = torch.device("cuda")
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
Call = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

CALLS: dict[str, Call] = {
    "grid_anchors": lambda boxes, deltas: grid_anchors(boxes[:9], (38, 50), 16, offset=8.0),
    "encode_boxes": lambda boxes, deltas: encode_boxes(boxes, boxes.flip(0), WEIGHTS),
    "decode_boxes": lambda boxes, deltas: decode_boxes(deltas, boxes, WEIGHTS, image_size=(600, 800)),
}


def inputs(count: int = 3000) -> tuple[torch.Tensor, torch.Tensor]:
    return random_boxes(count), torch.randn(count, 4)


@pytest.mark.parametrize("name", CALLS)
def test_numbers_of_the_cpu(name):
    boxes, deltas = inputs()
    found = CALLS[name](boxes.to(CUDA), deltas.to(CUDA)).cpu()
    expected = CALLS[name](boxes, deltas)
    assert_bitwise_equal(found, expected)  # float32: exp and log are ours on both devices


@pytest.mark.parametrize("name", CALLS)
def test_side_stream(name):
    boxes, deltas = inputs()
    expected = CALLS[name](boxes.to(CUDA), deltas.to(CUDA))
    ready = boxes.to(CUDA), deltas.to(CUDA)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        late = [torch.zeros_like(tensor) for tensor in ready]
        torch.cuda._sleep(50_000_000)
        for to, source in zip(late, ready, strict=True):
            to.copy_(source)  # on another stream than this, the operator would see zeros
        found = CALLS[name](*late)
    side.synchronize()
    assert_bitwise_equal(found, expected)


@pytest.mark.parametrize("name", CALLS)
def test_forward_never_synchronises(name):
    on_card = [tensor.to(CUDA) for tensor in inputs()]
    with support.no_synchronisation():
        CALLS[name](*on_card)


@pytest.mark.parametrize("name", ["encode_boxes", "decode_boxes"])
def test_backward_never_synchronises(name):
    boxes, deltas = (tensor.to(CUDA).requires_grad_() for tensor in inputs())
    grad = torch.randn(3000, 4).to(CUDA)
    with support.no_synchronisation():
        CALLS[name](boxes, deltas).backward(grad)
    assert boxes.grad is not None


@pytest.mark.parametrize("name", CALLS)
def test_graph_capture_and_replay(name):
    boxes, deltas = (tensor.to(CUDA) for tensor in inputs())
    call = CALLS[name]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(boxes, deltas)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(boxes, deltas)
    other_boxes, other_deltas = random_boxes(3000) + 3, torch.randn(3000, 4)
    boxes.copy_(other_boxes)
    deltas.copy_(other_deltas)
    captured.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert_bitwise_equal(captured, call(other_boxes.to(CUDA), other_deltas.to(CUDA)))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
@pytest.mark.parametrize("name", CALLS)
def test_another_device_than_the_current_one(name):
    boxes, deltas = inputs()
    found = CALLS[name](boxes.to("cuda:1"), deltas.to("cuda:1"))
    assert found.device == torch.device("cuda:1")
    assert_bitwise_equal(found.cpu(), CALLS[name](boxes.to("cuda:0"), deltas.to("cuda:0")).cpu())
