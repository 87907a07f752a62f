"""sample_candidates on a card: what the operator tests, which run on every device, cannot ask.

The CPU's samples at full size, streams, graphs, no synchronisation, other devices. Skipped, visibly, without a card.
"""

from __future__ import annotations

import pytest
import support
import torch

from fasterrcnn_ops.sampling import sample_candidates

pytestmark = support.needs_cuda_kernel("sample_candidates")

ANCHORS = {"num_samples": 256, "max_positive": 128}


def inputs(images: int, count: int, share: float = 0.001, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(images, count, generator=generator)
    return draw < share, draw > 0.1, torch.randint(-(2**63), 2**63 - 1, (images,), generator=generator)


def on(device: str, given):
    return tuple(tensor.to(device) for tensor in given)


def assert_same(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        support.assert_bitwise_equal(one.cpu(), other.cpu())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
@pytest.mark.parametrize(("images", "count"), [(1, 268_569), (8, 268_569), (3, 2017), (300, 33)])
def test_samples_of_the_cpu(images, count, share):
    """An odd count leaves the rows of a batch at every alignment."""
    given = inputs(images, count, share)
    found = sample_candidates(*on("cuda", given), **ANCHORS)
    assert found[0].device.type == "cuda"
    assert_same(found, sample_candidates(*given, **ANCHORS))


def test_repeated_numbers_at_full_size():
    """All hashes tie, six rounds decide."""
    everything = torch.ones(1, 200_000, dtype=torch.bool)
    given = everything, everything, torch.tensor([3]), torch.zeros(1, 200_000, dtype=torch.int64)
    *masks, index = on("cuda", given)
    assert_same(sample_candidates(*masks, index=index, **ANCHORS), [torch.arange(200_000)[None] < 128] * 2)


def test_no_synchronisation_on_a_side_stream():
    given = inputs(2, 5000)
    on_card = on("cuda", given)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with support.no_synchronisation(), torch.cuda.stream(side):
        late = torch.zeros_like(on_card[1])
        torch.cuda._sleep(50_000_000)
        late.copy_(on_card[1])  # on another stream than this, the operator would see no negatives
        found = sample_candidates(on_card[0], late, on_card[2], **ANCHORS)
    side.synchronize()
    assert_same(found, sample_candidates(*given, **ANCHORS))


def test_replays_of_a_graph_draw_anew():
    static = on("cuda", inputs(2, 5000))
    sample_candidates(*static, **ANCHORS)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = sample_candidates(*static, **ANCHORS)
    for seed in (1, 2):
        given = inputs(2, 5000, 0.05 * seed, seed)
        for place, tensor in zip(static, given, strict=True):
            place.copy_(tensor)
        graph.replay()
        assert_same(found, sample_candidates(*given, **ANCHORS))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_on_a_device_that_is_not_current():
    given = inputs(2, 5000)
    assert_same(sample_candidates(*on("cuda:1", given), **ANCHORS), sample_candidates(*given, **ANCHORS))
