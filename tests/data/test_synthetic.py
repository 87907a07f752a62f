"""The generated data set: reproducible, exact boxes, occlusion rule, nothing of the unseen half."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn.data import DetectionDataset, SyntheticScenes, collate, cutouts
from fasterrcnn.data.synthetic import MIN_VISIBLE, _fill_photograph, _Scene


@pytest.fixture(scope="module")
def scenes() -> SyntheticScenes:
    return SyntheticScenes(length=60, seed=7)


def test_is_a_detection_dataset(scenes):
    assert isinstance(scenes, DetectionDataset)
    assert len(scenes) == 60
    assert scenes.class_names == ("coin", "cat", "cup", "rocket", "astronaut")


def test_item_i_is_always_the_same_and_seeds_differ(scenes):
    image, target = scenes[5]
    scenes[9]  # reading others in between changes nothing
    for again, other in ((scenes[5], None), (SyntheticScenes(length=9, seed=7)[5], None)):
        assert torch.equal(again[0], image), other
        assert torch.equal(again[1]["boxes"], target["boxes"])
        assert torch.equal(again[1]["labels"], target["labels"])
    assert not torch.equal(SyntheticScenes(length=9, seed=8)[5][0], image)


def test_every_item_keeps_the_contract(scenes):
    seen = set()
    for index in range(len(scenes)):
        image, target = scenes[index]
        boxes, labels = target["boxes"], target["labels"]
        assert image.shape == (3, 192, 256)
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        assert boxes.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert boxes.shape == (len(labels), 4)
        assert len(labels) >= 1
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= 256).all()
        assert (boxes[:, 3] <= 192).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 5).all()
        seen |= set(labels.tolist())
    assert seen == {1, 2, 3, 4, 5}


def test_a_set_ends(scenes):
    with pytest.raises(IndexError):
        scenes[60]
    assert sum(1 for _ in SyntheticScenes(length=3)) == 3
    with pytest.raises(ValueError, match="size"):
        SyntheticScenes(length=1, size=(10, 320))


def test_other_sizes(scenes):
    image, _ = SyntheticScenes(length=1, seed=0, size=(96, 130))[0]
    assert image.shape == (3, 96, 130)


def _opaque(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 4), 255, np.float32)


def test_boxes_are_those_of_the_visible_pixels():
    scene = _Scene(np.random.default_rng(0), 100, 100)
    assert scene.paste(1, _opaque(40, 40), 10, 20)
    assert scene.paste(2, _opaque(20, 40), 10, 12)  # hides the upper 12 of 40 rows: 70 % remain
    boxes, labels = scene.ground_truth()
    assert boxes.tolist() == [[10, 32, 50, 60], [10, 12, 50, 32]]
    assert labels.tolist() == [1, 2]
    transparent = _opaque(30, 30)
    transparent[:10, :, 3] = 0  # a transparent third belongs to nobody
    assert scene.paste(3, transparent, 60, 0)
    assert scene.ground_truth()[0][2].tolist() == [60, 10, 90, 30]


def test_the_occlusion_rule_refuses():
    scene = _Scene(np.random.default_rng(0), 100, 100)
    assert scene.paste(1, _opaque(40, 40), 10, 20)
    before = scene.canvas.copy()
    assert not scene.paste(2, _opaque(20, 40), 10, 13), "13 of 40 rows hidden: less than 70 % remain"
    assert not scene.paste(2, _opaque(40, 40), 75, 20), "25 of 40 columns inside the image: less than 70 %"
    assert np.array_equal(scene.canvas, before)
    assert scene.labels == [1]
    assert scene.paste(2, _opaque(40, 40), 72, 20), "28 of 40 columns inside: exactly 70 %"
    assert pytest.approx(0.7) == MIN_VISIBLE


def test_hidden_part_accumulates_over_several_objects():
    scene = _Scene(np.random.default_rng(0), 100, 100)
    assert scene.paste(1, _opaque(40, 40), 10, 20)
    assert scene.paste(2, _opaque(20, 40), 10, 8)  # hides 8 rows
    assert not scene.paste(3, _opaque(20, 40), 10, 54)  # 6 more would make 14 of 40
    assert scene.paste(3, _opaque(20, 40), 10, 56)  # 4 more make 12 of 40


def test_photographs_themselves_bring_the_boxes_of_their_objects():
    kinds = set()
    for seed in range(40):
        scene = _Scene(np.random.default_rng(seed), 192, 256)
        _fill_photograph(scene)
        boxes, labels = scene.ground_truth()
        seen = np.bincount(scene.owner.ravel(), minlength=len(labels) + 1)[1:]
        assert (seen >= MIN_VISIBLE * np.array(scene.full)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        kinds.add(tuple(labels.tolist()))
    assert kinds == {photo.labels for photo in cutouts.load_photos()}


def test_cutouts_are_the_objects_promised():
    labels = [cut.label for cut in cutouts.load_cutouts()]
    assert labels.count(1) == 12, "the twelve coins of the upper half"
    assert set(labels) == {1, 2, 3, 4, 5}
    for cut in cutouts.load_cutouts():
        alpha = np.asarray(cut.image)[..., 3]
        assert alpha.max() == 255
        assert 0.3 < (alpha > 127).mean() < 0.95


def test_generator_never_opens_unseen_pictures(monkeypatch):
    for loader in (cutouts.load_cutouts, cutouts.load_backgrounds, cutouts.load_photos, cutouts.load_coin_plate):
        loader.cache_clear()
    opened = []
    real_open = Image.open
    monkeypatch.setattr(
        Image, "open", lambda path, *args, **kwargs: opened.append(Path(path).name) or real_open(path, *args, **kwargs)
    )
    for index in range(20):
        SyntheticScenes(length=20, seed=3)[index]
    assert "coins_upper.png" in opened
    assert not [name for name in opened if "unseen" in name]


def test_the_halves_of_the_coin_photograph_do_not_overlap():
    upper = np.asarray(Image.open(cutouts.ASSETS / "photos" / "coins_upper.png"))
    unseen = np.asarray(Image.open(cutouts.ASSETS / "photos" / "coins_unseen.png"))
    assert (upper.shape, unseen.shape) == ((150, 384), (153, 384)), "303 rows in all, cut once"
    rows = {row.tobytes() for row in upper}
    assert not any(row.tobytes() in rows for row in unseen)
    labels = json.loads((cutouts.ASSETS / "photos" / "coins_unseen.json").read_text())
    assert len(labels["objects"]) == 12
    boxes = np.array([item["box"] for item in labels["objects"]])
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 384).all()
    assert (boxes[:, [1, 3]] <= 153).all()
    # coins are brighter than what lies between them
    inside = np.zeros(unseen.shape, bool)
    for x1, y1, x2, y2 in boxes:
        inside[y1:y2, x1:x2] = True
    assert unseen[inside].mean() > unseen[~inside].mean() + 40


def test_every_shipped_picture_has_a_licence():
    text = (cutouts.ASSETS / "photos" / "LICENSES.md").read_text()
    for folder in ("photos", "backgrounds", "masks"):
        for file in (cutouts.ASSETS / folder).iterdir():
            if file.suffix in (".png", ".jpg", ".json"):
                assert f"`{folder}/{file.name}`" in text, f"{folder}/{file.name} is not in LICENSES.md"


def test_collate_keeps_images_of_different_sizes(scenes):
    images, targets = collate([scenes[0], SyntheticScenes(length=1, size=(96, 130))[0]])
    assert [list(image.shape) for image in images] == [[3, 192, 256], [3, 96, 130]]
    assert torch.equal(targets[0]["boxes"], scenes[0][1]["boxes"])
