"""Generated shapes: boxes fit the pixels, items repeat, splits differ; and the catalogue that opens sets by name."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from fasterrcnn.data import SyntheticScenes, shapes
from fasterrcnn.data.catalog import DATASETS, SPLITS, open_dataset
from fasterrcnn.data.dataset import DetectionDataset
from fasterrcnn.data.shapes import MAX_SIDE, MIN_SIDE, Shapes

COUNT = 60


@pytest.fixture(scope="module")
def items():
    dataset = Shapes(COUNT, seed=5)
    return [dataset[i] for i in range(COUNT)]


def test_protocol(items):
    dataset = Shapes(3, seed=1, size=(96, 112))
    assert isinstance(dataset, DetectionDataset)
    assert len(dataset) == 3
    assert dataset[2][0].shape == (3, 96, 112)
    assert items[0][0].shape == (3, 128, 160)
    for image, target in items:
        assert image.dtype == torch.float32
        assert image.min() >= 0
        assert image.max() <= 1
        assert target["boxes"].dtype == torch.float32
        assert target["labels"].dtype == torch.int64
        assert 1 <= len(target["boxes"]) == len(target["labels"]) <= shapes.MAX_SHAPES
        assert set(target["labels"].tolist()) <= {1, 2, 3}


def test_boxes_lie_inside_and_have_the_promised_sides(items):
    for image, target in items:
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        height, width = image.shape[1:]
        assert min(x1.min(), y1.min()) >= 0
        assert x2.max() <= width
        assert y2.max() <= height
        longest = torch.maximum(x2 - x1, y2 - y1)
        assert longest.max() <= MAX_SIDE * height + 1
        assert longest.min() >= shapes.MIN_VISIBLE * MIN_SIDE * height / 2


def test_all_classes_and_counts_occur(items):
    labels = torch.cat([target["labels"] for _, target in items])
    assert torch.bincount(labels, minlength=4)[1:].min() > COUNT // 4
    assert {len(target["labels"]) for _, target in items} == {1, 2, 3, 4}


@pytest.mark.parametrize(("label", "part"), [(1, np.pi / 4), (2, None), (3, None)])
def test_a_box_is_the_extent_of_its_shape(label, part):
    """A lone shape's mask and the box of it; a circle fills π/4 of its box, a triangle half of the enclosing one or
    less, a square turned by at most 12° most of it."""
    for seed in range(20):
        mask = shapes._mask(np.random.default_rng(seed), label, 128, 160)
        box = shapes._extent(mask > 0.5)
        rows, columns = np.nonzero(mask > 0.5)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        filled = mask.sum() / ((box[2] - box[0]) * (box[3] - box[1]))
        if part is not None:
            assert filled == pytest.approx(part, rel=0.06)
        elif label == 2:
            assert 0.65 < filled < 1.02
        else:
            assert 0.3 < filled < 0.6


def test_shapes_stand_out(items):
    """The middle of a shape that nothing hides differs from the background around it."""
    background = Shapes(COUNT, seed=5)
    contrasts = []
    for index, (image, target) in enumerate(items):
        if len(target["boxes"]) == 1:
            x1, y1, x2, y2 = target["boxes"][0].int().tolist()
            middle = image[:, (y1 + y2) // 2 - 2 : (y1 + y2) // 2 + 2, (x1 + x2) // 2 - 2 : (x1 + x2) // 2 + 2]
            outside = image.clone()
            outside[:, y1:y2, x1:x2] = torch.nan
            contrasts.append((middle.mean((1, 2)) - outside.flatten(1).nanmean(1)).abs().max())
        assert torch.equal(image, background[index][0])
    assert len(contrasts) > 5
    assert min(contrasts) > 0.04
    assert sum(contrasts) / len(contrasts) > 0.25


def test_items_repeat_and_seeds_differ():
    first, again, other = Shapes(4, seed=2), Shapes(40, seed=2), Shapes(4, seed=3)
    for index in (3, 0, 2):
        image, target = first[index]
        assert torch.equal(image, again[index][0])
        assert torch.equal(target["boxes"], again[index][1]["boxes"])
        assert not torch.equal(image, other[index][0])


def test_global_generators_are_left_alone():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    Shapes(1)[0]
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_bad_arguments():
    for arguments in ({"length": -1}, {"length": 1, "seed": -1}, {"length": 1, "size": (63, 200)}):
        with pytest.raises(ValueError, match="expected"):
            Shapes(**arguments)
    for index in (-1, 2):
        with pytest.raises(IndexError, match="of a set of 2"):
            Shapes(2)[index]


def test_catalogue():
    assert isinstance(open_dataset("shapes", length=2), Shapes)
    scenes = open_dataset("scenes", "val", 3, size=(128, 128))
    assert isinstance(scenes, SyntheticScenes)
    assert (len(scenes), scenes.size) == (3, (128, 128))
    assert len({open_dataset("shapes", split, seed=seed).seed for split in SPLITS for seed in range(3)}) == 9
    for name, made in DATASETS.items():
        assert open_dataset(name).size == inspect.signature(made).parameters["size"].default


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("circles",), "unknown data set 'circles'; known: shapes, scenes"),
        (("shapes", "dev"), "unknown split 'dev'; known: train, val, test"),
        (("shapes", "val", 0), "at least one image"),
    ],
)
def test_bad_catalogue_entries(arguments, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(*arguments)
    with pytest.raises(ValueError, match="seed of a data set"):
        open_dataset("shapes", seed=10_000_000)
