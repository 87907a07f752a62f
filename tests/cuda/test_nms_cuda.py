"""NMS on a card: what the operator tests, which run on every device, cannot ask.

Streams, graphs, promises not to synchronise, other devices, sizes for which chunks, rounds and CUB's larger sorts come
into play. Expected results come from the CPU kernel. Skipped, visibly, without a card.
"""

from __future__ import annotations

import pytest
import support
import torch
from nms_scenes import SCENES, assert_same, clustered, random_ids, seeded, staircase
from support import FLOAT_DTYPES, dtype_id

from fasterrcnn_ops.nms import batched_nms, nms, nms_padded

pytestmark = support.needs_cuda_kernel("nms")

CUDA = torch.device("cuda")


def on(device, *tensors):
    return tuple(None if tensor is None else tensor.to(device) for tensor in tensors)


def assert_padded_same(found, expected) -> None:
    assert_same(found[0].cpu(), expected[0])
    assert found[1].shape == ()
    assert_same(found[1].cpu(), expected[1])


# --- sizes -----------------------------------------------------------------------------------------------------------

# Around warps, tiles, chunks (4096 boxes) and the flags of one output block; then several rounds.
SIZES = (1, 31, 33, 63, 64, 65, 128, 1000, 4095, 4096, 4097, 8192, 8193, 12_000, 30_000)


@pytest.mark.parametrize("classes", [None, 1, 3, 80, 5000])
@pytest.mark.parametrize("n", SIZES)
def test_equals_cpu(n, classes):
    boxes, scores = clustered(n, seeded(n))
    ids = None if classes is None else random_ids(n, seeded(1), classes)
    for max_output in (n, 300):
        expected = nms_padded(boxes, scores, ids, iou_threshold=0.5, max_output=max_output)
        found = nms_padded(*on(CUDA, boxes, scores, ids), iou_threshold=0.5, max_output=max_output)
        assert_padded_same(found, expected)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("scene", SCENES)
def test_scenes_of_several_rounds(scene, dtype):
    boxes, scores = SCENES[scene](9000, seeded(0), dtype)
    ids = random_ids(9000, seeded(1), 2)
    for threshold in (0.3, 0.5, 0.7):
        assert_same(nms(*on(CUDA, boxes, scores), threshold).cpu(), nms(boxes, scores, threshold))
        found = batched_nms(*on(CUDA, boxes, scores, ids), threshold)
        assert_same(found.cpu(), batched_nms(boxes, scores, ids, threshold))


@pytest.mark.parametrize("step", [1.0, 3.0, 11.0])
def test_long_chains(step):
    """Each decision depends on the one before, over all rounds; at step 11 every box is kept."""
    boxes, scores = staircase(20_000, torch.float64, step=step)
    assert_same(nms(*on(CUDA, boxes, scores), 0.5).cpu(), nms(boxes, scores, 0.5))


def test_all_boxes_of_a_large_input_are_kept():
    n = 150_000  # beyond 131,072 chunks get shorter to keep the mask small
    boxes, scores = staircase(n, torch.float64, step=11.0)
    assert_same(nms(*on(CUDA, boxes, scores), 0.5).cpu(), torch.arange(n))


def test_memory_is_linear():
    """A full mask of a million boxes would take 125 GB; the promise is 750 bytes a box, and CUB's sort."""
    n = 1_000_000
    boxes, scores = on(CUDA, *clustered(n, seeded(0)))
    ids = torch.arange(n, device=CUDA) % 1000
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    nms_padded(boxes, scores, ids, iou_threshold=0.5, max_output=1000)
    assert torch.cuda.max_memory_allocated() - before < 1000 * n


def test_repeats_bit_by_bit():
    inputs = on(CUDA, *clustered(30_000, seeded(0)), random_ids(30_000, seeded(1), 5))
    first, *others = (nms_padded(*inputs, iou_threshold=0.5, max_output=30_000)[0] for _ in range(5))
    assert all(torch.equal(first, other) for other in others)


def test_too_many_boxes():
    """Expanded, so that 2^31 boxes take no memory; refused before any is allocated."""
    boxes = torch.zeros(1, 4, device=CUDA).expand(2**31, 4)
    scores = torch.zeros(1, device=CUDA).expand(2**31)
    with pytest.raises(RuntimeError, match=r"at most 2\^31 - 1 boxes, got 2147483648"):
        nms_padded(boxes, scores, iou_threshold=0.5, max_output=10)


def test_more_output_than_boxes():
    boxes, scores = clustered(10, seeded(0))
    expected = nms_padded(boxes, scores, iou_threshold=0.5, max_output=100_000)
    assert_padded_same(nms_padded(*on(CUDA, boxes, scores), iou_threshold=0.5, max_output=100_000), expected)


# --- synchronisation, streams, graphs --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 1000, 10_000])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
def test_padded_never_synchronises(n, dtype):
    boxes, scores = on(CUDA, *clustered(n, seeded(0), dtype))
    ids = torch.arange(n, device=CUDA) % 7
    with support.no_synchronisation():
        for classes in (None, ids, ids.half(), ids.int()):
            for max_output in (0, 5, n + 5):
                nms_padded(boxes, scores, classes, iou_threshold=0.5, max_output=max_output)


def test_sized_synchronises():
    """The counter-check: under the same watch `nms` raises, so the watch works."""
    boxes, scores = on(CUDA, *clustered(100, seeded(0)))
    with support.no_synchronisation(), pytest.raises(RuntimeError):  # the text is lost in the stable ABI
        nms(boxes, scores, 0.5)


@pytest.mark.parametrize("n", [500, 10_000])
def test_current_stream(n):
    """Inputs made late on a side stream: kernels on any other stream would read what was there before."""
    boxes, scores = clustered(n, seeded(0))
    ids = random_ids(n, seeded(1), 3)
    expected = nms_padded(boxes, scores, ids, iou_threshold=0.5, max_output=n)
    sources = on(CUDA, boxes, scores, ids)
    inputs = tuple(torch.zeros_like(source) for source in sources)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for place, source in zip(inputs, sources, strict=True):
            place.copy_(source)
        found = nms_padded(*inputs, iou_threshold=0.5, max_output=n)
        sized = batched_nms(*inputs, 0.5)
    stream.synchronize()
    assert_padded_same(found, expected)
    assert_same(sized.cpu(), expected[0][: int(expected[1])])


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("n", [65, 1000, 10_000])
def test_graph_capture_and_replay(n, with_ids):
    """Replays on new boxes of the same shape, also where other numbers of boxes, rounds and classes survive."""
    scenes = [clustered(n, seeded(1)), staircase(n, step=11.0), SCENES["hostile"](n, seeded(2)), staircase(n)]
    all_ids = [random_ids(n, seeded(seed), classes) for seed, classes in enumerate((3, 1, n, 40))]
    inputs = on(CUDA, *scenes[0], all_ids[0])

    def run():
        return nms_padded(*inputs[:2], inputs[2] if with_ids else None, iou_threshold=0.4, max_output=n // 2)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    for _ in range(2):  # captured again after the first graph is gone
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            keep, count = run()
        for (boxes, scores), ids in zip(scenes, all_ids, strict=True):
            for place, source in zip(inputs, (boxes, scores, ids), strict=True):
                place.copy_(source)
            keep.fill_(-7)
            count.fill_(-7)
            graph.replay()
            classes = ids if with_ids else None
            expected = nms_padded(boxes, scores, classes, iou_threshold=0.4, max_output=n // 2)
            assert_padded_same((keep, count), expected)
        del graph


# --- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_another_device_than_the_current_one():
    boxes, scores = clustered(5000, seeded(0))
    ids = random_ids(5000, seeded(1), 3)
    with torch.cuda.device(0):
        found = batched_nms(*on("cuda:1", boxes, scores, ids), 0.5)
        assert torch.cuda.current_device() == 0
    assert found.device == torch.device("cuda", 1)
    assert_same(found.cpu(), batched_nms(boxes, scores, ids, 0.5))


def test_mixed_devices_are_refused():
    boxes, scores = clustered(5, seeded(0))
    with pytest.raises(RuntimeError, match=r"scores: expected the device of boxes \(cuda:0\), got cpu"):
        nms(boxes.to("cuda:0"), scores, 0.5)


def test_misaligned_views():
    """Rows of a wider table and storage that starts 4 bytes late: no wide loads of the caller's memory."""
    boxes, scores = clustered(300, seeded(0))
    storage = torch.empty(300 * 4 + 1, device=CUDA)
    late = storage[1:].view(300, 4)
    late.copy_(boxes)
    table = torch.cat([boxes, scores[:, None]], dim=1).to(CUDA)
    expected = nms(boxes, scores, 0.5)
    assert_same(nms(late, scores.to(CUDA), 0.5).cpu(), expected)
    assert_same(nms(table[:, :4], table[:, 4], 0.5).cpu(), expected)
