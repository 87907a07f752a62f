"""roi_align: what it computes. How the RoI operators behave inside torch: test_roi_torch.py."""

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

from fasterrcnn_ops.reference.roi_align import roi_align as reference
from fasterrcnn_ops.roi_align import RoIAlign, roi_align

SETTINGS = [(ratio, aligned) for ratio in (-1, 2, 0, 3, 1) for aligned in (False, True)]


@pytest.fixture(autouse=True)
def _kernel_there(request: pytest.FixtureRequest) -> None:
    device = request.getfixturevalue("device").type if "device" in request.fixturenames else "cpu"
    if not torch._C._dispatch_has_kernel_for_dispatch_key("fasterrcnn_ops::roi_align_forward", device.upper()):
        pytest.skip(f"roi_align has no {device} kernel in this build")


def roi(*corners: float, image: float = 0) -> torch.Tensor:
    return torch.tensor([[image, *corners]], dtype=torch.float32)


# --- hand-computed ---------------------------------------------------------------------------------------------------


def ramp() -> torch.Tensor:
    """``[1, 1, 5, 5]`` with value 5 y + x: interpolation between pixels is exact."""
    return torch.arange(25.0).reshape(1, 1, 5, 5)


def test_golden_aligned():
    """Sides of 2 pixels in 2 bins, from (0.5, 0.5) after the shift: one sample a bin, at 1.0 and 2.0."""
    found = roi_align(ramp(), roi(1, 1, 3, 3), 2, 1.0, -1, True)
    assert found.tolist() == [[[[6.0, 7.0], [11.0, 12.0]]]]


def test_golden_unaligned():
    """The same box without the shift: samples at 1.5 and 2.5."""
    found = roi_align(ramp(), roi(1, 1, 3, 3), 2, 1.0, -1, False)
    assert found.tolist() == [[[[9.0, 10.0], [14.0, 15.0]]]]


def test_golden_adaptive_grid_and_scale():
    """Input (2, 4, 8, 6) at scale 1/2 is x 1 ... 4, y 2 ... 3. One bin: samples at x = 1.5, 2.5, 3.5 and y = 2.5."""
    assert roi_align(ramp(), roi(2, 4, 8, 6), 1, 0.5).item() == 5 * 2.5 + 2.5


def test_golden_border():
    """y from -2 to 2, 4 samples: at -1.5 (outside, 0), -0.5 (clamped to row 0), 0.5, 1.5; x at 0.5 throughout."""
    found = roi_align(ramp(), roi(0, -2, 1, 2), 1, 1.0, -1, False)
    assert found.item() == (0 + 0.5 + (2.5 + 0.5) + (7.5 + 0.5)) / 4


def test_golden_unaligned_box_is_at_least_one_pixel():
    assert roi_align(ramp(), roi(2, 2, 2, 2), 1).item() == 5 * 2.5 + 2.5
    assert roi_align(ramp(), roi(2, 2, 2, 2), 1, aligned=True).item() == 0  # no area, no samples
    assert roi_align(ramp(), roi(2, 2, 2, 2), 1, sampling_ratio=2, aligned=True).item() == 5 * 1.5 + 1.5


def test_golden_gradient():
    """One sample at (y, x) = (0.25, 1.5): shares 3/4 and 1/4 of rows 0 and 1, 1/2 each of columns 1 and 2."""
    features = torch.zeros(1, 1, 2, 3, requires_grad=True)
    roi_align(features, roi(1, -0.25, 2, 0.75), 1, sampling_ratio=1).sum().backward()
    assert features.grad.tolist() == [[[[0, 0.375, 0.375], [0, 0.125, 0.125]]]]


# --- against the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("scene", SCENES)
def test_equals_reference(device, dtype, layout, scene):
    for seed, size in enumerate(MAP_SIZES):
        features = feature_map(size, seeded(seed), dtype, layout).to(device)
        rois = SCENES[scene](6, size, seeded(seed)).to(device)
        for ratio, aligned in SETTINGS[seed :: len(MAP_SIZES)]:
            found = roi_align(features, rois, (3, 4), SCALE, ratio, aligned)
            support.assert_close(found, reference(features, rois, (3, 4), SCALE, ratio, aligned))
            assert found.is_contiguous(memory_format=format_of(features))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("scene", SCENES)
def test_gradient_equals_reference(device, dtype, layout, scene):
    """The reference's gradient is autograd's, in float32 beside half types: what a single rounding leaves."""
    for seed, size in enumerate(MAP_SIZES):
        features = feature_map(size, seeded(seed), dtype, layout).to(device)
        rois = SCENES[scene](6, size, seeded(seed)).to(device)
        ratio, aligned = SETTINGS[seed]
        wide = torch.promote_types(dtype, torch.float32)
        ours, theirs = features.clone().requires_grad_(), features.to(wide, copy=True).requires_grad_()
        found = roi_align(ours, rois, (3, 4), SCALE, ratio, aligned)
        grad = torch.randn(found.shape, generator=seeded(seed), dtype=torch.float64).to(found)
        found.backward(grad)
        reference(theirs, rois, (3, 4), SCALE, ratio, aligned).backward(grad.to(wide))
        support.assert_close(ours.grad, theirs.grad.to(dtype))
        assert ours.grad.is_contiguous(memory_format=format_of(features))


def test_many_samples_in_closed_form(device):
    """Above a few samples a pixel, sums are computed without visiting the samples."""
    features = feature_map((1, 2, 6, 9), seeded(0), torch.float64).to(device)
    for seed in range(2):
        rois = ordinary(6, (1, 2, 6, 9), seeded(seed)).double().to(device)
        rois[::2, 1:] = rois[::2, [3, 4, 1, 2]]  # inverted: samples run backwards
        for ratio in (30, 200, 1000):
            found = roi_align(features, rois, (2, 3), SCALE, ratio, True)
            support.assert_close(found, reference(features, rois, (2, 3), SCALE, ratio, True), atol=1e-11)


@pytest.mark.parametrize("roi_dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
def test_mixed_dtypes(dtype, roi_dtype):
    """RoIs of any floating dtype are used in float32, in float64 beside float64."""
    features = feature_map((2, 3, 12, 17), seeded(0), dtype)
    rois = ordinary(9, (2, 3, 12, 17), seeded(0)).to(roi_dtype)
    used = rois.to(torch.float64 if dtype == torch.float64 else torch.float32)
    found = roi_align(features, rois, 3, SCALE)
    assert found.dtype == dtype
    support.assert_bitwise_equal(found, roi_align(features, used, 3, SCALE))


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=dtype_id)
def test_half_is_rounded_once(dtype):
    """Exactly the float32 result of the same values, rounded; and so is the gradient over many RoIs."""
    features = feature_map((1, 4, 10, 10), seeded(0), dtype)
    rois = ordinary(200, (1, 4, 10, 10), seeded(1))
    half, full = features.clone().requires_grad_(), features.float().requires_grad_()
    out_half, out_full = (roi_align(map_, rois, 7, SCALE, 2) for map_ in (half, full))
    support.assert_bitwise_equal(out_half, out_full.to(dtype))
    grad = feature_map(out_half.shape, seeded(2), dtype)
    out_half.backward(grad)
    out_full.backward(grad.float())
    support.assert_bitwise_equal(half.grad, full.grad.to(dtype))


def test_strides_are_free(device):
    features = feature_map((2, 3, 12, 17), seeded(0)).to(device)
    rois = ordinary(9, (2, 3, 12, 17), seeded(0)).to(device)
    expected = roi_align(features, rois, 3, SCALE)
    for layout in support.LAYOUTS.values():
        support.assert_bitwise_equal(roi_align(layout(features), layout(rois), 3, SCALE), expected)
    one = features[:1, :1].expand(2, 5, 12, 17)
    support.assert_bitwise_equal(roi_align(one, rois, 3, SCALE), roi_align(one.contiguous(), rois, 3, SCALE))


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
def test_expanded_gradient(layout):
    """What ``sum().backward()`` and a mean over bins send back has stride 0."""
    features = feature_map((2, 3, 8, 9), seeded(0), layout=layout).requires_grad_()
    rois = ordinary(5, (2, 3, 8, 9), seeded(0))
    pooled = roi_align(features, rois, 3, SCALE)
    (expanded,) = torch.autograd.grad(pooled.sum(), features, retain_graph=True)
    (dense,) = torch.autograd.grad(pooled, features, torch.ones(pooled.shape))
    support.assert_bitwise_equal(expanded, dense)


# --- invariants ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)),
    scene=st.sampled_from(sorted(SCENES)),
    bins=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    ratio=st.one_of(st.integers(-1, 4), st.sampled_from([50, 2**31, 2**62])),
    aligned=st.booleans(),
    layout=st.sampled_from(sorted(MEMORY_FORMATS)),
)
def test_invariants(seed, size, scene, bins, ratio, aligned, layout):
    """A mean: bounded by the values it reads (and the zero outside), linear, and transposed by its gradient."""
    features = feature_map(size, seeded(seed), torch.float64, layout).requires_grad_()
    rois = SCENES[scene](4, size, seeded(seed)).double()
    pooled = roi_align(features, rois, bins, SCALE, ratio, aligned)
    slack = 1e-9
    assert pooled.shape == (4, size[1], *bins)
    assert (pooled <= max(features.max().item(), 0) + slack).all()
    assert (pooled >= min(features.min().item(), 0) - slack).all()

    coverage = roi_align(torch.ones_like(features), rois, bins, SCALE, ratio, aligned)  # share of samples inside
    assert ((coverage >= 0) & (coverage <= 1 + slack)).all()
    shifted = roi_align(3 * features - 2, rois, bins, SCALE, ratio, aligned)
    torch.testing.assert_close(shifted, 3 * pooled - 2 * coverage, rtol=1e-9, atol=1e-9)

    grad = torch.randn(pooled.shape, generator=seeded(seed), dtype=torch.float64)
    (back,) = torch.autograd.grad(pooled, features, grad)
    torch.testing.assert_close((back * features).sum(), (grad * pooled).sum(), rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ratio=st.integers(-1, 3), aligned=st.booleans())
def test_rois_are_independent(seed, ratio, aligned):
    """Permuting RoIs permutes the results; a list of the images' boxes is the same as the table."""
    size = (3, 2, 9, 11)
    features = feature_map(size, seeded(seed))
    rois = ordinary(8, size, seeded(seed))
    pooled = roi_align(features, rois, 3, SCALE, ratio, aligned)
    order = torch.randperm(8, generator=seeded(seed))
    support.assert_bitwise_equal(roi_align(features, rois[order], 3, SCALE, ratio, aligned), pooled[order])
    by_image = torch.sort(rois[:, 0], stable=True).indices
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(3)]
    for given_boxes in (boxes, tuple(boxes)):
        support.assert_bitwise_equal(roi_align(features, given_boxes, 3, SCALE, ratio, aligned), pooled[by_image])


# --- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize(
    ("size", "k"),
    [((2, 3, 5, 6), 0), ((2, 0, 5, 6), 4), ((2, 3, 0, 6), 4), ((2, 3, 5, 0), 4), ((0, 3, 5, 6), 0), ((0, 0, 0, 0), 0)],
)
def test_empty(device, dtype, layout, size, k):
    features = feature_map(size, seeded(0), dtype, layout).to(device).requires_grad_()
    pooled = roi_align(features, roi(0, 0, 9, 9).to(device).expand(k, 5), (2, 3), SCALE)
    assert pooled.shape == (k, size[1], 2, 3)
    assert pooled.dtype == dtype
    assert (pooled == 0).all()
    pooled.sum().backward()
    assert features.grad.shape == size
    assert (features.grad == 0).all()


def test_empty_lists():
    features = torch.randn(2, 3, 5, 6)
    assert roi_align(features, [], 2).shape == (0, 3, 2, 2)
    assert roi_align(features, [torch.empty(0, 4)] * 2, 2).shape == (0, 3, 2, 2)
    boxes = torch.tensor([[1.0, 1, 3, 3]])
    expected = roi_align(features, roi(1, 1, 3, 3, image=1), 2)
    support.assert_bitwise_equal(roi_align(features, (torch.empty(0, 4), boxes), 2), expected)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("column", [1, 2, 3, 4])
@pytest.mark.parametrize(("ratio", "aligned"), SETTINGS)
def test_rois_with_nan_or_inf_give_zeros(device, value, column, ratio, aligned):
    rois = roi(1, 1, 4, 4).repeat(2, 1).to(device)
    rois[0, column] = value
    features = torch.ones(1, 2, 6, 6, device=device, requires_grad=True)
    pooled = roi_align(features, rois, 2, 1.0, ratio, aligned)
    assert (pooled[0] == 0).all()
    support.assert_close(pooled[1].detach(), torch.ones_like(pooled[1]))
    pooled[0].sum().backward()
    assert (features.grad == 0).all()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("side", HUGE)
@pytest.mark.parametrize("ratio", [-1, 2, 2**31, 2**62, 2**63 - 1])
@pytest.mark.parametrize("aligned", [False, True])
def test_gigantic_rois_answer_at_once(device, dtype, side, ratio, aligned):
    """Visiting the samples would take (1e7)^2 steps and more. The map is a vanishing part of the bins that hold it."""
    corners = torch.tensor([[0, 0, side, side], [-side / 2, -side / 2, side / 2, side / 2], [-side, -1, side, 1]])
    rois = torch.cat([torch.zeros(3, 1), corners], dim=1).to(device)
    features = torch.ones(1, 3, 20, 30, dtype=dtype, device=device, requires_grad=True)
    pooled = roi_align(features, rois, 7, 1.0, ratio, aligned)
    assert (pooled >= 0).all()
    assert pooled.max() < 1e-3
    pooled.sum().backward()
    assert features.grad.isfinite().all()


def test_gigantic_roi_equals_reference(device):
    """In float64 positions are exact enough to compare the vanishing values themselves."""
    features = feature_map((1, 2, 20, 30), seeded(0), torch.float64).to(device)
    for side in (1e4, 1e7, 1e9):
        rois = roi(-side / 3, -side / 2, side, side / 1.9).double().to(device)
        found = roi_align(features, rois, 7, 1.0, -1, True)
        expected = reference(features, rois, 7, 1.0, -1, True)
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-30)


def test_a_sample_on_the_far_border_counts():
    """Positions from -1 to H are read (clamped), beyond are not."""
    features = torch.full((1, 1, 4, 4), 2.0)
    for at, value in ((-1.0, 2), (-1.000001, 0), (4.0, 2), (4.000001, 0)):
        rois = roi(1, at - 0.5, 2, at + 0.5).double()
        assert roi_align(features.double(), rois, 1, 1.0, 1).item() == value


def test_nan_and_inf_in_the_map_stay_where_they_are_read(device):
    """As in torchvision, a pixel read with weight 0 counts as read; others, also between samples of a bin, do not."""
    for value in (NAN, INF):
        features = torch.ones(1, 1, 9, 9, device=device)
        features[0, 0, 4, 4] = value
        one = roi_align(features, roi(0, 0, 9, 9).to(device), 9, sampling_ratio=1)  # samples at i + 0.5
        expected = torch.zeros(9, 9, dtype=torch.bool)
        expected[3:5, 3:5] = True
        assert torch.equal(~one[0, 0].isfinite().cpu(), expected)
        on_pixel = roi_align(features, roi(3.5, 3.5, 4.5, 4.5).to(device), 1, sampling_ratio=1)  # at (4, 4)
        assert not on_pixel.isfinite().item()
        beside = roi_align(features, roi(2.5, 2.5, 3.5, 3.5).to(device), 1, sampling_ratio=1)  # at (3, 3), weight 0
        assert not beside.isfinite().item()
        jumped = roi_align(features, roi(0, 0, 9, 9).to(device), 1, sampling_ratio=2)  # at 2.25 and 6.75
        assert jumped.item() == 1


@pytest.mark.parametrize("seed", range(10))
def test_hostile_rois_leave_the_others_alone(device, seed):
    size = (2, 5, 9, 11)
    features = feature_map(size, seeded(seed)).to(device).requires_grad_()
    good = ordinary(6, size, seeded(seed)).to(device)
    mixed = torch.cat([good, hostile(6, size, seeded(seed)).to(device)])
    pooled = roi_align(features, mixed, 3, SCALE, -1, True)
    support.assert_bitwise_equal(pooled[:6].detach(), roi_align(features, good, 3, SCALE, -1, True).detach())
    assert pooled.isfinite().all()


@pytest.mark.parametrize("fraction", [0.0, 0.9, -0.9, -0.0])
def test_batch_index_is_cut_to_a_whole_number(fraction):
    features = torch.randn(1, 2, 6, 6)
    found = roi_align(features, roi(1, 1, 4, 4, image=fraction), 2)
    support.assert_bitwise_equal(found, roi_align(features, roi(1, 1, 4, 4), 2))


def test_module():
    features, rois = torch.randn(1, 2, 6, 6), roi(1, 1, 4, 4)
    module = RoIAlign((2, 3), 0.5, 2, aligned=True)
    support.assert_bitwise_equal(module(features, rois), roi_align(features, rois, (2, 3), 0.5, 2, True))
    assert repr(module) == "RoIAlign(output_size=(2, 3), spatial_scale=0.5, sampling_ratio=2, aligned=True)"
    assert RoIAlign(7, 1.0, -1).aligned is False
