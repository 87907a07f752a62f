"""The translations to standard ONNX operators, each against its operator: ONNX Runtime on the CPU, sizes left free."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from head_outputs import SIZES as HEAD_SIZES
from head_outputs import head_outputs
from rpn_maps import ONE_LEVEL, PYRAMID, PYRAMID_STRIDES, SIZES, SYSTEMS, cells_of, maps_of

import fasterrcnn_ops
from fasterrcnn_ops.detections import select_detections_with_proposal

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package}, of the extra 'onnx', is not installed")
from onnx_session import exported  # noqa: E402

AUTO = torch.export.Dim.AUTO
ROWS = {0: AUTO}
MAPS = {0: AUTO, 2: AUTO, 3: AUTO}


def check(session, function, *arguments, tolerance=1e-3):
    """The session gives what the function gives: dtypes, shapes, and numbers within the tolerance."""
    expected = function(*arguments)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for actual, wanted in zip(session(*arguments), expected, strict=True):
        assert actual.dtype == wanted.numpy().dtype
        np.testing.assert_allclose(actual, wanted.numpy(), rtol=0, atol=tolerance)


# --- NMS -------------------------------------------------------------------------------------------------------------


def crowd(count, seed=0):
    """Boxes, scores and ids with all that ONNX's operator leaves open: ties, NaN, inverted and infinite boxes."""
    generator = torch.Generator().manual_seed(seed)
    corner = 50 * torch.rand(count, 2, generator=generator)
    boxes = torch.cat([corner, corner + 50 * torch.rand(count, 2, generator=generator)], dim=1)
    scores = torch.rand(count, generator=generator)
    scores[::7] = 0.5
    scores[3::31] = torch.nan
    boxes[4::29] = boxes[4::29][:, [2, 3, 0, 1]]
    boxes[5::29, 0] = torch.inf
    boxes[6::29, 3] = torch.nan
    boxes[7::29, 2] = boxes[7::29, 0]
    return boxes, scores, torch.randint(-2, 3, (count,), generator=generator)


# As doubles, on either side of float32 IoUs: 1/3 and 0.7 rounded to float32 lie above and below them.
THRESHOLDS = (1 / 3, float(np.float32(1 / 3)), 0.7, float(np.float32(0.7)), 0.0, 1.0)


def test_nms():
    def function(boxes, scores, idxs):
        return (
            fasterrcnn_ops.nms(boxes, scores, 0.7),
            fasterrcnn_ops.batched_nms(boxes, scores, idxs, 0.3),
            *fasterrcnn_ops.nms_padded(boxes, scores, idxs, iou_threshold=0.3, max_output=40),
            *(fasterrcnn_ops.nms_padded(boxes, scores, iou_threshold=t, max_output=40)[0] for t in THRESHOLDS),
        )

    session = exported(function, crowd(60), (ROWS,) * 3)
    for count in (200, 30, 1, 0):
        check(session, function, *crowd(count, seed=count), tolerance=0)
    boxes = torch.tensor([[0.0, 0, 2, 1], [1.0, 0, 3, 1], [0.0, 10, 10, 11], [0.0, 10, 7, 11]])  # IoU 1/3 and 0.7
    check(session, function, boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4, dtype=torch.int64), tolerance=0)


def test_nms_at_a_negative_threshold_is_refused():
    from fasterrcnn_ops.onnx.nms import kept_of_sorted

    with pytest.raises(ValueError, match="NonMaxSuppression takes IoU thresholds from 0 to 1, got -1"):
        kept_of_sorted(None, None, -1.0, None)


# --- RoI operators ---------------------------------------------------------------------------------------------------


def rois(count, seed=0):
    """Of two images of 320 × 240 pixels: inside, across the border, outside, without area, inverted, NaN, infinite."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([360.0, 280.0]) - 20
    half = 100 * torch.rand(count, 2, generator=generator)
    index = torch.randint(0, 2, (count, 1), generator=generator)
    table = torch.cat([index, centre - half, centre + half], dim=1)
    nan, inf = torch.nan, torch.inf
    odd = [
        [0, 0, 0, 0, 0],
        [1, 500, 500, 600, 600],
        [0, -300, -300, -100, -100],
        [1, 50, 60, 20, 80],
        [0, 50, 60, 20, 30],
        [1, -500, -500, 900, 900],
        [0, 8, 8, 24, 40],  # halves, where RoIPool rounds
        [1, -8, -24, -8, 40],
        [0, nan, 0, 50, 50],
        [1, 0, 0, inf, 50],
    ]
    return torch.cat([torch.tensor(odd, dtype=torch.float32), table])


def feature_map(height=15, width=20):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_roi_operators():
    def function(features, table, pyramid):
        scales = [1 / 4, 1 / 8, 1 / 16]
        aligned = [(0, False), (0, True), (2, False), (2, True)]
        return (
            *(fasterrcnn_ops.roi_align(features, table, 7, 1 / 16, *settings) for settings in aligned),
            fasterrcnn_ops.roi_align(features.double(), table, (7, 3), 1 / 16),
            fasterrcnn_ops.roi_align(features.half(), table, (3, 7), 1 / 16).float(),
            fasterrcnn_ops.multi_scale_roi_align(pyramid, table, 7, scales, 2, canonical_scale=64),
            fasterrcnn_ops.roi_pool(features, table, (7, 5), 1 / 16),
        )

    def arguments(table, height=15, width=20):
        features = feature_map(height, width)
        return features, table, [feature_map(4 * height // 2**level, 4 * width // 2**level) for level in range(3)]

    session = exported(function, arguments(rois(5)), (MAPS, ROWS, [MAPS] * 3))
    for table in (rois(100), rois(0), rois(0)[:1], rois(0)[:0]):  # also levels without RoIs, and none at all
        check(session, function, *arguments(table), tolerance=2e-3)  # half an ulp of float16
    check(session, function, *arguments(rois(20), 9, 33), tolerance=2e-3)
    features, table, pyramid = arguments(rois(100))
    features[0, 0, 3:6, 4:8], features[1, 1, 3:6, 4:8] = torch.nan, -torch.inf
    np.testing.assert_array_equal(session(features, table, pyramid)[-1], function(features, table, pyramid)[-1].numpy())


# --- Boxes -----------------------------------------------------------------------------------------------------------


def test_boxes():
    options = {"image_size": (90, 110), "inclusive": True, "weights": (10, 10, 5, 5)}

    def function(cells, features, deltas, anchors):
        return (
            fasterrcnn_ops.grid_anchors(cells, tuple(features.shape[2:]), (16, 8), offset=3.5),
            fasterrcnn_ops.decode_boxes(deltas, anchors),
            fasterrcnn_ops.decode_boxes(deltas, anchors.double(), **options),
            fasterrcnn_ops.box_iou(anchors, anchors[:3]),
        )

    cells = fasterrcnn_ops.cell_anchors([32, 64], [0.5, 1, 2])
    generator = torch.Generator().manual_seed(0)
    deltas, anchors = torch.randn(30, 12, generator=generator), crowd(30)[0]
    deltas[3, 2], deltas[4, 3], deltas[5, 6] = torch.nan, torch.inf, -torch.inf
    session = exported(function, (cells, feature_map(), deltas, anchors), (None, MAPS, ROWS, ROWS))
    check(session, function, cells, feature_map(7, 9), deltas[:20], anchors[:20])


# --- The first and the last stage ------------------------------------------------------------------------------------

SLOW = pytest.mark.slow
STAGES = [
    pytest.param("classic", ONE_LEVEL, (16,), id="classic", marks=SLOW),
    pytest.param("fpn", PYRAMID, PYRAMID_STRIDES, id="fpn"),
    pytest.param("c4", ONE_LEVEL, (16,), id="c4", marks=SLOW),
    pytest.param("stepwise", ONE_LEVEL, (16,), id="stepwise", marks=SLOW),
]


@pytest.mark.parametrize(("system", "levels", "strides"), STAGES)
def test_generate_proposals(system, levels, strides):
    options = dict(SYSTEMS[system])
    min_size = options.pop("min_size", 1e-3)
    per_image = isinstance(min_size, torch.Tensor)
    cells = cells_of(levels)

    def function(objectness, deltas, sizes, *least):
        return fasterrcnn_ops.generate_proposals(
            objectness, deltas, cells, strides, sizes, min_size=least[0] if least else min_size, **options
        )

    def arguments(levels, batch, values, seed=0):
        objectness, deltas, _ = maps_of(levels, batch, values=values, seed=seed)
        image = torch.arange(batch) % 2
        return objectness, deltas, SIZES[image], *([min_size[image]] if per_image else [])

    dynamic = ([MAPS] * len(levels), [MAPS] * len(levels), ROWS, *([ROWS] if per_image else []))
    session = exported(function, arguments(levels, 2, "ordinary"), dynamic)
    for values in ("ordinary", "ties", "hostile"):
        for batch in (1, 3):
            larger = tuple((anchors, height + batch, width + 2) for anchors, height, width in levels)
            check(session, function, *arguments(larger, batch, values, seed=batch))
    nothing = arguments(levels, 2, "ordinary")
    for maps in nothing[0]:
        maps.fill_(torch.nan)
    check(session, function, *nothing)
    assert session(*nothing)[2].tolist() == [0, 0]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"score_threshold": 0.05, "nms_threshold": 0.3, "max_detections": 30}, id="classic"),
        pytest.param(
            {
                "score_threshold": 0.01,
                "nms_threshold": 0.5,
                "max_detections": 300,  # more than candidates
                "inclusive": True,
                "candidates_per_class": 7,
            },
            id="candidates",
            marks=SLOW,
        ),
    ],
)
@pytest.mark.parametrize(
    "background_boxes", [True, pytest.param(False, marks=SLOW)], ids=["background_boxes", "class_boxes"]
)
def test_select_detections(options, background_boxes):
    def function(*arguments):
        return select_detections_with_proposal(*arguments, **options)

    def arguments(batch, slots, values):
        outputs = head_outputs(batch, slots, background_boxes=background_boxes, values=values, seed=slots)
        return *outputs, HEAD_SIZES[torch.arange(batch) % 2]

    slots = {0: AUTO, 1: AUTO}
    session = exported(function, arguments(2, 40, "ordinary"), (slots, slots, slots, ROWS, ROWS))
    for batch, count in ((1, 7), (3, 100)):
        for values in ("ordinary", "hostile"):
            check(session, function, *arguments(batch, count, values))
    # Ties between rows of different logits are settled by the last bit of a softmax; these are settled by order.
    logits, *rest = arguments(2, 40, "ordinary")
    logits = logits[:, :1].expand_as(logits)
    check(session, function, logits, *rest)
    unlikely = torch.full_like(logits, torch.nan)
    check(session, function, unlikely, *rest)
    assert session(unlikely, *rest)[3].tolist() == [0, 0]
