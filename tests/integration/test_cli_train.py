"""``fasterrcnn train``, ``eval`` and ``detect`` after each other, on a training of seconds."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fasterrcnn import cli
from fasterrcnn.checkpoints import load_model
from fasterrcnn.config import default_config, read_config
from fasterrcnn.data.catalog import open_dataset
from fasterrcnn.data.transforms import to_pil
from fasterrcnn.training.failure import load_failed_step
from fasterrcnn.training.record import Recorder, read_log
from fasterrcnn.weights import read_safetensors

SMALL = {
    "train.steps": 4,
    "train.batch_size": 2,
    "train.checkpoint_every": 2,
    "train.warmup_steps": 1,
    "train_images": 8,
    "eval_images": 3,
    "eval.every_steps": 2,
    "data.size": [64, 64],
    "min_size": 64,
    "max_size": 64,
}
SETTINGS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.app, [*map(str, arguments)])
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


def train(out, *more, code=0):
    return run("train", "--system", "classic_vgg16", "--backbone", "tiny", "--out", out, *SETTINGS, *more, code=code)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "deep" / "er"
    return out, train(out)


def weights_of(folder, name="model.safetensors"):
    return read_safetensors(Path(folder) / name)[1]


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_a_training_leaves(trained):
    out, said = trained
    files = {path.name for path in out.iterdir()}
    assert files >= {
        *("config.toml", "model.safetensors", "best.safetensors", "checkpoint.pt", "log.jsonl", "evaluation.json"),
    }
    assert "1.42 M parameters, on cpu" in said
    assert "step 4/4: loss" in said
    for word in ("objectness", "rpn_box_reg", "classifier", "box_reg", "rate", "circle", "triangle", "mAP@0.5"):
        assert word in said
    config = read_config(out / "config.toml")
    assert (config.system, config.backbone, config.train.steps) == ("classic_vgg16", "tiny", 4)
    assert config.data.size == (64, 64)
    assert load_model(out / "model.safetensors").class_names == ("circle", "square", "triangle")
    assert json.loads((out / "evaluation.json").read_text())["images"] == 3


def test_the_log_has_every_step_and_evaluation(trained):
    entries = list(read_log(trained[0] / "log.jsonl"))
    assert [(entry["kind"], entry["step"]) for entry in entries] == [
        *(("train", 1), ("train", 2), ("eval", 2), ("train", 3), ("train", 4), ("eval", 4)),
    ]
    assert entries[0].keys() == {
        *("kind", "step", "loss", "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "lr"),
    }
    assert entries[2].keys() == {"kind", "step", "map_50", "map_coco"}


def test_tensorboard_curves(trained):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    events = reader.EventAccumulator(str(trained[0] / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {"train/loss", "train/loss_box_reg", "train/lr", "eval/map_50"}
    logged = {entry["step"]: entry["loss"] for entry in read_log(trained[0] / "log.jsonl") if entry["kind"] == "train"}
    curve = {event.step: event.value for event in events.Scalars("train/loss")}
    assert curve == pytest.approx(logged)


def test_without_tensorboard_it_says_so(tmp_path, monkeypatch):
    there = builtins.__import__

    def missing(name, *arguments, **more):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return there(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    said = train(tmp_path, "--set", "train.steps=1")
    assert "No TensorBoard curves" in said
    assert "log.jsonl has the same numbers" in said
    assert not (tmp_path / "tensorboard").exists()


def test_the_saved_configuration_gives_the_same_run(trained, tmp_path):
    run("train", "--config", trained[0] / "config.toml", "--out", tmp_path)
    assert_same(weights_of(tmp_path), weights_of(trained[0]))
    assert (tmp_path / "config.toml").read_text() == (trained[0] / "config.toml").read_text()
    assert list(read_log(tmp_path / "log.jsonl")) == list(read_log(trained[0] / "log.jsonl"))


def test_resumes_where_it_failed(trained, tmp_path, monkeypatch):
    """A crash in step 4 costs what came after the checkpoint of step 2; log, best weights and result are the same."""
    note = Recorder.step

    def crash(self, step, *numbers):
        note(self, step, *numbers)
        if step == 4:
            self.flush()
            raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "step", crash)
        assert "no space left" in train(tmp_path, code=2)
    assert [entry["step"] for entry in read_log(tmp_path / "log.jsonl")][-1] == 4
    said = train(tmp_path)
    assert "step 3/4" in said
    assert "step 2/4" not in said
    assert_same(weights_of(tmp_path), weights_of(trained[0]))
    assert_same(weights_of(tmp_path, "best.safetensors"), weights_of(trained[0], "best.safetensors"))
    assert list(read_log(tmp_path / "log.jsonl")) == list(read_log(trained[0] / "log.jsonl"))


def test_another_run_is_not_resumed(trained, tmp_path):
    train(tmp_path, "--set", "train.steps=2")
    for setting, word in (("roi_pooling=pool", "of another run"), ("train.lr=0.5", "another configuration")):
        assert word in train(tmp_path, "--set", "train.steps=2", "--set", setting, code=2)
    assert read_config(tmp_path / "config.toml").train.lr == default_config("classic_vgg16", "tiny").train.lr
    train(tmp_path, "--no-resume", "--set", "train.steps=2", "--set", "train.lr=0.5")
    assert [entry["step"] for entry in read_log(tmp_path / "log.jsonl")] == [1, 2, 2]


def test_best_weights_are_kept(tmp_path, monkeypatch):
    """Of three evaluations the second is best: its weights stay."""
    from fasterrcnn.training import run as module

    states, scores = [], iter((0.2, 0.6, 0.4))
    honest = module.evaluate

    def scripted(model, *arguments, **more):
        found = honest(model, *arguments, **more)
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        object.__setattr__(found.voc, "mean", next(scores))
        return found

    monkeypatch.setattr(module, "evaluate", scripted)
    said = train(tmp_path, "--set", "train.steps=6")
    assert "best, of step 4" in said
    assert_same(weights_of(tmp_path, "best.safetensors"), states[1])
    assert_same(weights_of(tmp_path), states[2])


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(tmp_path):
    said = train(tmp_path, "--set", "train.lr=1e18", "--set", "clip_grad_norm=none", code=1)
    assert "is not finite" in said
    path = next(tmp_path.glob("failed_step_*.pt"))
    assert path.name in said
    assert len(load_failed_step(path).images) == 2


def test_evaluating_a_file(trained, tmp_path):
    said = run("eval", "--weights", trained[0] / "model.safetensors", "--images", 5, "--out", tmp_path / "e")
    assert "mean" in said
    record = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert record["images"] == 5
    assert [entry["name"] for entry in record["classes"]] == ["circle", "square", "triangle"]
    assert len(list((tmp_path / "e").glob("precision_recall*.png"))) == 4


def test_what_cannot_be_evaluated(trained, tmp_path):
    weights = trained[0] / "model.safetensors"
    assert "no such file" in run("eval", "--weights", tmp_path / "gone.safetensors", code=2)
    said = run("eval", "--weights", weights, "--data", "scenes", "--images", 1, "--out", tmp_path, code=2)
    assert "the model detects circle, square, triangle, the data set has coin" in said
    assert "known: train, val, test" in run("eval", "--weights", weights, "--split", "dev", "--out", tmp_path, code=2)


def test_the_weights_alone_detect(trained, tmp_path):
    to_pil(open_dataset("shapes", "test", 1)[0][0]).save(tmp_path / "shapes.png")
    out = tmp_path / "found"
    weights = trained[0] / "best.safetensors"
    run("detect", tmp_path / "shapes.png", "--weights", weights, "--out", out, "--score-threshold", 0.05)
    record = json.loads((out / "shapes_detections.json").read_text())
    assert (record["width"], record["height"]) == (160, 128)
    assert {item["name"] for item in record["detections"]} <= {"circle", "square", "triangle"}
    with Image.open(out / "shapes_detections.png") as picture:
        assert picture.width % 160 == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which system"),
        (["--system", "classic"], "did you mean classic_vgg16"),
        (["--system", "classic_vgg16", "--data", "shape"], "did you mean shapes"),
        (["--system", "classic_vgg16", "--set", "steps"], "has no '='"),
        (["--system", "classic_vgg16", "--device", "abacus"], "--device"),
        (["--system", "classic_vgg16", "--backbone", "tiny", "--set", "precision=float16"], "needs CUDA"),
        (["--system", "classic_vgg16", "--backbone", "tiny", "--set", "feat_stride=8"], "cannot be built"),
        (["--config", "gone.toml"], "No such file"),
        (["--config", "gone.toml", "--system", "classic_vgg16"], "the file says system"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, arguments, message):
    said = run("train", "--out", tmp_path / "out", *arguments, code=2)
    assert message in said
    assert "Traceback" not in said


def test_a_cut_off_log_line_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "tr')
    assert list(read_log(path)) == [{"kind": "train", "step": 1}]
    path.write_text('{"kind": "tr\n{"kind": "train", "step": 1}\n')
    with pytest.raises(ValueError, match="Unterminated"):
        list(read_log(path))
    assert list(read_log(tmp_path / "gone.jsonl")) == []
