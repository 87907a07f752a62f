"""``fasterrcnn data``, and training, evaluating and detecting on PASCAL VOC and COCO files by the command line."""

from __future__ import annotations

import json

import pytest
from data_files import coco_content, coco_file, voc_folder, voc_object, voc_xml
from typer.testing import CliRunner

from fasterrcnn import cli
from fasterrcnn.config import default_config, read_config
from fasterrcnn.training.record import read_log

pytestmark = pytest.mark.xdist_group("cli_data")  # they share a training

SETTINGS = {
    "train.steps": 4,
    "train.batch_size": 2,
    "train.warmup_steps": 1,
    "train.checkpoint_every": 2,
    "data.scale_jitter": [0.7, 1.4],
    "min_size": 64,
    "max_size": 96,
}


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.app, [*map(str, arguments)])
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


def settings(**more):
    return [word for key, value in {**SETTINGS, **more}.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module", params=["voc", "coco"])
def exported(request, tmp_path_factory):
    """Eight pictures to train on and three to evaluate on, as the command writes them."""
    root = tmp_path_factory.mktemp(request.param) / "set"
    for split, images in (("train", 8), ("val", 3)):
        said = run("data", "export", "shapes", root, "--format", request.param, "--split", split, "--images", images)
        assert f"{images} images. Use them as --data {request.param}:{root}" in said
    return f"{request.param}:{root}", root


@pytest.fixture(scope="module")
def trained(exported, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    command = ("train", "--system", "resnet50_c4", "--backbone", "tiny", "--data", exported[0], "--out", out)
    return out, run(*command, *settings())


def test_trains(exported, trained):
    out, said = trained
    assert "mAP@0.5" in said
    assert "square" in said
    config = read_config(out / "config.toml")
    assert (config.data.name, config.data.flip, config.data.group_by_aspect) == (exported[0], 0.5, True)
    assert config.data.train_images is None
    assert json.loads((out / "evaluation.json").read_text())["images"] == 3


def test_the_same_run_with_two_workers_has_the_same_losses(trained, tmp_path):
    out, _ = trained
    run("train", "--config", out / "config.toml", "--out", tmp_path, "--set", "train.num_workers=2")
    assert list(read_log(tmp_path / "log.jsonl")) == list(read_log(out / "log.jsonl"))


def test_evaluates(exported, trained, tmp_path):
    name, _ = exported
    weights = trained[0] / "model.safetensors"
    run("eval", "--weights", weights, "--data", name, "--out", tmp_path)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["images"] == 3
    assert record["voc"] == json.loads((trained[0] / "evaluation.json").read_text())["voc"]


def test_detects(exported, trained, tmp_path):
    _, root = exported
    folder = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root / "val"
    weights = trained[0] / "best.safetensors"
    run("detect", folder, "--weights", weights, "--out", tmp_path, "--coco", tmp_path / "all.json", "--no-pictures")
    assert len(list(tmp_path.glob("*_detections.json"))) == len(list(folder.iterdir()))


def test_evaluates_a_set_with_some_of_the_classes(trained, tmp_path):
    root = voc_folder(tmp_path / "voc", {"a": voc_xml(voc_object("square")), "b": voc_xml()}, "val")
    weights = trained[0] / "model.safetensors"
    said = run("eval", "--weights", weights, "--data", f"voc:{root}", "--out", tmp_path)
    assert "1 × no objects" in said
    names = [entry["name"] for entry in json.loads((tmp_path / "evaluation.json").read_text())["classes"]]
    assert names == ["circle", "square", "triangle"]
    (root / "Annotations/a.xml").write_text(voc_xml(voc_object("zebra")))
    assert "the data set has zebra" in run(
        "eval", "--weights", weights, "--data", f"voc:{root}", "--out", tmp_path, code=2
    )


def test_check_of_a_good_set(exported):
    said = run("data", "check", exported[0])
    assert said.count("No problems.") == 2
    assert "8 usable images" in said
    report = json.loads(run("data", "check", exported[0], "--split", "val", "--json"))
    assert [(entry["split"], entry["images"], entry["problems"]) for entry in report["splits"]] == [("val", 3, 0)]


def test_check_tells_everything_at_once(tmp_path):
    texts = {
        "a": voc_xml(voc_object(), voc_object(box=(50, 5, 80, 9))),
        "b": "<annotation>",
        "c": voc_xml(voc_object(box=(9, 9, 3, 3))),
        "d": voc_xml(voc_object()),
    }
    root = voc_folder(tmp_path, texts)
    damaged = root / "JPEGImages/d.jpg"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    report = json.loads(run("data", "check", f"voc:{root}", "--json", code=1))
    [split] = report["splits"]
    kinds = [(entry["kind"], entry["level"]) for entry in split["entries"]]
    assert kinds == [
        ("broken XML", "problem"),
        ("box outside", "problem"),
        ("box without area", "problem"),
        ("no objects", "note"),
        ("damaged image", "problem"),
    ]
    assert (split["images"], split["objects"], split["problems"]) == (2, {"cat": 2}, 4)
    said = run("data", "check", f"voc:{root}", code=1)
    assert "Problems: 4, notes: 1 (" in said
    assert "1 × damaged image" not in run("data", "check", f"voc:{root}", "--no-decode", code=1)


def test_check_of_what_cannot_be_used_or_is_not_there(tmp_path):
    content = coco_content(1)
    content["images"][0]["width"] = 99
    path = coco_file(tmp_path, content)
    report = json.loads(run("data", "check", f"coco:{path}:{tmp_path / 'images'}", "--json", code=1))
    assert "no usable image" in report["splits"][0]["unusable"]
    assert report["splits"][0]["entries"][0]["kind"] == "wrong size"
    path.write_text("{")
    assert "no JSON" in run("data", "check", f"coco:{path}", code=1)
    for data, message in (
        ("shapes", "is generated"),
        ("voc:/nowhere", "no PASCAL VOC folder"),
        ("coco:/nowhere", "no splits found"),
        ("pascal", "unknown data set"),
    ):
        assert message in run("data", "check", data, code=2)


def test_training_says_what_was_wrong_and_what_to_do(tmp_path):
    texts = {name: voc_xml(voc_object(), voc_object(box=(50, 5, 80, 9))) for name in "ab"}
    root = voc_folder(tmp_path / "voc", texts)
    command = ("train", "--system", "resnet50_c4", "--backbone", "tiny", "--data", f"voc:{root}", "--out", tmp_path)
    assert "val.txt: no such split; known: train, all" in run(*command, code=2)
    same = ("--set", "eval_split=train", *settings(**{"train.steps": 1}))
    assert f"2 × box outside; `fasterrcnn data check voc:{root}` lists them" in run(*command, *same)
    assert "problems:" in run(*command, *same, "--no-resume", "--set", "problems=error", code=2)
    voc_folder(root, {"v": voc_xml(voc_object("dog"))}, "val")
    (root / "classes.txt").unlink(missing_ok=True)
    content = coco_file(tmp_path, coco_content())
    single = (*command[:-3], f"coco:{content}:{tmp_path / 'images'}", "--out", tmp_path / "one", *settings())
    assert "is one set of images" in run(*single, code=2)
    run(*single, "--set", "train_split=all", "--set", "eval_split=all", "--set", "train.steps=1")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_cut_off_stops_with_its_name(tmp_path, workers):
    root = voc_folder(tmp_path / "voc", {name: voc_xml(voc_object()) for name in "ab"})
    damaged = root / "JPEGImages/b.jpg"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    command = ("train", "--system", "resnet50_c4", "--backbone", "tiny", "--data", f"voc:{root}", "--out", tmp_path)
    options = settings(**{"train.num_workers": workers, "eval_split": "train"})
    said = run(*command, *options, code=2)
    assert "b.jpg: damaged picture" in said
    assert "data.verify=pixels leaves them out" in said
    assert "Traceback" not in said
    said = run(*command, *options, "--no-resume", "--set", "data.verify=pixels", "--set", "train.batch_size=1")
    assert "1 × damaged image" in said


def test_splits_of_different_classes_are_refused_before_training(tmp_path):
    for split, name in (("train", "yak"), ("val", "dog")):
        content = coco_content(2)
        content["categories"][0]["name"] = name
        (tmp_path / f"{split}.json").write_text(coco_file(tmp_path, content).read_text())
    data = f"coco:{tmp_path}/{{split}}.json:{tmp_path}/images"
    said = run(
        *("train", "--system", "resnet50_c4", "--backbone", "tiny", "--data", data, "--out", tmp_path / "o"),
        *settings(),
        code=2,
    )
    assert "classes of the training set are cat, yak, those of the validation set cat, dog" in said


def test_export_refuses_what_it_cannot_write(tmp_path):
    assert "--format" in run("data", "export", "shapes", tmp_path, "--format", "yolo", code=2)
    assert "--suffix" in run("data", "export", "shapes", tmp_path, "--suffix", ".eps", code=2)


def test_configuration_of_files():
    config = default_config("resnet50_c4", "tiny", "voc:somewhere")
    assert (config.data.train_images, config.data.size, config.data.flip) == (None, None, 0.5)
    assert default_config("resnet50_c4", "tiny").data.flip == 0
    with pytest.raises(ValueError, match=r"unknown data set 'pascal:x'; known: shapes"):
        default_config("resnet50_c4", "tiny", "pascal:x")
