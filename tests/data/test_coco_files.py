"""COCO JSON: ids that are not contiguous, crowds, and every way a file can be wrong."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from data_files import coco_content, coco_file

from fasterrcnn.data import CocoDataset, DataError, DetectionDataset, open_dataset, write_coco
from fasterrcnn.data.catalog import parse_source, splits_of
from fasterrcnn.data.shapes import Shapes


def opened(tmp_path, content, **options):
    return CocoDataset(coco_file(tmp_path, content), tmp_path / "images", **options)


def test_labels_number_the_categories_by_id(tmp_path):
    dataset = opened(tmp_path, coco_content())
    assert isinstance(dataset, DetectionDataset)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.category_ids == (3, 17)
    image, target = dataset[1]
    assert image.shape == (3, 40, 60)
    assert target["labels"].tolist() == [2, 1]
    assert target["boxes"].tolist() == [[30.5, 4, 40.5, 24], [0, 0, 20, 10]]
    assert target["area"].tolist() == [200, 200]
    assert not dataset.problems
    turned = opened(tmp_path, coco_content(), class_names=("dog", "yak", "cat"))
    assert turned.target(0)["labels"].tolist() == [1, 3]
    assert turned.category_ids == (17, None, 3)


def test_crowds_and_areas(tmp_path):
    content = coco_content(1)
    content["annotations"][0].update(iscrowd=1, area=33.5)
    target = opened(tmp_path, content).target(0)
    assert target["crowd"].tolist() == [True, False]
    assert target["area"].tolist() == [33.5, 200]


def change(where, **values):
    def edit(content):
        kind, index = where
        content[kind][index].update(values)

    return edit


def append(kind, entry):
    return lambda content: content[kind].append(entry)


WRONG = {
    "duplicate id, annotation": (change(("annotations", 3), id=102), "left the object out"),
    "duplicate id, image": (append("images", {"id": 20, "file_name": "2.png"}), "took the first one"),
    "duplicate id, category": (append("categories", {"id": 3, "name": "cow"}), "left the category out"),
    "duplicate id, name": (append("categories", {"id": 4, "name": "cat"}), "left the category out"),
    "unknown image": (append("annotations", {"id": 1, "image_id": 30}), "left the object out"),
    "unknown image, list": (append("annotations", {"id": 1, "image_id": [10]}), "left the object out"),
    "unknown class": (change(("annotations", 3), category_id=4), "left the object out"),
    "unknown class, text": (change(("annotations", 3), category_id="cat"), "left the object out"),
    "bad box, none": (change(("annotations", 3), bbox=None), "left the object out"),
    "bad box, three": (change(("annotations", 3), bbox=[1, 2, 3]), "left the object out"),
    "bad box, text": (change(("annotations", 3), bbox=[1, 2, 3, "4"]), "left the object out"),
    "bad box, nan": (change(("annotations", 3), bbox=[1, 2, 3, float("nan")]), "left the object out"),
    "bad box, huge": (change(("annotations", 3), bbox=[1, 2, 3, 10**400]), "left the object out"),
    "box without area": (change(("annotations", 3), bbox=[1, 2, 0, 4]), "left the object out"),
    "box outside": (change(("annotations", 3), bbox=[50, 2, 20, 4]), "clipped the box"),
    "box outside, all": (change(("annotations", 3), bbox=[-9, 2, 5, 4]), "left the object out"),
    "broken entry, annotation": (append("annotations", 7), "left the object out"),
    "broken entry, image": (append("images", {"id": None, "file_name": "2.png"}), "left the image out"),
    "broken entry, category": (append("categories", {"id": "x"}), "left the category out"),
    "wrong size": (change(("images", 1), width=70), "left the image out"),
    "missing image": (append("images", {"id": 30, "file_name": "gone/x.png"}), "left the image out"),
    "same file": (append("images", {"id": 30, "file_name": "2.png"}), "kept both"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_file_and_deed(tmp_path, case):
    edit, done = WRONG[case]
    content = coco_content()
    edit(content)
    path = coco_file(tmp_path, copy.deepcopy(content))
    (tmp_path / "images/gone/x.png").unlink(missing_ok=True)
    dataset = CocoDataset(path, tmp_path / "images")
    problem = dataset.problems[0]
    assert len(dataset.problems) == (2 if case == "same file" else 1), "nothing else; there, the third has no objects"
    assert problem.kind == case.split(",")[0]
    assert problem.done == done
    assert problem.file.startswith(str(tmp_path))
    if problem.is_note:
        return
    with pytest.raises(DataError, match=f"1 problems:\n.*{problem.kind}"):
        CocoDataset(path, tmp_path / "images", problems="error")
    skipped = {"annotation", "box", "class"} & set(case.replace(",", "").split()) or case == "duplicate id, image"
    ids = [image.id for image in CocoDataset(path, tmp_path / "images", problems="skip").images]
    if case == "broken entry, annotation":
        assert ids == [10, 20], "nobody knows whose it was"
    elif skipped or case == "wrong size":
        assert ids == [10]


def test_boxes_a_rounding_beyond_their_image_are_clipped_without_a_word(tmp_path):
    content = coco_content(1)
    content["annotations"][0]["bbox"] = [50.01, 3.0, 10.0, 37.2]
    dataset = opened(tmp_path, content)
    assert not dataset.problems
    assert dataset.target(0)["boxes"][0].tolist() == pytest.approx([50.01, 3, 60, 40])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"),
        ("[1, 2", "no JSON"),
        ("\xff\xfe", "no JSON"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "it has no list 'images'"),
        ('{"images": [], "categories": []}', "it has no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": []}', "it has no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no usable image"),
        (f'{{"images": {"9" * 5000}}}', "no JSON"),
    ],
)
def test_files_that_are_no_coco_files_are_named(tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=rf"bad\.json: .*{message}"):
        CocoDataset(tmp_path / "bad.json", tmp_path)


def test_what_is_written_reads_back_through_the_catalog(tmp_path):
    shapes = Shapes(3, seed=3, size=(64, 80))
    for split in ("train2017", "val2017"):
        write_coco(shapes, tmp_path, split, suffix=".png")
    names = [
        (f"coco:{tmp_path}", "train2017"),
        (f"coco:{tmp_path}", "train"),
        (f"coco:{tmp_path}/annotations/instances_{{split}}.json:{tmp_path}/{{split}}", "val2017"),
        (f"coco:{tmp_path}/annotations/instances_train2017.json:{tmp_path}/train2017", "anything"),
    ]
    for name, split in names:
        dataset = open_dataset(name, split, None, problems="error")
        assert len(dataset) == 3
        assert torch.equal(dataset[1][1]["boxes"], shapes[1][1]["boxes"])
        assert len(open_dataset(name, split, 2)) == 2
    assert splits_of(names[0][0]) == splits_of(names[2][0]) == ["train2017", "val2017"]
    assert splits_of(names[3][0]) == ["all"]
    with pytest.raises(FileNotFoundError, match="splits there: train2017, val2017"):
        open_dataset(f"coco:{tmp_path}", "test", None)
    content = json.loads((tmp_path / "annotations/instances_val2017.json").read_text())
    assert content["annotations"][0].keys() == {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}


def test_names_of_data_sets():
    assert parse_source("coco:a/b.json:c").images == "c"
    assert parse_source("coco:a/b.json").images == "a"
    drives = parse_source(r"coco:C:\a.json:D:\b")
    assert (drives.path, drives.images) == (r"C:\a.json", r"D:\b")
    for wrong in ("voc", "voc:", "pascal:x", "shape"):
        with pytest.raises(ValueError, match=r"unknown data set .*; known: shapes, scenes, voc:FOLDER"):
            parse_source(wrong)
