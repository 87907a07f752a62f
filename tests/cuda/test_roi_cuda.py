"""RoIAlign and RoIPool on a card: what the operator tests, which run on every device, cannot ask.

Streams, graphs, promises not to synchronise, other devices, sizes for which blocks, lists and tables come into play,
more than 2^31 elements. Expected results come from the CPU kernel. Skipped, visibly, without a card.
"""

from __future__ import annotations

import functools

import pytest
import support
import torch
from roi_scenes import MEMORY_FORMATS, NAN, SCALE, feature_map, hostile, ordinary, seeded
from support import FLOAT_DTYPES, assert_bitwise_equal, assert_close, dtype_id

from fasterrcnn_ops.roi_align import roi_align
from fasterrcnn_ops.roi_pool import roi_pool

pytestmark = support.needs_cuda_kernel("roi_align_forward")

CUDA = torch.device("cuda")

OPERATORS = {
    "align": functools.partial(roi_align, spatial_scale=SCALE, aligned=True),
    "align_2": functools.partial(roi_align, spatial_scale=SCALE, sampling_ratio=2),
    "pool": functools.partial(roi_pool, spatial_scale=SCALE),
}
SIZE = (2, 72, 45, 50)  # odd numbers of tiles; channels of one slab and a bit, in packs of 8


def forward_and_backward(operator: str, features, rois, output_size=7, seed: int = 2):
    """The pooled features and the gradient of the map, for a gradient drawn on the CPU."""
    features = features.detach().requires_grad_()
    pooled = OPERATORS[operator](features, rois, output_size)
    upstream = feature_map(tuple(pooled.shape), seeded(seed), pooled.dtype).to(pooled.device)
    return pooled.detach(), *torch.autograd.grad(pooled, features, upstream)


def assert_same(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        assert_close(one.cpu(), other)


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("make", [ordinary, hostile])
def test_equals_cpu(make, operator, dtype, layout):
    """600 RoIs: more than a list of the backward holds (512), as many batches as it has."""
    features, rois = feature_map(SIZE, seeded(0), dtype, layout), make(600, SIZE, seeded(1))
    expected = forward_and_backward(operator, features, rois)
    assert_same(forward_and_backward(operator, features.to(CUDA), rois.to(CUDA)), expected)


@pytest.mark.parametrize("output_size", [(1, 1), (16, 17), (3, 70), (40, 33)])
@pytest.mark.parametrize("operator", OPERATORS)
def test_bins_of_every_number(operator, output_size):
    features, rois = feature_map((1, 5, 30, 20), seeded(0)), ordinary(20, (1, 5, 30, 20), seeded(1))
    expected = forward_and_backward(operator, features, rois, output_size)
    assert_same(forward_and_backward(operator, features.to(CUDA), rois.to(CUDA), output_size), expected)


@pytest.mark.parametrize("operator", OPERATORS)
def test_maps_too_large_for_the_tables(operator):
    """Bins of more than 512 rows or columns."""
    for size in ((1, 2, 1300, 5), (1, 2, 5, 1300)):
        features = feature_map(size, seeded(0))
        rois = torch.tensor([[0, -1e5, -1e5, 1e5, 1e5], [0, 0, 0, size[3] / SCALE, size[2] / SCALE]])
        expected = forward_and_backward(operator, features, rois, 1)
        assert_same(forward_and_backward(operator, features.to(CUDA), rois.to(CUDA), 1), expected)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("operator", OPERATORS)
def test_misaligned_map(operator, dtype):
    """A channels_last map that starts one element late: no wide loads."""
    features, rois = feature_map((1, 16, 12, 9), seeded(0), dtype, "channels_last"), ordinary(9, SIZE, seeded(1))
    rois[:, 0] = 0
    late = torch.empty(features.numel() + 1, dtype=dtype, device=CUDA)[1:].view(1, 12, 9, 16).permute(0, 3, 1, 2)
    late.copy_(features)
    assert_same(forward_and_backward(operator, late, rois.to(CUDA)), forward_and_backward(operator, features, rois))


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_expanded_and_transposed_gradients(operator, layout):
    features, rois = feature_map(SIZE, seeded(0), layout=layout), ordinary(30, SIZE, seeded(1))

    def grads(features, rois):
        features = features.detach().requires_grad_()
        pooled = OPERATORS[operator](features, rois, 4)
        return [
            torch.autograd.grad(loss, features, retain_graph=True)[0]
            for loss in (pooled.sum(), (pooled.transpose(2, 3).contiguous() * 2).sum())
        ]

    assert_same(grads(features.to(CUDA), rois.to(CUDA)), grads(features, rois))


@pytest.mark.xdist_group("memory")
@pytest.mark.slow
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_more_than_2_31_elements(operator, layout):
    """Maps and gradients of halves with more than 2^31 elements; RoIs at the far end of the last image."""
    size = (3, 8, 9600, 9600)  # 2.2e9
    needed = 2 * 2 * size[0] * size[1] * size[2] * size[3] + (8 << 30)
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed >> 30} GB of free memory")
    features = torch.zeros(size, dtype=torch.float16, device=CUDA, memory_format=MEMORY_FORMATS[layout])
    corner = feature_map((1, 8, 64, 64), seeded(0), torch.float16)
    features[2:, :, -64:, -64:] = corner.to(CUDA)
    # Whole input pixels, which a float32 holds exactly at the far end too; in the corner, away from its own near edges.
    rois = ordinary(20, (1, 8, 50, 50), seeded(1)).clamp(min=8).round()
    rois[:, 0] = 0
    moved = rois + (9600 - 64) / SCALE
    moved[:, 0] = 2
    expected = forward_and_backward(operator, corner, rois)
    pooled, grad = forward_and_backward(operator, features, moved.to(CUDA))
    assert_close(pooled.cpu(), expected[0], rtol=2e-2, atol=2e-2)  # positions near 9600 are known to 1e-3 pixels
    assert_close(grad[2:, :, -64:, -64:].cpu(), expected[1], rtol=2e-2, atol=5e-2)
    assert grad[:2].abs().max() == 0


@pytest.mark.xdist_group("memory")
@pytest.mark.slow
@pytest.mark.parametrize("operator", ["align_2", "pool"])
def test_output_of_more_than_2_31_elements(operator):
    """Half a million RoIs; the last ones equal those of a short list."""
    k, size = 45_000, (1, 1024, 8, 8)
    needed = k * size[1] * 49 * (2 + (8 if operator == "pool" else 0)) + (4 << 30)
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed >> 30} GB of free memory")
    features = feature_map(size, seeded(0), torch.float16).to(CUDA)
    rois = ordinary(k, size, seeded(1)).to(CUDA)
    pooled = OPERATORS[operator](features, rois, 7)
    assert pooled.numel() > 2**31
    assert_bitwise_equal(pooled[-50:], OPERATORS[operator](features, rois[-50:], 7))


# --- what CUDA alone promises ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [-1.0, 2.0, 1e9, -1e9, NAN])
@pytest.mark.parametrize("operator", OPERATORS)
def test_unknown_images_give_zeros(operator, image):
    """The CPU raises; here that would need a read-back."""
    features = feature_map(SIZE, seeded(0)).to(CUDA).requires_grad_()
    rois = ordinary(9, SIZE, seeded(1))
    mixed = rois.repeat_interleave(2, dim=0)
    mixed[::2, 0] = image
    pooled = OPERATORS[operator](features, mixed.to(CUDA), 3)
    assert (pooled[::2] == 0).all()
    assert_bitwise_equal(pooled[1::2], OPERATORS[operator](features, rois.to(CUDA), 3))
    upstream = torch.randn_like(pooled)
    found = torch.autograd.grad(pooled, features, upstream, create_graph=True)[0]
    alone = torch.autograd.grad(OPERATORS[operator](features, rois.to(CUDA), 3), features, upstream[1::2])[0]
    assert_bitwise_equal(found.detach(), alone)


@pytest.mark.parametrize("operator", OPERATORS)
def test_double_backward_of_unknown_images(operator):
    """Nothing is read through a batch index that names no image (it would end the process's use of the device)."""
    features = feature_map(SIZE, seeded(0), torch.float64).to(CUDA).requires_grad_()
    rois = ordinary(4, SIZE, seeded(1))
    rois[::2, 0] = torch.tensor([7.0, -3.0])
    upstream = torch.randn(4, SIZE[1], 3, 3, dtype=torch.float64, device=CUDA, requires_grad=True)
    pooled = OPERATORS[operator](features, rois.to(CUDA), 3)
    (grad,) = torch.autograd.grad(pooled, features, upstream, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), upstream)
    torch.cuda.synchronize()
    assert (second[::2] == 0).all()
    assert (second[1::2] != 0).any()


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("operator", OPERATORS)
def test_repeats_bit_by_bit(operator, dtype, layout):
    features = feature_map(SIZE, seeded(0), dtype, layout).to(CUDA)
    rois = ordinary(600, SIZE, seeded(1)).to(CUDA)
    first = forward_and_backward(operator, features, rois)
    for _ in range(4):
        for one, other in zip(forward_and_backward(operator, features, rois), first, strict=True):
            assert_bitwise_equal(one, other)


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_order_of_images_changes_nothing(operator, layout):
    features = feature_map(SIZE, seeded(0), layout=layout).to(CUDA)
    rois = ordinary(100, SIZE, seeded(1)).to(CUDA)
    swapped = rois.clone()
    swapped[:, 0] = 1 - swapped[:, 0]
    pooled, grad = forward_and_backward(operator, features, rois)
    other_pooled, other_grad = forward_and_backward(operator, features.flip(0), swapped)
    assert_bitwise_equal(pooled, other_pooled)
    assert_bitwise_equal(grad, other_grad.flip(0))


# --- synchronisation, streams, graphs --------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 1, 600])
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("operator", OPERATORS)
def test_never_synchronises(operator, dtype, layout, k):
    features = feature_map(SIZE, seeded(0), dtype, layout).to(CUDA).requires_grad_()
    rois = hostile(k, SIZE, seeded(1)).to(CUDA)
    with support.no_synchronisation():
        for table in (rois, rois.double(), rois.half()):
            pooled = OPERATORS[operator](features, table, 7)
            torch.autograd.grad(pooled, features, torch.ones_like(pooled))


def test_the_watch_works():
    """The counter-check of test_never_synchronises: a read-back raises under the same watch."""
    with support.no_synchronisation(), pytest.raises(RuntimeError):
        torch.ones(1, device=CUDA).item()


@pytest.mark.parametrize("operator", OPERATORS)
def test_current_stream(operator):
    """Inputs made late on a side stream: kernels on any other stream would read what was there before."""
    features, rois = feature_map(SIZE, seeded(0)), ordinary(60, SIZE, seeded(1))
    expected = forward_and_backward(operator, features, rois)
    sources = features.to(CUDA), rois.to(CUDA)
    upstream = feature_map(tuple(expected[0].shape), seeded(2)).to(CUDA)
    late_features, late_rois = (torch.zeros_like(source) for source in sources)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late_features.copy_(sources[0])
        late_rois.copy_(sources[1])
        leaf = late_features.requires_grad_()
        pooled = OPERATORS[operator](leaf, late_rois, 7)
        (grad,) = torch.autograd.grad(pooled, leaf, upstream)
    stream.synchronize()
    assert_same((pooled.detach(), grad), expected)


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_graph_capture_and_replay(operator, layout):
    """Replays of forward and backward on new maps and RoIs of the same shape; captured twice."""
    scenes = [
        (feature_map(SIZE, seeded(i), layout=layout), make(80, SIZE, seeded(i)))
        for i, make in enumerate((ordinary, hostile, ordinary))
    ]
    features, rois = scenes[0][0].to(CUDA), scenes[0][1].to(CUDA)
    upstream = feature_map((80, SIZE[1], 7, 7), seeded(2)).to(CUDA)

    def run():
        leaf = features.detach().requires_grad_()
        pooled = OPERATORS[operator](leaf, rois, 7)
        return pooled.detach(), *torch.autograd.grad(pooled, leaf, upstream)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    for _ in range(2):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = run()
        for new_features, new_rois in scenes:
            features.copy_(new_features)
            rois.copy_(new_rois)
            for result in results:
                result.fill_(NAN)
            graph.replay()
            assert_same(results, forward_and_backward(operator, new_features, new_rois))
        del graph


# --- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
@pytest.mark.parametrize("operator", OPERATORS)
def test_another_device_than_the_current_one(operator):
    features, rois = feature_map(SIZE, seeded(0)), ordinary(60, SIZE, seeded(1))
    with torch.cuda.device(0):
        found = forward_and_backward(operator, features.to("cuda:1"), rois.to("cuda:1"))
        assert torch.cuda.current_device() == 0
    assert all(one.device == torch.device("cuda", 1) for one in found)
    assert_same(found, forward_and_backward(operator, features, rois))


@pytest.mark.parametrize("operator", OPERATORS)
def test_mixed_devices_are_refused(operator):
    features, rois = feature_map(SIZE, seeded(0)), ordinary(5, SIZE, seeded(1))
    with pytest.raises(RuntimeError, match=r"rois: expected the device of input \(cuda:0\), got cpu"):
        OPERATORS[operator](features.to("cuda:0"), rois, 7)
