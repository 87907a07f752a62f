"""select_detections on a card: what the operator tests, which run on every device, cannot ask.

The reference's decisions at full size, streams, graphs, no synchronisation, other devices, memory that does not fit a
block. Skipped, visibly, without a card.
"""

from __future__ import annotations

import pytest
import support
import torch
from head_outputs import SIZES, head_outputs
from support import FLOAT_DTYPES, assert_bitwise_equal, dtype_id

from fasterrcnn_ops.detections import select_detections_with_proposal
from fasterrcnn_ops.reference import detections as ref

pytestmark = support.needs_cuda_kernel("select_detections")

CUDA = torch.device("cuda")
RULES = {"score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 100}


def on_card(*shape: int, **values):
    """Outputs of a head and sizes of its images, on the card."""
    return *head_outputs(*shape, device=CUDA, **values), SIZES.repeat(shape[0] // 2 + 1, 1)[: shape[0]].to(CUDA)


def assert_same(found, expected) -> None:
    """Decisions exactly, in the same order; probabilities too, where torch's softmax is the same device's."""
    for name, index in {"labels": 1, "count": 3, "proposal": 4}.items():
        assert torch.equal(found[index].cpu(), expected[index].cpu()), name
    support.assert_close(found[2], expected[2], rtol=1e-6, atol=0)
    support.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-4)


def assert_all_equal(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        assert_bitwise_equal(one.cpu(), other.cpu())


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(1, 1000, 90), (3, 300, 20), (2, 65, 1), (1, 33, 1023)], ids=str)
def test_equals_reference(shape, dtype):
    outputs = on_card(*shape, dtype=dtype)
    found = select_detections_with_proposal(*outputs, **RULES)
    assert found[0].device.type == "cuda"
    assert_same(found, ref.select_detections_with_proposal(*outputs, **RULES))


def test_probabilities_are_torchs():
    """Bitwise: lanes, sums and butterflies are in its order."""
    outputs = on_card(2, 400, 90)
    _, labels, scores, count, proposal = select_detections_with_proposal(*outputs, **RULES)
    assert (count > 0).all()
    expected = outputs[0].softmax(dim=2)
    for image, n in enumerate(count.tolist()):
        assert_bitwise_equal(scores[image, :n], expected[image, proposal[image, :n], labels[image, :n]])


@pytest.mark.parametrize("slots", [511, 512, 513, 2047, 2048, 2049, 5000])
def test_every_proposal_is_a_candidate(slots):
    """Around the block's threads and its shared memory."""
    outputs = on_card(1, slots, 2)
    rules = {**RULES, "score_threshold": -1.0, "max_detections": 2 * slots}
    assert_same(
        select_detections_with_proposal(*outputs, **rules), ref.select_detections_with_proposal(*outputs, **rules)
    )


@pytest.mark.parametrize("values", ["ties", "hostile"])
def test_repeats_itself(values):
    outputs = on_card(4, 1000, 20, values=values)
    first = select_detections_with_proposal(*outputs, **RULES)
    for _ in range(5):
        assert_all_equal(select_detections_with_proposal(*outputs, **RULES), first)


def test_an_image_alone_and_in_a_batch():
    outputs = on_card(4, 200, 20)
    together = select_detections_with_proposal(*outputs, **RULES)
    for image in range(4):
        alone = select_detections_with_proposal(*(tensor[image : image + 1] for tensor in outputs), **RULES)
        assert_all_equal(alone, [tensor[image : image + 1] for tensor in together])


@pytest.mark.parametrize("dtype", [torch.int32, torch.float16, torch.float32, torch.float64])
def test_dtypes_of_sizes_and_counts(dtype):
    *outputs, count, sizes = on_card(2, 100, 5)
    expected = select_detections_with_proposal(*outputs, count, sizes, **RULES)
    assert_all_equal(select_detections_with_proposal(*outputs, count.int(), sizes.to(dtype), **RULES), expected)


def test_negative_sizes_are_not_looked_for():
    """That would take a synchronisation; nothing is found in such an image, and the other is as ever."""
    *outputs, sizes = on_card(2, 100, 5)
    expected = select_detections_with_proposal(*outputs, sizes, **RULES)
    sizes[0] = -5
    found = select_detections_with_proposal(*outputs, sizes, **RULES)
    assert found[3][0].item() == 0
    assert_all_equal([tensor[1] for tensor in found], [tensor[1] for tensor in expected])


def test_side_stream_without_synchronisation():
    outputs = on_card(2, 300, 20)
    expected = select_detections_with_proposal(*outputs, **RULES)
    side = torch.cuda.Stream()
    late = [torch.zeros_like(tensor) for tensor in outputs]
    with support.no_synchronisation(), torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        for to, tensor in zip(late, outputs, strict=True):
            to.copy_(tensor)  # on another stream than this, the operator would see zeros
        found = select_detections_with_proposal(*late, **RULES)
    side.synchronize()
    assert_all_equal(found, expected)


def test_graph():
    place = on_card(2, 300, 20)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        select_detections_with_proposal(*place, **RULES)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = select_detections_with_proposal(*place, **RULES)
    for seed in (1, 2):
        outputs = on_card(2, 300, 20, seed=seed)
        for to, tensor in zip(place, outputs, strict=True):
            to.copy_(tensor)
        for tensor in found:
            tensor.fill_(-7)
        graph.replay()
        assert_all_equal(found, select_detections_with_proposal(*outputs, **RULES))


def test_unaligned_views():
    outputs = on_card(2, 100, 5)
    late = []
    for tensor in outputs:
        view = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=CUDA)[1:].view(tensor.shape)
        late.append(view.copy_(tensor))
    assert_all_equal(
        select_detections_with_proposal(*late, **RULES), select_detections_with_proposal(*outputs, **RULES)
    )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_another_device_than_the_current_one():
    outputs = on_card(2, 100, 5)
    with torch.cuda.device(0):
        found = select_detections_with_proposal(*(tensor.to("cuda:1") for tensor in outputs), **RULES)
        assert torch.cuda.current_device() == 0
    assert found[0].device == torch.device("cuda", 1)
    assert_all_equal(found, select_detections_with_proposal(*outputs, **RULES))
