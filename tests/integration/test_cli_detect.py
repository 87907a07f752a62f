"""``fasterrcnn detect``: what it writes, what it says, how it ends."""

from __future__ import annotations

import json

import pytest
import support
import torch
from PIL import Image
from typer.testing import CliRunner

import fasterrcnn_ops
from fasterrcnn import build, checkpoints, cli
from fasterrcnn.data import read_image
from fasterrcnn.data.cutouts import ASSETS

COINS = ASSETS / "photos" / "coins_unseen.png"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained detector: it finds all kinds of things with low scores."""
    torch.manual_seed(0)
    model = build("classic_vgg16", num_classes=2, backbone="tiny", min_size=96, max_size=160)
    model.class_names = ("apple", "pear")
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    checkpoints.save(model, path)
    return path


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    noise = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    Image.fromarray(noise).save(folder / "a.png")
    Image.fromarray(noise[::-1].copy()).convert("L").save(folder / "b.jpg")
    return folder


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.app, ["detect", *map(str, arguments)])
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


def test_writes_one_png_and_one_json_per_picture(weights, pictures, tmp_path):
    out = tmp_path / "out"
    run(pictures / "a.png", pictures / "b.jpg", "--weights", weights, "--out", out, "--score-threshold", 0.05)
    names = ["a_detections.json", "a_detections.png", "b_detections.json", "b_detections.png"]
    assert sorted(file.name for file in out.iterdir()) == names
    with Image.open(out / "a_detections.png") as picture:
        assert picture.width % 90 == 0
    record = json.loads((out / "a_detections.json").read_text())
    assert (record["image"], record["width"], record["height"]) == (str(pictures / "a.png"), 90, 70)
    model = checkpoints.load_model(weights)
    expected = model.detect([read_image(pictures / "a.png")], score_threshold=0.05)[0]
    assert len(record["detections"]) == len(expected.boxes) > 0
    for item, box, label, score in zip(
        record["detections"], expected.boxes.tolist(), expected.labels.tolist(), expected.scores.tolist(), strict=True
    ):
        assert item["box"] == pytest.approx(box, abs=0.01)
        assert item["label"] == label
        assert item["name"] == ("apple", "pear")[label - 1]
        assert item["score"] == pytest.approx(score, abs=1e-4)


def test_unreadable_pictures_are_skipped_and_the_others_done(weights, pictures, tmp_path):
    out = tmp_path / "out"
    (pictures / "broken.png").write_bytes((pictures / "a.png").read_bytes()[:400])
    (pictures / "notes.txt").write_text("no picture")
    missing = pictures / "missing.png"
    said = run(
        *(missing, pictures / "broken.png", pictures / "notes.txt", pictures / "a.png"),
        *("--weights", weights, "--out", out),
        code=1,
    )
    assert sorted(file.name for file in out.iterdir()) == ["a_detections.json", "a_detections.png"]
    for name in ("missing.png: no such file", "broken.png: ", "notes.txt: not a picture"):
        assert name in said
    assert said.count("Skipped") == 3
    assert "1 done, 3 skipped" in said


def test_folders_and_patterns(weights, pictures, tmp_path):
    out = tmp_path / "out"
    (pictures / "notes.txt").write_text("no picture, and not looked at")
    run(pictures, "--weights", weights, "--out", out)
    assert len(list(out.glob("*.json"))) == 2
    run(f"{pictures}/*.jpg", "--weights", weights, "--out", tmp_path / "pattern")
    assert [file.name for file in (tmp_path / "pattern").glob("*.json")] == ["b_detections.json"]


def test_output_in_the_folder_of_the_pictures_harms_nothing(weights, pictures):
    before = (pictures / "a.png").read_bytes()
    for _ in range(2):
        run(pictures, "--weights", weights, "--out", pictures)
    assert (pictures / "a.png").read_bytes() == before
    assert len(list(pictures.glob("*.json"))) == 2, "our own output is not detected on"


def test_pictures_of_one_name_do_not_overwrite_each_other(weights, pictures, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (50, 40)).save(other / "A.png")
    out = tmp_path / "out"
    run(pictures / "a.png", other / "A.png", pictures / "a.png", "--weights", weights, "--out", out)
    widths = [json.loads(file.read_text())["width"] for file in sorted(out.glob("*.json"))]
    assert sorted(widths) == [50, 90, 90]


def test_nothing_to_do_is_an_error(weights, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "without pictures" in run(empty, "--weights", weights, "--out", tmp_path / "out", code=1)
    assert "no such file" in run(tmp_path / "*.png", "--weights", weights, "--out", tmp_path / "out", code=1)


def test_weights_that_are_none_are_said_so(pictures, tmp_path):
    assert "no such file" in run(pictures, "--weights", tmp_path / "gone.safetensors", code=2)
    (tmp_path / "text.safetensors").write_text("not a detector")
    assert "cannot load" in run(pictures, "--weights", tmp_path / "text.safetensors", code=2)


def test_unusable_devices_and_folders_are_said_so(weights, pictures, tmp_path):
    assert "--device" in run(pictures, "--weights", weights, "--device", "abacus", code=2)
    (tmp_path / "file").write_text("no folder")
    assert "--out" in run(pictures, "--weights", weights, "--out", tmp_path / "file" / "out", code=2)


def test_shipped_weights_are_the_default(tmp_path):
    out = tmp_path / "out"
    said = run(COINS, "--out", out)
    record = json.loads((out / "coins_unseen_detections.json").read_text())
    names = [item["name"] for item in record["detections"]]
    assert 11 <= names.count("coin") <= 13
    assert f"{names.count('coin')} coin" in said
    assert all(item["score"] >= 0.5 for item in record["detections"])


def test_version():
    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.exit_code == 0
    assert result.output.split() == ["fasterrcnn", fasterrcnn_ops.__version__]


def test_the_command_runs_as_a_module():
    result = support.run_python("-m", "fasterrcnn", "--help")
    assert result.returncode == 0, result.stderr
    assert "demo" in result.stdout
    assert "detect" in result.stdout
