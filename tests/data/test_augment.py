"""Mirroring and scale jitter keep boxes on their pixels; batches and pictures depend on seed and pass alone."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from fasterrcnn.data import collate
from fasterrcnn.data.augment import MIN_SEEN, TrainingView, learnable, rescale
from fasterrcnn.data.batches import epoch_batches
from fasterrcnn.data.shapes import Shapes
from fasterrcnn.training.step import mixed_seed


class Squares:
    """White squares on black; difficult, crowd and ordinary ones."""

    class_names = ("square",)
    sizes = ((40, 60), (60, 40), (40, 60), (60, 40), (60, 40), (50, 50))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        height, width = self.sizes[index]
        image = torch.zeros(3, height, width)
        boxes = torch.tensor([[5.0, 6, 15, 16], [22, 20, 34, 32], [1, 30, 4, 33]])
        for x1, y1, x2, y2 in boxes[:2].int().tolist():
            image[:, y1:y2, x1:x2] = 1
        flags = {"difficult": torch.tensor([False, False, True]), "crowd": torch.tensor([False, False, False])}
        return image, {"boxes": boxes, "labels": torch.ones(3, dtype=torch.int64), **flags}


@pytest.mark.parametrize("factors", [(1.2, 3.0), (0.3, 0.9), (0.5, 2.0), (1.0, 1.0)])
def test_boxes_stay_on_their_pixels(factors):
    view = TrainingView(Squares(), flip=0.5, scale_jitter=factors)
    for seed in range(40):
        torch.manual_seed(seed)
        image, target = view[seed % 6]
        assert target.keys() == {"boxes", "labels"}
        height, width = image.shape[1:]
        assert 1 <= len(target["boxes"]) == len(target["labels"]) <= 2
        for x1, y1, x2, y2 in target["boxes"].int().tolist():
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            assert image[:, y1:y2, x1:x2].min() == 1
            assert (x2 - x1) * (y2 - y1) >= MIN_SEEN * 100
        scale = Squares.sizes[seed % 6][0] / height
        assert factors[0] * 0.95 <= scale <= factors[1] * 1.05


def test_of_the_factors_objects_become_larger_and_smaller():
    sizes = set()
    for seed in range(20):
        torch.manual_seed(seed)
        image, _ = rescale(*Squares()[0], (0.5, 2.0))
        sizes.add(image.shape[1])
    assert min(sizes) < 40 < max(sizes)


def test_images_without_objects_are_rescaled_too():
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    image, target = rescale(torch.zeros(3, 40, 60), empty, (2.0, 2.0))
    assert tuple(image.shape) == (3, 20, 30)
    assert len(target["boxes"]) == 0


def test_difficult_objects_and_crowds_are_not_learned():
    _, target = Squares()[0]
    target["crowd"][0] = True
    assert learnable(target)["boxes"].tolist() == [[22, 20, 34, 32]]
    plain = {"boxes": torch.ones(2, 4), "labels": torch.ones(2)}
    assert len(learnable(plain)["boxes"]) == 2


def test_a_plain_view_changes_nothing():
    shapes = Shapes(3, size=(64, 64))
    view = TrainingView(shapes, group_by_aspect=True)
    assert view.groups is None
    assert len(view) == 3
    state = torch.get_rng_state()
    image, target = view[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(image, shapes[1][0])
    assert torch.equal(target["boxes"], shapes[1][1]["boxes"])


@pytest.mark.parametrize(
    "wrong", [{"flip": 1.5}, {"flip": -0.1}, {"scale_jitter": (2.0, 1.0)}, {"scale_jitter": (0, 1)}]
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingView(Squares(), **wrong)


def test_every_image_comes_at_most_once():
    for groups in (None, [index % 3 for index in range(23)], [0] * 23):
        found = epoch_batches(23, 4, torch.Generator().manual_seed(3), groups)
        assert [len(batch) for batch in found] == [4] * 5
        assert len({index for batch in found for index in batch}) == 20
        assert found == epoch_batches(23, 4, torch.Generator().manual_seed(3), groups)
        assert found != epoch_batches(23, 4, torch.Generator().manual_seed(4), groups)


def test_batches_are_of_one_group_as_far_as_possible():
    groups = [int(index % 5 == 0) for index in range(40)]  # 32 and 8
    mixed = [len({groups[index] for index in batch}) > 1 for batch in epoch_batches(40, 3, torch.Generator(), groups)]
    assert len(mixed) == 13
    assert sum(mixed) <= 1  # two and two are left over


class _Seeded(TrainingView):
    """Seeds each picture as the training does."""

    def __getitem__(self, key):
        torch.manual_seed(mixed_seed(7, *key))
        return super().__getitem__(key[1])


def test_the_number_of_workers_changes_nothing():
    view = _Seeded(Squares(), flip=0.5, scale_jitter=(0.5, 2.0), group_by_aspect=True)
    assert view.groups == [1, 0, 1, 0, 0, 0]
    runs = []
    for workers in (0, 2):
        order = epoch_batches(6, 2, torch.Generator().manual_seed(1), view.groups)
        keys = [[(step, index) for index in batch] for step, batch in enumerate(order)]
        runs.append(list(DataLoader(view, batch_sampler=keys, num_workers=workers, collate_fn=collate)))
    for (images, targets), (others, other_targets) in zip(*runs, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(images, others, strict=True))
        assert all(torch.equal(one["boxes"], two["boxes"]) for one, two in zip(targets, other_targets, strict=True))
