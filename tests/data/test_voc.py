"""PASCAL VOC folders: coordinates, flags, splits, and every way they can be wrong."""

from __future__ import annotations

import pytest
import torch
from data_files import picture, voc_folder, voc_object, voc_xml

from fasterrcnn.data import DataError, DetectionDataset, VocDataset, write_voc
from fasterrcnn.data.shapes import Shapes
from fasterrcnn.data.voc import voc_splits


def opened(tmp_path, annotations, **options):
    return VocDataset(voc_folder(tmp_path / "voc", annotations), **options)


def test_pixels_counted_from_1_become_continuous_from_0(tmp_path):
    """xmin 1, xmax 1 is the first column alone: 0…1. The last pixel is included: xmax 60 of 60 columns is the edge."""
    objects = [voc_object(box=box) for box in ((1, 1, 1, 1), (1, 1, 60, 40), (5, 6, 14, 25), (2.5, 3, 7.5, 9))]
    dataset = opened(tmp_path, {"a": voc_xml(*objects)})
    assert isinstance(dataset, DetectionDataset)
    image, target = dataset[0]
    assert image.shape == (3, 40, 60)
    assert target["boxes"].tolist() == [[0, 0, 1, 1], [0, 0, 60, 40], [4, 5, 14, 25], [1.5, 2, 7.5, 9]]
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [1, 1, 1, 1]
    assert target["area"][2] == 10 * 20  # as VOC's own: (14 − 5 + 1) · (25 − 6 + 1)
    assert not dataset.problems


def test_flags_classes_and_parts(tmp_path):
    part = "<object><name>dog</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    part += "<part><name>head</name><bndbox><xmin>4</xmin></bndbox></part></object>"
    first = voc_xml(voc_object("dog", difficult=1, truncated=0), voc_object("cat", truncated=1), part)
    dataset = opened(tmp_path, {"a": first, "b": voc_xml(voc_object("ant"))})
    assert dataset.class_names == ("ant", "cat", "dog")
    target = dataset.target(0)
    assert target["labels"].tolist() == [3, 2, 3]
    assert target["difficult"].tolist() == [True, False, False]
    assert target["truncated"].tolist() == [False, True, False]
    assert not target["crowd"].any()


def test_splits(tmp_path):
    root = voc_folder(tmp_path, {name: voc_xml(voc_object()) for name in ("a", "b", "c")})
    (root / "ImageSets/Main/val.txt").write_text("c\n\n")
    (root / "ImageSets/Main/cat_train.txt").write_text("a  1\nb -1\n")
    assert voc_splits(root) == ["train", "val"]
    assert [len(VocDataset(root, split)) for split in ("train", "val", "cat_train", "all")] == [3, 1, 2, 3]
    with pytest.raises(FileNotFoundError, match=r"dev\.txt: no such split; known: train, val, all"):
        VocDataset(root, "dev")
    with pytest.raises(FileNotFoundError, match="no PASCAL VOC folder"):
        VocDataset(tmp_path / "elsewhere")


def test_classes_of_a_list_or_of_the_caller(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_xml(voc_object("cat"), voc_object("dog"))})
    assert VocDataset(root, class_names=("dog", "cat")).target(0)["labels"].tolist() == [2, 1]
    (root / "classes.txt").write_text("dog\nzebra\n")
    dataset = VocDataset(root)
    assert dataset.class_names == ("dog", "zebra")
    assert dataset.target(0)["labels"].tolist() == [1]
    assert [problem.kind for problem in dataset.problems] == ["unknown class"]
    (root / "classes.txt").write_text("dog\ndog\n")
    with pytest.raises(DataError, match=r"classes\.txt"):
        VocDataset(root)


WRONG = {
    "broken XML": ("<annotation><object>", "left the image out"),
    "broken XML, another root": ("<html/>", "left the image out"),
    "broken XML, doctype": (
        '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>',
        "left the image out",
    ),
    "broken XML, deep": ("<annotation>" + "<a>" * 50 + "</a>" * 50 + "</annotation>", "left the image out"),
    "box without area": (voc_xml(voc_object(), voc_object(box=(5, 5, 4, 9))), "left the object out"),
    "box outside": (voc_xml(voc_object(), voc_object(box=(50, 5, 80, 9))), "clipped the box"),
    "box outside, 0": (voc_xml(voc_object(), voc_object(box=(0, 5, 8, 9))), "clipped the box"),
    "box outside, all": (voc_xml(voc_object(), voc_object(box=(70, 5, 80, 9))), "left the object out"),
    "bad box, text": (voc_xml(voc_object(), voc_object(box=("x", 5, 80, 9))), "left the object out"),
    "bad box, nan": (voc_xml(voc_object(), voc_object(box=("nan", 5, 80, 9))), "left the object out"),
    "bad box, none": (voc_xml(voc_object(), "<object><name>cat</name></object>"), "left the object out"),
    "wrong size": (voc_xml(voc_object(), width=61), "left the image out"),
    "unknown class": (voc_xml(voc_object(), voc_object("yeti")), "left the object out"),
    "no objects": (voc_xml(), "kept it, as background"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_file_and_deed(tmp_path, case):
    text, done = WRONG[case]
    root = voc_folder(tmp_path, {"good": voc_xml(voc_object()), "wrong": text})
    (root / "classes.txt").write_text("cat\n")
    dataset = VocDataset(root)
    [problem] = dataset.problems
    assert problem.kind == case.split(",")[0]
    assert problem.done == done
    assert "wrong." in problem.file
    expected = {"left the image out": 1, "kept it, as background": 2}.get(done, 2)
    assert len(dataset) == expected
    if expected == 2:
        boxes = dataset.target(1)["boxes"]
        assert len(boxes) == {"clipped the box": 2, "left the object out": 1}.get(done, 0)
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([60, 40, 60, 40])).all()
    if problem.is_note:
        assert len(VocDataset(root, problems="error")) == len(VocDataset(root, problems="skip")) == 2
        return
    assert [image.id for image in VocDataset(root, problems="skip").images] == ["good"]
    with pytest.raises(DataError, match=f"1 problems:\n.*{problem.kind}"):
        VocDataset(root, problems="error")


def test_files_that_are_missing_damaged_or_doubled(tmp_path):
    root = voc_folder(tmp_path, {name: voc_xml(voc_object()) for name in ("a", "b", "c", "d", "e")})
    (root / "JPEGImages/b.jpg").unlink()
    (root / "Annotations/c.xml").unlink()
    whole = (root / "JPEGImages/d.jpg").read_bytes()
    (root / "JPEGImages/d.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "JPEGImages/e.jpg").write_text("no picture")
    (root / "ImageSets/Main/train.txt").write_text("a\nb\nc\nd\na\ne\n")
    kinds = {
        "head": ["duplicate id", "missing annotation", "missing image", "damaged image"],
        "pixels": ["duplicate id", "missing annotation", "missing image", "damaged image", "damaged image"],
    }
    for verify, expected in kinds.items():
        dataset = VocDataset(root, verify=verify)
        assert [problem.kind for problem in dataset.problems] == expected
        assert [image.id for image in dataset.images] == (["a", "d"] if verify == "head" else ["a"])
    with pytest.raises(DataError, match=r"d\.jpg: damaged picture.*`fasterrcnn data check` finds"):
        VocDataset(root)[1]
    (root / "ImageSets/Main/train.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"no usable image:\n.*missing image"):
        VocDataset(root)
    with pytest.raises(IndexError):
        VocDataset(root, "all")[99]


def test_a_list_stays_in_its_folder(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_xml(voc_object())})
    (root / "ImageSets/Main/train.txt").write_text("a\n/etc/a\n../../a\n")
    dataset = VocDataset(root)
    assert len(dataset) == 1
    assert [(problem.kind, problem.done) for problem in dataset.problems] == [
        ("broken entry", "left the image out")
    ] * 2


def test_images_of_other_names_and_no_size(tmp_path):
    """Some tools write PNGs, name them otherwise, or write a size of 0."""
    root = voc_folder(tmp_path, {"a": voc_xml(voc_object(), width=0), "b": voc_xml(voc_object())})
    (root / "JPEGImages/a.jpg").rename(root / "JPEGImages/x.jpg")  # what <filename> says
    (root / "JPEGImages/b.jpg").unlink()
    (root / "JPEGImages/x.jpg").rename(root / "JPEGImages/a.png")
    picture(root / "JPEGImages/b.tif")
    dataset = VocDataset(root)
    assert [image.path.name for image in dataset.images] == ["a.png", "b.tif"]
    assert dataset.sizes == [(40, 60), (40, 60)]


def test_unknown_policies_are_refused(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_xml(voc_object())})
    for option in ("problems", "verify"):
        with pytest.raises(ValueError, match=f"{option} must be one of"):
            VocDataset(root, **{option: "ignore"})


def test_what_is_written_reads_back(tmp_path):
    shapes = Shapes(4, seed=3, size=(64, 80))
    write_voc(shapes, tmp_path / "voc", "val", suffix=".png")
    dataset = VocDataset(tmp_path / "voc", "val", problems="error", verify="pixels")
    assert not dataset.problems
    assert dataset.class_names == shapes.class_names
    for (image, target), index in zip(dataset, range(4), strict=True):
        expected, truth = shapes[index]
        torch.testing.assert_close(image, expected, atol=0.5 / 255 + 1e-6, rtol=0)
        assert torch.equal(target["boxes"], truth["boxes"])
        assert torch.equal(target["labels"], truth["labels"])
