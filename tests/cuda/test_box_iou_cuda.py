"""box_iou and its gradient on a card: what the operator tests, which run on every device, cannot ask.

The CPU's bits, bitwise repeatable gradients, streams, graphs, no synchronisation, other devices, unaligned views, more
than 2^31 results. Skipped, visibly, without a card.
"""

from __future__ import annotations

import pytest
import support
import torch
from support import FLOAT_DTYPES, HALF_DTYPES, assert_bitwise_equal, assert_close, dtype_id, random_boxes

from fasterrcnn_ops.boxes import box_iou

pytestmark = support.needs_cuda_kernel("box_iou")

CUDA = torch.device("cuda")


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (63, 32), (65, 33), (17, 129), (9, 257), (20, 30_000), (3000, 20)]
)
def test_bits_of_the_cpu(rows, columns, dtype):
    boxes1, boxes2 = random_boxes(rows, dtype=dtype), random_boxes(columns, dtype=dtype)
    found = box_iou(boxes1.to(CUDA), boxes2.to(CUDA))
    assert found.device.type == "cuda"
    assert_bitwise_equal(found.cpu(), box_iou(boxes1, boxes2))


def gradient(grad: torch.Tensor, boxes1: torch.Tensor, boxes2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ops.fasterrcnn_ops.box_iou_backward(grad, boxes1, boxes2)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (64, 16), (65, 33), (17, 700), (20, 30_000), (3000, 20)])
def test_gradient_of_the_cpu_and_repeatable(rows, columns, dtype):
    boxes1, boxes2 = random_boxes(rows, dtype=dtype), random_boxes(columns, dtype=dtype)
    grad = torch.randn(rows, columns)
    on_card = grad.to(CUDA), boxes1.to(CUDA), boxes2.to(CUDA)
    found, again = gradient(*on_card), gradient(*on_card)
    for one, other, expected in zip(found, again, gradient(grad, boxes1, boxes2), strict=True):
        assert one.dtype == dtype
        assert_bitwise_equal(one, other)
        assert_close(one.cpu(), expected, atol=1e-2 if dtype in HALF_DTYPES else 1e-5)
    if columns <= 16:  # the order of the CPU
        assert_bitwise_equal(found[0].cpu(), gradient(grad, boxes1, boxes2)[0])


def test_gradient_of_views_on_a_side_stream_without_synchronisation():
    boxes, grad = random_boxes(300), torch.randn(300, 300)
    grad_here, boxes_here = grad.to(CUDA), boxes.to(CUDA)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with support.no_synchronisation(), torch.cuda.stream(side):
        late = torch.zeros(300 * 4 + 1, device=CUDA)[1:].view(300, 4)
        torch.cuda._sleep(50_000_000)
        late.copy_(boxes_here)  # on another stream than this, the operator would see zeros
        found = gradient(grad_here.t(), late, late)
    side.synchronize()
    for one, expected in zip(found, gradient(grad.t(), boxes, boxes), strict=True):
        assert_close(one.cpu(), expected, atol=1e-5)


def test_gradient_in_a_graph():
    boxes, grad = random_boxes(500).to(CUDA), torch.randn(500, 400, device=CUDA)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        gradient(grad, boxes, boxes[:400])
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gradient(grad, boxes, boxes[:400])
    for _ in range(2):
        boxes.copy_(random_boxes(500))
        for one in found:
            one.fill_(-7)
        graph.replay()
        for one, expected in zip(found, gradient(grad, boxes, boxes[:400]), strict=True):
            assert_bitwise_equal(one, expected)


def test_unaligned_views():
    boxes = random_boxes(300)
    late = torch.empty(300 * 4 + 1, device=CUDA)[1:].view(300, 4)
    late.copy_(boxes)
    assert_bitwise_equal(box_iou(late, late[:40]).cpu(), box_iou(boxes, boxes[:40]))


def test_side_stream_without_synchronisation():
    boxes = random_boxes(2000)
    on_card = boxes.to(CUDA)
    side = torch.cuda.Stream()
    with support.no_synchronisation(), torch.cuda.stream(side):
        late = torch.zeros_like(on_card)
        torch.cuda._sleep(50_000_000)
        late.copy_(on_card)  # on another stream than this, the operator would see zeros
        found = box_iou(late, late)
    side.synchronize()
    assert_bitwise_equal(found.cpu(), box_iou(boxes, boxes))


def test_graph():
    place = random_boxes(500).to(CUDA)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        box_iou(place, place)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = box_iou(place, place)
    for _ in range(2):
        boxes = random_boxes(500)
        place.copy_(boxes)
        found.fill_(-7)
        graph.replay()
        assert_bitwise_equal(found.cpu(), box_iou(boxes, boxes))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_another_device_than_the_current_one():
    boxes = random_boxes(100)
    with torch.cuda.device(0):
        found = box_iou(boxes.to("cuda:1"), boxes.to("cuda:1"))
        assert torch.cuda.current_device() == 0
    assert found.device == torch.device("cuda", 1)
    assert_bitwise_equal(found.cpu(), box_iou(boxes, boxes))


def test_mixed_devices_are_refused():
    boxes = random_boxes(5)
    with pytest.raises(RuntimeError, match=r"boxes2: expected the device of boxes1 \(cuda:0\), got cpu"):
        torch.ops.fasterrcnn_ops.box_iou(boxes.to("cuda:0"), boxes)


def test_more_results_than_32_bits_count():
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] < 10 * 2**30:
        pytest.skip("needs 10 GiB of the card's memory")
    boxes = random_boxes(46_400)
    iou = box_iou(boxes.to(CUDA), boxes.to(CUDA))
    assert iou.numel() > 2**31
    for row in (0, 23_000, 46_399):
        assert_bitwise_equal(iou[row].cpu(), box_iou(boxes[row : row + 1], boxes)[0])
