"""``fasterrcnn detect`` on whatever people have: batches, folders in folders, videos, odd pictures; COCO's results."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
import torch
from data_files import png_head
from PIL import Image
from typer.testing import CliRunner

from fasterrcnn import build, checkpoints, cli
from fasterrcnn.data import inputs


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained detector: it finds all kinds of things with low scores."""
    torch.manual_seed(0)
    model = build("classic_vgg16", num_classes=2, backbone="tiny", min_size=96, max_size=160)
    model.class_names = ("apple", "pear")
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    checkpoints.save(model, path)
    return path


def noise(height, width, kind=np.uint8, channels=3):
    return np.random.default_rng(height).integers(0, 256, (height, width, channels)).astype(kind)


@pytest.fixture
def folder(tmp_path):
    """Five pictures of different sizes."""
    path = tmp_path / "in"
    (path / "deep" / "er").mkdir(parents=True)
    for number, (height, width) in enumerate([(70, 90), (90, 70), (64, 64)]):
        Image.fromarray(noise(height, width)).save(path / f"{number}.png")
    Image.fromarray(noise(80, 60)).save(path / "deep" / "0.png")
    Image.fromarray(noise(60, 61)).save(path / "deep" / "er" / "z.jpg")
    return path


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.app, ["detect", *map(str, arguments)])
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


def records(out):
    return {path.name: json.loads(path.read_text()) for path in sorted(out.glob("*_detections*.json"))}


def test_batches_find_what_single_pictures_do(weights, folder, tmp_path):
    found = []
    for size in (1, 3):
        run(folder, "--weights", weights, "--out", tmp_path / str(size), "--batch-size", size, "--no-pictures")
        found.append(records(tmp_path / str(size)))
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 3
    for one, three in zip(found[0].values(), found[1].values(), strict=True):
        assert one["image"] == three["image"]
        assert (one["width"], one["height"]) == (three["width"], three["height"])
    assert not list((tmp_path / "1").glob("*.png"))


def test_a_batch_that_fails_is_done_one_by_one(weights, folder, tmp_path, monkeypatch):
    """As with too little memory for four of them, and one that cannot be done at all."""
    module = importlib.import_module("fasterrcnn.cli.detect")  # its parent has the command of that name
    load = module.load_detector

    def scarce(*arguments):
        model = load(*arguments)
        honest = model.detect

        def detect(images, **more):
            if len(images) > 1 or images[0].shape[-1] == 64:
                raise RuntimeError("out of memory\nand more")
            return honest(images, **more)

        model.detect = detect
        return model

    monkeypatch.setattr(module, "load_detector", scarce)
    said = run(folder, "--weights", weights, "--out", tmp_path, "--batch-size", 3, code=1)
    assert "2.png: cannot be detected on: out of memory" in said
    assert "2 done, 1 skipped" in said
    assert len(records(tmp_path)) == 2


def test_folders_of_folders(weights, folder, tmp_path):
    run(folder, "--recursive", "--weights", weights, "--out", tmp_path / "a", "--no-pictures")
    assert len(records(tmp_path / "a")) == 5
    run(f"{folder}/**/*.jpg", "--weights", weights, "--out", tmp_path / "b", "--no-pictures")
    assert [record["image"] for record in records(tmp_path / "b").values()] == [str(folder / "deep/er/z.jpg")]


def test_results_are_not_detected_on(weights, folder, tmp_path):
    """Run twice in one folder, with two files of one name: their results are none of the pictures."""
    Image.fromarray(noise(64, 64)).save(folder / "0.jpg")
    for _ in range(2):
        run(folder, "--recursive", "--weights", weights, "--out", folder / "found", "--score-threshold", 0.9)
        assert len(records(folder / "found")) == 6
    assert (folder / "found" / "0_detections-3.png").exists()


def test_batches_of_gigantic_pictures_are_smaller(weights, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_PIXELS", 7_000)
    module = importlib.import_module("fasterrcnn.cli.detect")
    load, sizes = module.load_detector, []

    def counting(*arguments):
        model = load(*arguments)
        honest = model.detect
        model.detect = lambda images, **more: sizes.append(len(images)) or honest(images, **more)
        return model

    monkeypatch.setattr(module, "load_detector", counting)
    run(folder, "--weights", weights, "--out", tmp_path / "o", "--batch-size", 3, "--no-pictures")
    assert sizes == [2, 1]


def test_coco_results(weights, folder, tmp_path):
    threshold = ("--score-threshold", 0.05)
    (folder / "broken.png").write_bytes(b"\x89PNG no")
    common = ("--weights", weights, "--out", tmp_path / "o", *threshold, "--coco", tmp_path / "r" / "all.json")
    said = run(folder, *common, code=1)
    assert "3 images" in said
    results = json.loads((tmp_path / "r" / "all.json").read_text())
    listed = json.loads((tmp_path / "r" / "all_images.json").read_text())
    assert [image["id"] for image in listed["images"]] == [1, 2, 3]
    assert listed["categories"] == [{"id": 1, "name": "apple"}, {"id": 2, "name": "pear"}]
    single = records(tmp_path / "o")["0_detections.json"]["detections"]
    mine = [entry for entry in results if entry["image_id"] == 1]
    assert len(mine) == len(single) > 0
    for entry, item in zip(mine, single, strict=True):
        x, y, width, height = entry["bbox"]
        assert [x, y, x + width, y + height] == pytest.approx(item["box"], abs=0.02)
        assert entry["category_id"] == item["label"]
        assert entry["score"] == pytest.approx(item["score"], abs=1e-4)


def test_coco_results_with_the_ids_of_annotations(weights, folder, tmp_path):
    annotations = {
        "images": [
            {"id": 7, "file_name": "in/0.png"},
            {"id": 8, "file_name": "deep/0.png"},
            {"id": 9, "file_name": "1.png"},
        ],
        "categories": [{"id": 44, "name": "pear"}, {"id": 90, "name": "apple"}],
    }
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps(annotations))
    common = ("--weights", weights, "--out", tmp_path / "o", "--score-threshold", 0.05, "--no-pictures", "--no-json")
    coco = ("--coco", tmp_path / "all.json", "--coco-ids", ids)
    said = run(folder, "--recursive", *common, *coco, code=1)
    assert "2.png: cannot write what was found" in said
    assert "ids.json does not name it" in said
    results = json.loads((tmp_path / "all.json").read_text())
    assert {entry["image_id"] for entry in results} == {7, 8, 9}
    assert {entry["category_id"] for entry in results} <= {44, 90}
    assert not list((tmp_path / "o").iterdir())
    assert not (tmp_path / "all_images.json").exists()
    ids.write_text(json.dumps({**annotations, "categories": [{"id": 44, "name": "pear"}]}))
    assert "has no category apple" in run(folder, *common, *coco, code=2)
    ids.write_text("{")
    assert "ids.json: no JSON" in run(folder, *common, *coco, code=2)
    assert "--coco-ids" in run(folder, *common, "--coco-ids", ids, code=2)


def test_odd_pictures(weights, tmp_path):
    """Any mode, one pixel, a line, a turned photograph: all are done."""
    folder = tmp_path / "odd"
    folder.mkdir()
    colour = Image.fromarray(noise(50, 60))
    for mode in ("1", "L", "LA", "P", "RGBA"):
        colour.convert(mode).save(folder / f"{mode}.png")
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise(50, 60, np.uint16)[..., 0]).save(folder / "deep.png")
    Image.fromarray(noise(50, 60, np.float32)[..., 0]).save(folder / "float.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(folder / "turned.jpg", exif=exif)
    for name, (height, width) in {"pixel": (1, 1), "line": (1, 700), "column": (700, 1)}.items():
        Image.fromarray(noise(height, width)).save(folder / f"{name}.png")
    run(folder, "--weights", weights, "--out", tmp_path / "o", "--score-threshold", 0.05, "--batch-size", 4)
    sizes = {
        name.removesuffix("_detections.json"): (r["height"], r["width"]) for name, r in records(tmp_path / "o").items()
    }
    assert len(sizes) == 12
    assert (sizes["turned"], sizes["pixel"], sizes["line"], sizes["column"]) == ((60, 50), (1, 1), (1, 700), (700, 1))
    for record in records(tmp_path / "o").values():
        for item in record["detections"]:
            x1, y1, x2, y2 = item["box"]
            assert 0 <= x1 <= x2 <= record["width"]
            assert 0 <= y1 <= y2 <= record["height"]


def test_gigantic_pictures(weights, tmp_path, monkeypatch):
    """Boxes are in pixels of the file, whatever it was reduced to; what claims more than can be is skipped."""
    monkeypatch.setattr(inputs, "MOST_PIXELS", 10_000)
    pixels = noise(300, 500)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    (tmp_path / "bomb.png").write_bytes(png_head(200_000, 200_000))
    common = ("--weights", weights, "--out", tmp_path / "o", "--score-threshold", 0.05)
    said = run(tmp_path / "bomb.png", tmp_path / "large.png", *common, code=1)
    assert "200000 × 200000 pixels; more than" in said
    record = records(tmp_path / "o")["large_detections.json"]
    assert (record["width"], record["height"]) == (500, 300)
    with Image.open(tmp_path / "o" / "large_detections.png") as picture:
        assert picture.width % 125 == 0, "drawn as it was read, a fourth as large"
    model = checkpoints.load_model(weights)
    small = torch.from_numpy(np.array(Image.fromarray(pixels).reduce(4))).permute(2, 0, 1).float() / 255
    expected = model.detect([small], score_threshold=0.05)[0].boxes * 4
    assert len(expected) > 0
    torch.testing.assert_close(torch.tensor([i["box"] for i in record["detections"]]), expected, atol=0.02, rtol=0)


def test_videos(weights, tmp_path):
    imageio = pytest.importorskip("imageio.v3", reason="imageio is not installed")
    pytest.importorskip("av", reason="av is not installed")
    frames = np.stack([np.full((48, 64, 3), 20 * k, np.uint8) for k in range(7)])
    imageio.imwrite(tmp_path / "film.mp4", frames, plugin="pyav", codec="libx264", fps=5)
    Image.fromarray(noise(70, 90)).save(tmp_path / "a.png")
    out = tmp_path / "o"
    common = ("--weights", weights, "--out", out, "--score-threshold", 0.05, "--coco", out / "all.json")
    said = run(tmp_path, *common, "--every", 2, "--batch-size", 3)
    assert "film.mp4: 4 frames" in said
    record = records(out)["film_detections.json"]
    assert [frame["frame"] for frame in record["frames"]] == [0, 2, 4, 6]
    assert (record["width"], record["height"]) == (64, 48)
    assert imageio.imread(out / "film_detections.mp4", plugin="pyav").shape == (4, 48, 64, 3)
    images = json.loads((out / "all_images.json").read_text())["images"]
    assert [image.get("frame") for image in images] == [None, 0, 2, 4, 6]
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "film.mp4").read_bytes()[:300])
    said = run(tmp_path / "broken.mp4", tmp_path / "gone.mp4", tmp_path / "a.png", *common, code=1)
    assert "broken.mp4: damaged video after 0 frames" in said
    assert "gone.mp4: no such file" in said
    assert "1 done, 2 skipped" in said


def test_a_video_that_cannot_be_written(weights, tmp_path, monkeypatch):
    """Its encoder fails in the middle: that is said once, nothing of it is left, the rest is done."""
    imageio = pytest.importorskip("imageio.v3", reason="imageio is not installed")
    pytest.importorskip("av", reason="av is not installed")
    frames = np.stack([np.full((48, 64, 3), 20 * k, np.uint8) for k in range(5)])
    for name in ("a.mp4", "b.mp4"):
        imageio.imwrite(tmp_path / name, frames, plugin="pyav", codec="libx264", fps=5)
    module = importlib.import_module("fasterrcnn.cli.detect")
    add = module._Video.add

    def failing(self, frame, record, drawn):
        if self.path.name == "a.mp4" and frame["frame"] == 2:
            raise RuntimeError("no such codec")
        add(self, frame, record, drawn)

    monkeypatch.setattr(module._Video, "add", failing)
    said = run(tmp_path / "a.mp4", tmp_path / "b.mp4", "--weights", weights, "--out", tmp_path / "o", code=1)
    assert said.count("no such codec") == 1
    assert "1 done, 1 skipped" in said
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["b_detections.json", "b_detections.mp4"]


def test_videos_without_their_package(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imageio.v3", None)
    (tmp_path / "film.mp4").write_bytes(b"")
    said = run(tmp_path / "film.mp4", "--weights", weights, "--out", tmp_path / "o", code=1)
    assert 'pip install "fasterrcnn-ops[video]"' in said
