"""roi_pool: what it computes. How the RoI operators behave inside torch: test_roi_torch.py."""

from __future__ import annotations

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from roi_scenes import (
    HUGE,
    INF,
    MAP_SIZES,
    MEMORY_FORMATS,
    NAN,
    SCALE,
    SCENES,
    feature_map,
    format_of,
    hostile,
    ordinary,
    seeded,
)
from support import FLOAT_DTYPES, HALF_DTYPES, dtype_id

from fasterrcnn_ops.reference.roi_pool import roi_pool as reference
from fasterrcnn_ops.reference.roi_pool import roi_pool_with_argmax
from fasterrcnn_ops.roi_pool import RoIPool, roi_pool


@pytest.fixture(autouse=True)
def _kernel_there(request: pytest.FixtureRequest) -> None:
    device = request.getfixturevalue("device").type if "device" in request.fixturenames else "cpu"
    if not torch._C._dispatch_has_kernel_for_dispatch_key("fasterrcnn_ops::roi_pool_forward", device.upper()):
        pytest.skip(f"roi_pool has no {device} kernel in this build")


def roi(*corners: float, image: float = 0) -> torch.Tensor:
    return torch.tensor([[image, *corners]], dtype=torch.float32)


def ramp() -> torch.Tensor:
    """``[1, 1, 5, 5]`` with value 5 y + x: the maximum of a rectangle is its last pixel."""
    return torch.arange(25.0).reshape(1, 1, 5, 5)


# --- hand-computed ---------------------------------------------------------------------------------------------------


def test_golden():
    """Pixels 1 ... 3 in 2 bins of 1.5: bin 0 is pixels 1, 2, bin 1 is pixels 2, 3."""
    assert roi_pool(ramp(), roi(1, 1, 3, 3), 2).tolist() == [[[[12.0, 13.0], [17.0, 18.0]]]]


def test_golden_scale_and_rounding():
    """Halves round away from zero: 5 / 2 = 2.5 -> 3, -1 / 2 = -0.5 -> -1; (x 3 ... 3, y -1 ... 1), two rows of bins."""
    assert roi_pool(ramp(), roi(5, -1, 5, 2), (2, 1), 0.5).tolist() == [[[[3.0], [8.0]]]]
    assert roi_pool(ramp(), roi(-1, 0, -1, 0), 1, 0.5).item() == 0  # pixel -1: outside


def test_golden_outside_and_inverted():
    """Four columns 3 ... 6 in 4 bins, the last two outside; an inverted RoI is the one pixel it starts at."""
    assert roi_pool(ramp(), roi(3, 0, 6, 0), (1, 4)).tolist() == [[[[3.0, 4.0, 0.0, 0.0]]]]
    assert roi_pool(ramp(), roi(3, 3, 1, 1), 2).tolist() == [[[[18.0, 18.0], [18.0, 18.0]]]]


def test_golden_gradient_goes_to_the_first_maximum():
    features = torch.tensor([[[[1.0, 5.0, 5.0], [5.0, 0.0, 2.0]]]], requires_grad=True)
    pooled = roi_pool(features, torch.cat([roi(0, 0, 2, 1), roi(0, 1, 2, 1), roi(0, 0, 2, 1)]), 1)
    assert pooled.flatten().tolist() == [5, 5, 5]
    pooled.backward(torch.tensor([1.0, 10.0, 100.0]).reshape(3, 1, 1, 1))
    assert features.grad.tolist() == [[[[0, 101, 0], [10, 0, 0]]]]


# --- against the reference -------------------------------------------------------------------------------------------


def with_argmax(features, rois, size):
    return torch.ops.fasterrcnn_ops.roi_pool_forward(features, rois, SCALE, *size)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("scene", SCENES)
def test_equals_reference(device, dtype, layout, scene):
    """Values and positions, exactly: half of the values are tied."""
    for seed, size in enumerate(MAP_SIZES):
        features = feature_map(size, seeded(seed), dtype, layout).to(device)
        features = torch.where(features > 0, features.round(), features)
        rois = SCENES[scene](6, size, seeded(seed)).to(device)
        values, argmax = with_argmax(features, rois, (3, 4))
        expected_values, expected_argmax = roi_pool_with_argmax(features, rois, (3, 4), SCALE)
        support.assert_bitwise_equal(values + 0.0, expected_values + 0.0)
        assert torch.equal(argmax, expected_argmax)
        for result in (values, argmax):
            assert result.is_contiguous(memory_format=format_of(features))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("scene", SCENES)
def test_gradient_equals_reference(device, dtype, layout, scene):
    """The reference's gradient is autograd's, in float32 beside half types: what a single rounding leaves."""
    for seed, size in enumerate(MAP_SIZES):
        features = feature_map(size, seeded(seed), dtype, layout).to(device)
        rois = SCENES[scene](6, size, seeded(seed)).to(device)
        wide = torch.promote_types(dtype, torch.float32)
        ours, theirs = features.clone().requires_grad_(), features.to(wide, copy=True).requires_grad_()
        found = roi_pool(ours, rois, (3, 4), SCALE)
        grad = torch.randn(found.shape, generator=seeded(seed), dtype=torch.float64).to(found)
        found.backward(grad)
        reference(theirs, rois, (3, 4), SCALE).backward(grad.to(wide))
        support.assert_close(ours.grad, theirs.grad.to(dtype))
        assert ours.grad.is_contiguous(memory_format=format_of(features))


@pytest.mark.parametrize("roi_dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
def test_mixed_dtypes(dtype, roi_dtype):
    """RoIs of any floating dtype are used in float32, in float64 beside float64."""
    features = feature_map((2, 3, 12, 17), seeded(0), dtype)
    rois = ordinary(9, (2, 3, 12, 17), seeded(0)).to(roi_dtype)
    used = rois.to(torch.float64 if dtype == torch.float64 else torch.float32)
    found = roi_pool(features, rois, 3, SCALE)
    assert found.dtype == dtype
    support.assert_bitwise_equal(found, roi_pool(features, used, 3, SCALE))


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=dtype_id)
def test_half_gradient_is_rounded_once(dtype):
    """200 RoIs share 100 pixels: sums in the half type itself would lose whole addends."""
    features = feature_map((1, 4, 10, 10), seeded(0), dtype)
    rois = ordinary(200, (1, 4, 10, 10), seeded(1))
    half, full = features.clone().requires_grad_(), features.float().requires_grad_()
    grad = feature_map((200, 4, 7, 7), seeded(2), dtype)
    roi_pool(half, rois, 7, SCALE).backward(grad)
    roi_pool(full, rois, 7, SCALE).backward(grad.float())
    support.assert_bitwise_equal(half.grad, full.grad.to(dtype))


def test_strides_are_free(device):
    features = feature_map((2, 3, 12, 17), seeded(0)).to(device)
    rois = ordinary(9, (2, 3, 12, 17), seeded(0)).to(device)
    expected = roi_pool(features, rois, 3, SCALE)
    for layout in support.LAYOUTS.values():
        support.assert_bitwise_equal(roi_pool(layout(features), layout(rois), 3, SCALE), expected)
    one = features[:1, :1].expand(2, 5, 12, 17)
    support.assert_bitwise_equal(roi_pool(one, rois, 3, SCALE), roi_pool(one.contiguous(), rois, 3, SCALE))


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
def test_expanded_gradient(layout):
    """What ``sum().backward()`` sends back has stride 0."""
    features = feature_map((2, 3, 8, 9), seeded(0), layout=layout).requires_grad_()
    pooled = roi_pool(features, ordinary(5, (2, 3, 8, 9), seeded(0)), 3, SCALE)
    (expanded,) = torch.autograd.grad(pooled.sum(), features, retain_graph=True)
    (dense,) = torch.autograd.grad(pooled, features, torch.ones(pooled.shape))
    support.assert_bitwise_equal(expanded, dense)


# --- invariants ------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)),
    scene=st.sampled_from(sorted(SCENES)),
    bins=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    layout=st.sampled_from(sorted(MEMORY_FORMATS)),
)
def test_invariants(seed, size, scene, bins, layout):
    """Every value is the map's at argmax, empty bins are 0, and the gradient keeps the sum of what it was given."""
    features = feature_map(size, seeded(seed), torch.float64, layout).requires_grad_()
    rois = SCENES[scene](4, size, seeded(seed)).double()
    pooled, argmax = with_argmax(features, rois, bins)
    assert pooled.shape == argmax.shape == (4, size[1], *bins)
    assert ((argmax >= -1) & (argmax < size[2] * size[3])).all()
    planes = features.detach()[rois[:, 0].long()].flatten(2)  # [K, C, H * W]
    values = planes.gather(2, argmax.flatten(2).clamp(min=0)).view_as(pooled)
    assert torch.equal(pooled.detach(), torch.where(argmax >= 0, values, 0.0))
    assert torch.equal((argmax >= 0).all(dim=1), (argmax >= 0).any(dim=1))  # emptiness is the RoI's, not the channel's

    grad = torch.randn(pooled.shape, generator=seeded(seed), dtype=torch.float64)
    (back,) = torch.autograd.grad(pooled, features, grad)
    torch.testing.assert_close(back.sum(), grad[argmax >= 0].sum(), rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_rois_are_independent(seed):
    """Permuting RoIs permutes the results; a list of the images' boxes is the same as the table."""
    size = (3, 2, 9, 11)
    features = feature_map(size, seeded(seed))
    rois = ordinary(8, size, seeded(seed))
    pooled = roi_pool(features, rois, 3, SCALE)
    order = torch.randperm(8, generator=seeded(seed))
    support.assert_bitwise_equal(roi_pool(features, rois[order], 3, SCALE), pooled[order])
    by_image = torch.sort(rois[:, 0], stable=True).indices
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(3)]
    support.assert_bitwise_equal(roi_pool(features, boxes, 3, SCALE), pooled[by_image])


def test_whole_map_is_the_global_maximum():
    features = torch.randn(2, 5, 8, 9)
    rois = torch.tensor([[0, 0, 0, 8, 7], [1, -99, -99, 99, 99.0]])
    support.assert_bitwise_equal(roi_pool(features, rois, 1).flatten(1), features.amax(dim=(2, 3)))


# --- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize(
    ("size", "k"),
    [((2, 3, 5, 6), 0), ((2, 0, 5, 6), 4), ((2, 3, 0, 6), 4), ((2, 3, 5, 0), 4), ((0, 3, 5, 6), 0), ((0, 0, 0, 0), 0)],
)
def test_empty(device, dtype, layout, size, k):
    features = feature_map(size, seeded(0), dtype, layout).to(device).requires_grad_()
    pooled, argmax = with_argmax(features, roi(0, 0, 9, 9).to(device).expand(k, 5), (2, 3))
    assert pooled.shape == argmax.shape == (k, size[1], 2, 3)
    assert pooled.dtype == dtype
    assert (pooled == 0).all()
    assert (argmax == -1).all()
    pooled.sum().backward()
    assert features.grad.shape == size
    assert (features.grad == 0).all()


def test_empty_lists():
    features = torch.randn(2, 3, 5, 6)
    assert roi_pool(features, [], 2).shape == (0, 3, 2, 2)
    assert roi_pool(features, [torch.empty(0, 4)] * 2, 2).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("column", [1, 2, 3, 4])
def test_rois_with_nan_or_inf_give_zeros(device, value, column):
    rois = roi(1, 1, 4, 4).repeat(2, 1).to(device)
    rois[0, column] = value
    features = torch.ones(1, 2, 6, 6, device=device, requires_grad=True)
    pooled = roi_pool(features, rois, 2)
    assert (pooled[0] == 0).all()
    assert (pooled[1] == 1).all()
    pooled[0].sum().backward()
    assert (features.grad == 0).all()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("side", HUGE)
def test_gigantic_rois_answer_at_once(device, dtype, side):
    """The bins that hold the map see all of it; the others are empty."""
    corners = torch.tensor([[0, 0, side, side], [-side / 2, -side / 2, side / 2, side / 2]])
    rois = torch.cat([torch.zeros(2, 1), corners], dim=1).to(device)
    features = feature_map((1, 3, 20, 30), seeded(0), dtype).to(device)
    whole = features.amax(dim=(2, 3))[0]
    pooled = roi_pool(features, rois, 7)
    assert torch.equal(pooled[0, :, 0, 0], whole)
    assert torch.equal(pooled[1, :, 3, 3], whole)
    pooled[0, :, 0, 0] = pooled[1, :, 3, 3] = 0
    assert (pooled == 0).all()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
def test_nan_and_inf_in_the_map(device, dtype, layout):
    """NaN never wins, +inf does; only NaN or -inf: the lowest float32, from nowhere, as in torchvision."""
    features = torch.zeros(1, 2, 2, 6, dtype=dtype, device=device)
    features[0, 0] = torch.tensor([[NAN, 1, INF, NAN, NAN, -INF], [0, NAN, INF, 5, NAN, -INF]])
    features = features.to(memory_format=MEMORY_FORMATS[layout])
    pooled, argmax = torch.ops.fasterrcnn_ops.roi_pool_forward(features, roi(0, 0, 5, 1).to(device), 1.0, 1, 6)
    lowest = torch.tensor(torch.finfo(torch.float32).min).to(dtype).item()  # -inf in half types
    assert pooled[0, 0, 0].tolist() == [0, 1, INF, 5, lowest, lowest]
    assert argmax[0, 0, 0].tolist() == [6, 1, 2, 9, -1, -1]
    assert argmax[0, 1, 0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("seed", range(10))
def test_hostile_rois_leave_the_others_alone(device, seed):
    size = (2, 5, 9, 11)
    features = feature_map(size, seeded(seed)).to(device)
    good = ordinary(6, size, seeded(seed)).to(device)
    mixed = torch.cat([good, hostile(6, size, seeded(seed)).to(device)])
    pooled = roi_pool(features, mixed, 3, SCALE)
    support.assert_bitwise_equal(pooled[:6], roi_pool(features, good, 3, SCALE))
    assert pooled.isfinite().all()


def test_backward_ignores_positions_outside_the_map(device):
    """argmax is an argument of an operator anyone can call: it never writes outside the gradient."""
    grad = torch.ones(1, 1, 1, 4, device=device)
    argmax = torch.tensor([[[[-1, 12, 2**62, 3]]]], device=device)
    rois = roi(0, 0, 3, 2).to(device)
    found = torch.ops.fasterrcnn_ops.roi_pool_backward(grad, rois, argmax, 1.0, 1, 4, 1, 1, 3, 4, False)
    expected = torch.zeros(12)
    expected[3] = 1
    assert torch.equal(found.flatten().cpu(), expected)


def test_module():
    features, rois = torch.randn(1, 2, 6, 6), roi(1, 1, 4, 4)
    module = RoIPool((2, 3), 0.5)
    support.assert_bitwise_equal(module(features, rois), roi_pool(features, rois, (2, 3), 0.5))
    assert repr(module) == "RoIPool(output_size=(2, 3), spatial_scale=0.5)"
