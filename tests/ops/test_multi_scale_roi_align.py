"""multi_scale_roi_align and MultiScaleRoIAlign: RoIAlign over a pyramid, the level picked inside."""

from __future__ import annotations

import functools

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyramid_scenes import CANONICAL_LEVEL, CANONICAL_SCALE, HEIGHT, SCALES, WIDTH, pyramid, rois_of_all_sizes
from roi_scenes import INF, MEMORY_FORMATS, NAN, format_of, seeded
from support import FLOAT_DTYPES, dtype_id

from fasterrcnn_ops._rois import level_of_rois
from fasterrcnn_ops.multi_scale_roi_align import MultiScaleRoIAlign, multi_scale_roi_align
from fasterrcnn_ops.reference.multi_scale_roi_align import multi_scale_roi_align as reference
from fasterrcnn_ops.roi_align import roi_align

CANONICAL = {"canonical_scale": CANONICAL_SCALE, "canonical_level": CANONICAL_LEVEL}
pool = functools.partial(multi_scale_roi_align, **CANONICAL)
pool_slowly = functools.partial(reference, **CANONICAL)
FORWARD = torch.ops.fasterrcnn_ops.multi_scale_roi_align_forward
BACKWARD = torch.ops.fasterrcnn_ops.multi_scale_roi_align_backward


def levels_of(sides: list[float], scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32)) -> list[int]:
    rois = torch.tensor([[0, 10, 10, 10 + side, 10 + side] for side in sides], dtype=torch.float32)
    return level_of_rois(rois, scales, 224, 4).tolist()


# --- hand-computed ---------------------------------------------------------------------------------------------------


def test_golden_levels():
    """Side 224 belongs to level 4 (1/16), half of it to level 3; beyond its ends the ends. Just below counts as on."""
    assert levels_of([1, 111.9, 112, 223.9, 224, 447.9, 448, 1e4]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert levels_of([112 * (1 - 2e-7)]) == [1]
    assert levels_of([NAN, -5.0, 0.0, INF]) == [0, 0, 0, 3]  # inverted along both axes there is an area


def test_golden_pooling():
    """Constant maps: every RoI carries the constant of its level."""
    maps = [torch.full_like(map_, 10.0 * (level + 1)) for level, map_ in enumerate(pyramid(1, 2))]
    rois = torch.tensor([[0, 40, 40, 40 + side, 40 + side] for side in (5.0, 20, 39, 40, 50.0)])
    found = pool(maps, rois, 2, SCALES, 2)
    assert (found == found[:, :1, :1, :1]).all()
    assert found[:, 0, 0, 0].tolist() == [10, 10, 10, 20, 20]


# --- against the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
def test_equals_reference(dtype, layout):
    for channels in (3, 37):
        maps, rois = pyramid(2, channels, dtype, layout), rois_of_all_sizes(30)
        for ratio, aligned in ((2, False), (-1, True), (3, True)):
            found = pool(maps, rois, (3, 4), SCALES, ratio, aligned)
            support.assert_close(found, pool_slowly(maps, rois, (3, 4), SCALES, ratio, aligned))
            assert found.is_contiguous(memory_format=format_of(maps[0]))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
def test_gradients_equal_the_reference(dtype, layout):
    """Of every level, zeros where a level has no RoI; in the memory format of the maps."""
    wide = torch.promote_types(dtype, torch.float32)
    for k in (30, 1, 0):
        ours = [map_.requires_grad_() for map_ in pyramid(2, 5, dtype, layout)]
        theirs = [map_.detach().to(wide, copy=True).requires_grad_() for map_ in ours]
        rois = rois_of_all_sizes(k)
        found = pool(ours, rois, (3, 4), SCALES, 2)
        grad = torch.randn(found.shape, generator=seeded(k), dtype=torch.float64).to(dtype)
        found.backward(grad)
        pool_slowly(theirs, rois, (3, 4), SCALES, 2).backward(grad.to(wide))
        for mine, right in zip(ours, theirs, strict=True):
            support.assert_close(mine.grad, (torch.zeros_like(right) if right.grad is None else right.grad).to(dtype))
            assert mine.grad.is_contiguous(memory_format=format_of(mine))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
def test_has_the_bits_of_roi_align_on_each_level(dtype, layout):
    """Forward, and the gradient of every level: the same kernels, told the level of every RoI."""
    maps, rois = [map_.requires_grad_() for map_ in pyramid(2, 20, dtype, layout)], rois_of_all_sizes(40)
    found = pool(maps, rois, 7, SCALES, 2)
    grad = torch.randn(found.shape, generator=seeded(1), dtype=torch.float64).to(dtype)
    grads = torch.autograd.grad(found, maps, grad)
    level_of = level_of_rois(rois.double() if dtype == torch.float64 else rois, SCALES, **CANONICAL)
    assert level_of.unique().tolist() == [0, 1, 2]
    for level, map_ in enumerate(maps):
        chosen = level_of == level
        expected = roi_align(map_, rois[chosen], 7, SCALES[level], 2)
        support.assert_bitwise_equal(found[chosen], expected)
        support.assert_bitwise_equal(grads[level], torch.autograd.grad(expected, map_, grad[chosen])[0])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(0, 12), ratio=st.integers(-1, 3), aligned=st.booleans())
def test_rois_are_independent(seed, k, ratio, aligned):
    """Permuting RoIs permutes the results; a list of the images' boxes is the same as the table."""
    maps, rois = pyramid(2, 2, seed=seed % 97), rois_of_all_sizes(k, seed=seed)
    pooled = pool(maps, rois, 3, SCALES, ratio, aligned)
    order = torch.randperm(k, generator=seeded(seed))
    support.assert_bitwise_equal(pool(maps, rois[order], 3, SCALES, ratio, aligned), pooled[order])
    by_image = torch.sort(rois[:, 0], stable=True).indices
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(2)]
    support.assert_bitwise_equal(pool(maps, boxes, 3, SCALES, ratio, aligned), pooled[by_image])


# --- edges -----------------------------------------------------------------------------------------------------------


def test_one_level_is_roi_align():
    maps, rois = pyramid()[1:2], rois_of_all_sizes(20)
    support.assert_bitwise_equal(pool(maps, rois, 3, SCALES[1:2], 2), roi_align(maps[0], rois, 3, SCALES[1], 2))


def test_a_level_without_pixels_gives_zeros():
    maps, rois = pyramid(1), rois_of_all_sizes(20, 1)
    maps[2] = maps[2][:, :, :0].requires_grad_()
    pooled = pool(maps, rois, 2, SCALES, 2)
    assert (pooled[level_of_rois(rois, SCALES, **CANONICAL) == 2] == 0).all()
    pooled.sum().backward()
    assert maps[2].grad.shape == maps[2].shape


@pytest.mark.parametrize("k", [0, 40])
def test_sizes_of_nothing(k):
    assert pool(pyramid(), torch.zeros(0, 5), (2, 3), SCALES).shape == (0, 3, 2, 3)
    assert pool(pyramid(2, 0), rois_of_all_sizes(k), (2, 3), SCALES).shape == (k, 0, 2, 3)


def test_levels_may_have_mixed_layouts():
    maps, rois = pyramid(), rois_of_all_sizes(20)
    mixed = [maps[0], maps[1].to(memory_format=torch.channels_last), support.strided_copy(maps[2])]
    support.assert_bitwise_equal(pool(mixed, rois, 3, SCALES, 2), pool(maps, rois, 3, SCALES, 2))


# --- inside torch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
def test_gradcheck(layout):
    maps = [map_[:, :, :5, :6].contiguous() for map_ in pyramid(1, 1, torch.float64)]
    maps = [map_.to(memory_format=MEMORY_FORMATS[layout]).requires_grad_() for map_ in maps]
    rois = torch.tensor([[0, 1, 1, 15, 18.0], [0, 0, 0, 45, 45], [0, 3, 3, 100, 90]], dtype=torch.float64)
    call = lambda *features: pool(list(features), rois, (2, 3), SCALES, -1, True)  # noqa: E731
    assert torch.autograd.gradcheck(call, maps, fast_mode=False)
    assert torch.autograd.gradgradcheck(call, maps, fast_mode=False)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("k", [0, 5])
def test_opcheck(dtype, layout, k):
    maps, rois = pyramid(2, 3, dtype, layout), rois_of_all_sizes(k)
    heights, widths = [map_.shape[2] for map_ in maps], [map_.shape[3] for map_ in maps]
    grad = torch.rand(k, 3, 2, 3).to(dtype)
    last = layout == "channels_last"
    for requires_grad in (False, True):
        maps, grad = [m.detach().requires_grad_(requires_grad) for m in maps], grad.detach()
        grad.requires_grad_(requires_grad)
        torch.library.opcheck(FORWARD.default, (maps, rois, SCALES, 2, 3, -1, True, 40, 3))
        arguments = (grad, rois, SCALES, 2, 3, heights, widths, 2, 3, 2, False, 40, 3, last)
        torch.library.opcheck(BACKWARD.default, arguments)


def test_compiles_in_one_piece():
    maps, rois = pyramid(), rois_of_all_sizes(9)
    doubled = lambda *features: pool(list(features), rois, 3, SCALES, 2) * 2  # noqa: E731
    compiled = torch.compile(doubled, fullgraph=True, backend="eager")
    support.assert_bitwise_equal(compiled(*maps), doubled(*maps))


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
def test_same_bits_for_any_number_of_threads(layout):
    maps, rois = [map_.requires_grad_() for map_ in pyramid(2, 50, layout=layout)], rois_of_all_sizes(60)

    def run():
        pooled = pool(maps, rois, 7, SCALES, 2)
        return pooled, *torch.autograd.grad(pooled, maps, pooled.detach() + 1)

    for one, two in zip(*support.at_thread_counts(run), strict=True):
        support.assert_bitwise_equal(one, two)


# --- the module ------------------------------------------------------------------------------------------------------


def test_module_infers_scales_and_ignores_other_maps():
    maps = pyramid()
    x = {"0": maps[0], "1": maps[1], "2": maps[2], "pool": torch.zeros(2, 3, 1, 1)}
    rois = rois_of_all_sizes(20)
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(2)]
    module = MultiScaleRoIAlign(["0", "1", "2"], 3, 2, **CANONICAL)
    found = module(x, boxes, [(HEIGHT, WIDTH - 9), (HEIGHT - 11, WIDTH)])
    support.assert_bitwise_equal(found, pool(maps, boxes, 3, SCALES, 2))
    assert repr(module) == "MultiScaleRoIAlign(featmap_names=['0', '1', '2'], output_size=(3, 3), sampling_ratio=2)"
    assert module.canonical_scale == CANONICAL_SCALE


def test_module_errors():
    module = MultiScaleRoIAlign(["0"], 3, 2)
    with pytest.raises(ValueError, match=r"x: expected one of the maps \['0'\], got \['1'\]"):
        module({"1": torch.zeros(1, 1, 4, 4)}, [torch.zeros(0, 4)], [(16, 16)])
    with pytest.raises(ValueError, match="image_shapes: expected one"):
        module({"0": torch.zeros(1, 1, 4, 4)}, [torch.zeros(0, 4)], [])


# --- error messages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": []}, "scales: expected one for each of the features, got 3 for 0"),
        ({"scales": (0.25, 0.125)}, "scales: expected one for each of the features, got 2 for 3"),
        ({"scales": (0.25, 0.25, 0.125)}, "scales: expected each half of the one before, got 0.25 at number 1"),
        ({"scales": (-1.0, 0.25, 0.125)}, "scales: expected numbers > 0, got -1"),
        ({"canonical_scale": 0}, "canonical_scale: expected a side in pixels >= 1, got 0"),
        ({"output_size": 0}, "output_size: expected height and width >= 1"),
        ({"boxes": torch.tensor([[2.0, 0, 0, 9, 9]])}, "rois: row 0 has batch index 2"),
    ],
)
def test_error_messages(change, message):
    arguments = {"features": pyramid(), "boxes": rois_of_all_sizes(3), "output_size": 2, "scales": SCALES, **change}
    with pytest.raises(RuntimeError, match=message):
        multi_scale_roi_align(**arguments)


def test_features_must_fit_each_other():
    maps = pyramid()
    for wrong, message in (
        (maps[1].double(), r"features\[1\]: expected the dtype of features\[0\] \(float32\), got float64"),
        (maps[1][:1], r"features\[1\]: expected batch and channels of features\[0\]"),
        (maps[1][0], r"features\[1\]: expected shape \[N, C, H, W\]"),
    ):
        with pytest.raises(RuntimeError, match=message):
            pool([maps[0], wrong, maps[2]], rois_of_all_sizes(3), 2, SCALES)
