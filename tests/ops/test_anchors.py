"""cell_anchors and grid_anchors."""

from __future__ import annotations

import math

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from fasterrcnn_ops.anchors import cell_anchors, grid_anchors
from fasterrcnn_ops.reference import anchors as ref

CLASSIC_SIZES, CLASSIC_RATIOS = (128, 256, 512), (0.5, 1, 2)

# ---------------------------------------------------------------------------------------------------------------------
# Hand-computed


def test_centered_cells_by_hand():
    # ratio 1/4: w = 32 / 0.5 = 64, h = 32 * 0.5 = 16; sizes outer, ratios inner
    expected = [
        [-32, -8, 32, 8],
        [-16, -16, 16, 16],
        [-8, -32, 8, 32],
        [-64, -16, 64, 16],
        [-32, -32, 32, 32],
        [-16, -64, 16, 64],
    ]
    assert cell_anchors((32, 64), (0.25, 1, 4)).tolist() == expected


def test_torchvision_cells_by_hand():
    # size 128, ratio 0.5: half extents 90.51 and 45.25 round to 91 and 45; ratios outer
    expected = [[-91, -45, 91, 45], [-181, -91, 181, 91], [-45, -91, 45, 91], [-91, -181, 91, 181]]
    assert cell_anchors((128, 256), (0.5, 2), rule="torchvision").tolist() == expected


def test_stepwise_cells_by_hand():
    assert cell_anchors((32, 64), (0.25, 1), rule="stepwise").tolist() == [
        [-32, -8, 32, 8],
        [-64, -16, 64, 16],
        [-16, -16, 16, 16],
        [-32, -32, 32, 32],
    ]


def test_classic_cells_by_hand():
    """The family's transposed base: a ratio of 1/4 gives h = 16, w = 64, and h lands in the x columns."""
    assert cell_anchors((32, 64), (0.25, 1), rule="classic").tolist() == [
        [-8, -32, 8, 32],
        [-16, -64, 16, 64],
        [-16, -16, 16, 16],
        [-32, -32, 32, 32],
    ]


def test_rounded_cells_by_hand():
    """The nine windows published with py-faster-rcnn, in zero-based coordinates."""
    # √(256 / 0.5) = 22.6 → 23 wide, 11.5 → 12 high (half to even); ×8: 184 × 96 pixels around (7.5, 7.5)
    assert cell_anchors(CLASSIC_SIZES, CLASSIC_RATIOS, rule="rounded").tolist() == [
        [-84, -40, 99, 55],
        [-176, -88, 191, 103],
        [-360, -184, 375, 199],
        [-56, -56, 71, 71],
        [-120, -120, 135, 135],
        [-248, -248, 263, 263],
        [-36, -80, 51, 95],
        [-80, -168, 95, 183],
        [-168, -344, 183, 359],
    ]


def test_rounded_cells_follow_the_base_size():
    # base 4: window 4 × 4 around 1.5; ratio 0.5: √32 = 5.66 → 6 wide, 3 high; size 8 doubles: 12 × 6
    assert cell_anchors(8, 0.5, rule="rounded", base_size=4).tolist() == [[-4, -1, 7, 4]]


def test_grid_by_hand(device):
    """5 × 5 locations, two cells, stride 10, offset 5: every row by its formula, a few written out."""
    cells = torch.tensor([[-4.0, -2.0, 4.0, 2.0], [-1.0, -3.0, 1.0, 3.0]], device=device)
    anchors = grid_anchors(cells, (5, 5), 10, offset=5.0)
    assert anchors.shape == (50, 4)
    assert anchors[0].tolist() == [1, 3, 9, 7]
    assert anchors[1].tolist() == [4, 2, 6, 8]
    assert anchors[2].tolist() == [11, 3, 19, 7]  # x moves first
    assert anchors[10].tolist() == [1, 13, 9, 17]  # then y
    assert anchors[49].tolist() == [44, 42, 46, 48]
    for y in range(5):
        for x in range(5):
            for a, (x1, y1, x2, y2) in enumerate(cells.tolist()):
                expected = [x1 + 10 * x + 5, y1 + 10 * y + 5, x2 + 10 * x + 5, y2 + 10 * y + 5]
                assert anchors[(y * 5 + x) * 2 + a].tolist() == expected


@pytest.mark.parametrize(
    ("scales", "feature_size", "count"),
    [((8, 16, 32), (38, 38), 12_996), ((8, 16, 32), (38, 50), 17_100), ((2, 4, 8, 16, 32), (38, 50), 28_500)],
)
def test_counts_of_the_published_systems(scales, feature_size, count):
    cells = cell_anchors([16 * scale for scale in scales], CLASSIC_RATIOS, rule="classic")
    assert grid_anchors(cells, feature_size, 16).shape == (count, 4)


def test_stepwise_system_has_8940_anchors_inside():
    cells = cell_anchors(CLASSIC_SIZES, CLASSIC_RATIOS, rule="stepwise")
    anchors = grid_anchors(cells, (50, 50), 16, offset=8)
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] <= 800).all(1)
    assert len(anchors) == 22_500
    assert int(inside.sum()) == 8_940


# ---------------------------------------------------------------------------------------------------------------------
# Against the reference


@pytest.mark.parametrize("layout", support.LAYOUTS)
@pytest.mark.parametrize("dtype", support.FLOAT_DTYPES, ids=support.dtype_id)
@pytest.mark.parametrize("feature_size", [(1, 1), (7, 5), (1, 40), (33, 1), (50, 68)])
def test_grid_equals_reference(device, dtype, layout, feature_size):
    cells = support.LAYOUTS[layout](support.random_boxes(9, image=64, dtype=dtype, device=device) - 100)
    for stride, offset in ((16, 0.0), ((8.0, 4.0), 3.5), (12.3, -0.7)):
        actual = grid_anchors(cells, feature_size, stride, offset=offset)
        expected = ref.grid_anchors(cells, feature_size, stride, offset=offset)
        support.assert_close(actual, expected, rtol=0, atol=0)
        assert actual.is_contiguous()


def test_grid_converts_to_the_wanted_dtype_and_device(device):
    cells = cell_anchors(32, CLASSIC_RATIOS, dtype=torch.float64)
    anchors = grid_anchors(cells, (3, 4), 16, dtype=torch.float32, device=device)
    assert anchors.dtype == torch.float32
    assert anchors.device.type == device.type
    support.assert_close(anchors, ref.grid_anchors(cells, (3, 4), 16, dtype=torch.float32, device=device))


# ---------------------------------------------------------------------------------------------------------------------
# Invariants

positive = st.floats(1.0, 1000.0)
a_few = st.lists(positive, min_size=1, max_size=4)
a_few_ratios = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=4)


@given(sizes=a_few, ratios=a_few_ratios)
def test_area_and_ratio_are_those_asked_for(sizes, ratios):
    def sides(rule):
        boxes = cell_anchors(sizes, ratios, rule=rule, dtype=torch.float64)
        assert boxes.shape == (len(sizes) * len(ratios), 4)
        support.assert_close(boxes[:, :2], -boxes[:, 2:])
        return (boxes[:, 2:] - boxes[:, :2]).unbind(1)

    ratio_major = torch.tensor([(r, s) for r in ratios for s in sizes], dtype=torch.float64)
    size_major = torch.tensor([(r, s) for s in sizes for r in ratios], dtype=torch.float64)
    for rule, wanted, transposed in (
        ("centered", size_major, False),
        ("stepwise", ratio_major, False),
        ("classic", ratio_major, True),
    ):
        width, height = reversed(sides(rule)) if transposed else sides(rule)
        torch.testing.assert_close(height / width, wanted[:, 0])
        torch.testing.assert_close((height * width).sqrt(), wanted[:, 1])
    width, height = sides("torchvision")
    assert ((width / 2) % 1 == 0).all()
    assert ((height / 2) % 1 == 0).all()
    assert ((width - wanted[:, 1] / wanted[:, 0].sqrt()).abs() <= 1 + 1e-9).all()  # half a pixel at either end


@given(sizes=a_few, ratios=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=3), base=st.integers(4, 64))
def test_rounded_windows_are_whole_multiples_of_whole_windows(sizes, ratios, base):
    boxes = cell_anchors(sizes, ratios, rule="rounded", base_size=base, dtype=torch.float64)
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    scale = torch.tensor([size / base for _ in ratios for size in sizes], dtype=torch.float64)
    window = sides / scale[:, None]
    torch.testing.assert_close(window, window.round(), rtol=0, atol=1e-6)
    torch.testing.assert_close((boxes[:, :2] + boxes[:, 2:]) / 2, torch.full_like(boxes[:, :2], (base - 1) / 2))


@settings(deadline=None)
@given(
    feature_size=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    stride=st.tuples(st.floats(0.5, 64), st.floats(0.5, 64)),
    offset=st.floats(-32, 32),
    count=st.integers(0, 4),
    seed=st.integers(0, 2**31),
)
def test_grid_equals_reference_everywhere(feature_size, stride, offset, count, seed):
    cells = support.random_boxes(count, generator=torch.Generator().manual_seed(seed))
    actual = grid_anchors(cells, feature_size, stride, offset=offset)
    support.assert_close(actual, ref.grid_anchors(cells, feature_size, stride, offset=offset), rtol=0, atol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Edges


@pytest.mark.parametrize("feature_size", [(0, 5), (5, 0), (0, 0)])
def test_empty_feature_map(device, feature_size):
    cells = cell_anchors(32, CLASSIC_RATIOS, device=device)
    anchors = grid_anchors(cells, feature_size, 16)
    assert anchors.shape == (0, 4)
    assert anchors.dtype == torch.float32


def test_no_cells(device):
    assert grid_anchors(torch.zeros(0, 4, device=device), (3, 3), 16).shape == (0, 4)


def test_nan_inf_and_inverted_cells_pass_through(device):
    cells = torch.tensor([[math.nan, 0, math.inf, 1], [5, 5, -5, -5]], device=device)
    anchors = grid_anchors(cells, (1, 2), 10)
    support.assert_close(anchors, ref.grid_anchors(cells, (1, 2), 10))
    assert anchors[:, 0].isnan().tolist() == [True, False, True, False]


def test_coordinates_beyond_half_precision_integers_are_rounded_once(device):
    """Column 131 of stride 16 lies at 2096, which float16 cannot count up to in steps: it has spacing 2 there."""
    cells = torch.tensor([[-1.0, -1.0, 1.0, 1.0]], dtype=torch.float16, device=device)
    last = grid_anchors(cells, (1, 132), 16)[-1].tolist()
    assert last == [torch.tensor(v).half().item() for v in (2095.0, -1.0, 2097.0, 1.0)]


def test_more_anchors_than_can_be_addressed_raise():
    with pytest.raises(RuntimeError, match="more than can be addressed"):
        grid_anchors(torch.zeros(9, 4), (2**31, 2**31), 16)


@pytest.mark.xdist_group("memory")
@pytest.mark.slow
def test_more_elements_than_32_bits_count():
    support.require_memory(10)
    cells = cell_anchors(32, CLASSIC_RATIOS)
    height, width = 13_380, 13_380  # times 3 anchors times 4 coordinates: just above 2³¹
    anchors = grid_anchors(cells, (height, width), 2).view(height, width, 3, 4)
    assert anchors.numel() > 2**31
    for y, x in ((0, 0), (6_690, 5), (height - 1, width - 1)):
        support.assert_close(anchors[y, x], cells + torch.tensor([2.0 * x, 2.0 * y, 2.0 * x, 2.0 * y]))


# ---------------------------------------------------------------------------------------------------------------------
# Gradient, operator contract, determinism


def test_anchors_are_constants(device):
    cells = torch.ones(2, 4, device=device, requires_grad=True)
    assert not grid_anchors(cells, (2, 2), 16).requires_grad


@pytest.mark.parametrize("dtype", support.FLOAT_DTYPES, ids=support.dtype_id)
def test_opcheck(device, dtype):
    cells = torch.rand(3, 4, device=device).to(dtype)
    opcheck(torch.ops.fasterrcnn_ops.grid_anchors.default, (cells, 4, 5, 16.0, 8.0, 0.5))


def test_same_bits_for_any_number_of_threads():
    cells = cell_anchors(CLASSIC_SIZES, CLASSIC_RATIOS, rule="rounded")
    one, two = support.at_thread_counts(lambda: grid_anchors(cells, (100, 101), 12.3, offset=0.1))
    support.assert_bitwise_equal(one, two)


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(sizes=[], ratios=[1]), "sizes must hold at least one"),
        (dict(sizes=[32], ratios=()), "ratios must hold at least one"),
        (dict(sizes=[32, -1], ratios=[1]), "sizes must be finite and positive; got -1"),
        (dict(sizes=[32], ratios=[0.0]), "ratios must be finite and positive; got 0"),
        (dict(sizes=[32], ratios=[math.nan]), "ratios must be finite and positive; got nan"),
        (dict(sizes=math.inf, ratios=[1]), "sizes must be finite and positive; got inf"),
        (dict(sizes=32, ratios=1, base_size=0, rule="rounded"), "base_size must be finite and positive; got 0"),
        (dict(sizes=32, ratios=1, rule="square"), "rule must be one of 'centered'.*got 'square'"),
    ],
)
def test_bad_cells_raise_value_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        cell_anchors(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(sizes="32", ratios=[1]), "sizes must be a number or a sequence of numbers; got '32'"),
        (dict(sizes=[32], ratios=None), "ratios must be a number or a sequence of numbers; got None"),
        (dict(sizes=[[32]], ratios=[1]), "sizes must be a number or a sequence of numbers"),
        (dict(sizes=32, ratios=1, dtype=torch.int64), "dtype must be a floating-point dtype; got torch.int64"),
    ],
)
def test_bad_cells_raise_type_error(arguments, message):
    with pytest.raises(TypeError, match=message):
        cell_anchors(**arguments)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (torch.zeros(3, 5), r"cell_anchors: expected shape \[N, 4\], got \[3, 5\]"),
        (torch.zeros(4), r"cell_anchors: expected shape \[N, 4\], got \[4\]"),
        (torch.zeros(3, 4, dtype=torch.int64), "cell_anchors: expected dtype float16.*got Long"),
    ],
)
def test_bad_cell_tensors_raise(device, cells, message):
    with pytest.raises(RuntimeError, match=message):
        grid_anchors(cells.to(device), (2, 2), 16)


def test_bad_grids_raise():
    cells = torch.zeros(1, 4)
    with pytest.raises(RuntimeError, match=r"feature_size: expected height and width >= 0, got \(-1, 2\)"):
        grid_anchors(cells, (-1, 2), 16)
    with pytest.raises(ValueError, match="feature_size: expected a pair"):
        grid_anchors(cells, 3, 16)
    with pytest.raises(ValueError, match="stride: expected a pair"):
        grid_anchors(cells, (2, 2), (16, 16, 16))
