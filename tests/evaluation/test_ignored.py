"""Difficult objects and crowds count neither as missed nor, where something is detected on them, as false alarms."""

from __future__ import annotations

import math

import pytest
import torch

from fasterrcnn.evaluation import coco_average_precision, mean_average_precision
from fasterrcnn.evaluation.coco import BACKENDS
from fasterrcnn.types import Detections


@pytest.fixture(params=BACKENDS)
def backend(request):
    pytest.importorskip(request.param.replace("-", "_"), reason=f"{request.param} is not installed")
    return request.param


BOXES = torch.tensor([[0.0, 0, 20, 20], [100, 100, 200, 200]])


def truth(key=None):
    target = {"boxes": BOXES, "labels": torch.ones(2, dtype=torch.int64)}
    return {**target, key: torch.tensor([False, True])} if key else target


def found(*boxes):
    scores = torch.linspace(0.9, 0.5, len(boxes))
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.ones(len(boxes), dtype=torch.int64), scores)


SMALL, LARGE, INSIDE, AWAY = ([0.0, 0, 20, 20], [100.0, 100, 200, 200], [110.0, 110, 150, 150], [300.0, 300, 340, 340])


@pytest.mark.parametrize("key", ["difficult", "crowd"])
def test_voc(key):
    def value(*boxes):
        return mean_average_precision([found(*boxes)], [truth(key)], 1)

    assert value(SMALL).mean == 1
    assert value(LARGE, LARGE, SMALL).mean == 1
    assert value(AWAY, SMALL).mean == pytest.approx(0.5)
    assert value(LARGE).mean == 0
    assert value(SMALL).objects == (1,)
    assert mean_average_precision([found(SMALL)], [truth()], 1).mean == pytest.approx(0.5)


@pytest.mark.parametrize("key", ["difficult", "crowd"])
def test_coco(backend, key):
    """In a crowd any number of detections, of any part of it, is left out of the count."""

    def value(*boxes):
        return coco_average_precision([found(*boxes)], [truth(key)], 1, backend=backend)

    assert value(SMALL).mean == pytest.approx(1)
    assert value(LARGE, INSIDE, INSIDE, SMALL).mean == pytest.approx(1)
    assert value(AWAY, SMALL).mean == pytest.approx(0.5)
    assert value(SMALL).recall == pytest.approx(1)
    assert math.isnan(value(SMALL).large)
    unmarked = coco_average_precision([found(LARGE, INSIDE, SMALL)], [truth()], 1, backend=backend)
    assert unmarked.mean < 0.9


@pytest.mark.parametrize("key", ["difficult", "crowd"])
def test_only_ignored_objects_are_nothing_to_find(backend, key):
    target = {**truth(), key: torch.tensor([True, True])}
    for detections in ([found()], [found(SMALL, LARGE)]):
        assert math.isnan(coco_average_precision(detections, [target], 1, backend=backend).mean)
        assert math.isnan(mean_average_precision(detections, [target], 1).mean)


def test_the_area_of_the_outline_decides_about_sizes(backend):
    target = {**truth(), "area": torch.tensor([400.0, 900.0])}
    result = coco_average_precision([found(SMALL, LARGE)], [target], 1, backend=backend)
    assert (result.small, math.isnan(result.large)) == (pytest.approx(1), True)
    nothing = coco_average_precision([found()], [target], 1, backend=backend)
    assert (nothing.small, math.isnan(nothing.large)) == (0, True)
    assert coco_average_precision([found(SMALL, LARGE)], [truth()], 1, backend=backend).large == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_both_evaluators_agree_about_crowds(seed):
    """Random objects, a fifth of them crowds, and detections on, in and beside them."""
    for name in BACKENDS:
        pytest.importorskip(name.replace("-", "_"), reason=f"{name} is not installed")
    generator = torch.Generator().manual_seed(seed)

    def rand(*size):
        return torch.rand(*size, generator=generator)

    detections, targets = [], []
    for _ in range(10):
        corner, side = rand(8, 2) * 300, 10 + rand(8, 2) * 150
        boxes, labels = torch.cat((corner, corner + side), 1), 1 + (rand(8) * 2).long()
        targets.append({"boxes": boxes, "labels": labels, "crowd": rand(8) < 0.2, "area": rand(8) * side.prod(1)})
        near = boxes.repeat(3, 1) + (rand(24, 4) - 0.5) * 0.4 * side.repeat(3, 2)
        detections.append(Detections(near, labels.repeat(3), rand(24).sort(descending=True).values))
    one, two = (coco_average_precision(detections, targets, 2, backend=name) for name in BACKENDS)
    assert one.per_class == pytest.approx(two.per_class, abs=1e-9)
    assert (one.small, one.medium, one.large) == pytest.approx(
        (two.small, two.medium, two.large), abs=1e-9, nan_ok=True
    )
    unmarked = [{key: value for key, value in target.items() if key != "crowd"} for target in targets]
    assert one.mean > coco_average_precision(detections, unmarked, 2).mean
