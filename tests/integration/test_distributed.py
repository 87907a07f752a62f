"""Several processes, or several parts of a step, train like one process with the whole batch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import together
import torch

import fasterrcnn
import fasterrcnn.checkpoints
from fasterrcnn.data.catalog import open_dataset
from fasterrcnn.training.failure import load_failed_step
from fasterrcnn.training.record import read_log

if sys.platform == "win32" or not torch.distributed.is_available():
    pytest.skip("needs torch.distributed and fork", allow_module_level=True)

# One process has what the quick tests of this file share.
pytestmark = pytest.mark.xdist_group("distributed")

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
PLANS = {
    "one": {"processes": 1, "config": {}},
    "two": {"processes": 2, "config": {"batch_size": 2}},
    "own numbers": {"processes": 2, "config": {"batch_size": 2}, "own_numbers": True},
    "parts": {"processes": 1, "config": {"batch_size": 1, "accumulate": 4}},
    "two with parts": {"processes": 2, "config": {"batch_size": 1, "accumulate": 2}},
    "one with batch norm": {"processes": 1, "config": {"freeze_bn": False}, "batch_norm": True},
    "two with batch norm": {"processes": 2, "config": {"freeze_bn": False, "batch_size": 2}, "batch_norm": True},
    "two with other images": {"processes": 2, "config": {"batch_size": 2}, "images": [9, 8]},
    "two and a NaN": {"processes": 2, "config": {"batch_size": 4, "steps": 1}, "images": 8, "spoiled": True},
    "two that fail": {"processes": 2, "config": {"batch_size": 50, "steps": 1}, "images": 100},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, list[dict]]:
    """What every process of every training left, by the name of the training."""
    folder = tmp_path_factory.mktemp("together")
    plan = [{"name": name, "folder": str(folder), **scenario} for name, scenario in PLANS.items()]
    done = subprocess.run(
        [sys.executable, together.__file__],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    return {
        name: [torch.load(folder / name / f"{rank}.pt") for rank in range(scenario["processes"])]
        for name, scenario in PLANS.items()
    }


def difference(first: dict, second: dict) -> float:
    """The greatest difference of the losses of any step."""
    assert len(first["losses"]) == len(second["losses"]) == 3
    pairs = zip(first["losses"], second["losses"], strict=True)
    return max(abs(one[name] - two[name]) for one, two in pairs for name in one)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("two", "one"),
        ("parts", "one"),
        ("two with parts", "one"),
        ("two with batch norm", "one with batch norm"),
    ],
)
def test_parts_equal_the_whole(trained, name, whole):
    """Losses of three steps within 1e-5, and the parameters after them."""
    expected = trained[whole][0]
    for found in trained[name]:
        assert "error" not in found, found["error"]
        assert difference(found, expected) <= 1e-5
        for key, tensor in expected["parameters"].items():
            torch.testing.assert_close(found["parameters"][key], tensor, rtol=1e-4, atol=1e-5)
    assert [found["wrote"] for found in trained[name]] == [True, False][: len(trained[name])]


def test_the_parts_have_different_numbers(trained):
    """Were every process to divide by its own numbers, the losses would be others: the test above can fail."""
    assert difference(trained["own numbers"][0], trained["one"][0]) > 1e-3
    assert difference(trained["one with batch norm"][0], trained["one"][0]) > 1e-3


def test_the_processes_end_with_the_same_bits(trained):
    for name in ("two", "two with parts", "two with batch norm"):
        first, second = trained[name]
        assert first["losses"] == second["losses"]
        for key, tensor in first["parameters"].items():
            assert torch.equal(tensor, second["parameters"][key]), (name, key)


def test_an_error_ends_all(trained):
    """One process cannot read an image and says so; the other says that it was not the one."""
    errors = [found["error"] for found in trained["two that fail"]]
    assert sorted(error.partition(":")[0] for error in errors) == ["OSError", "PeerError"]
    failed = next(rank for rank, error in enumerate(errors) if error.startswith("OSError"))
    assert errors[failed] == "OSError: image 99 is not readable"
    assert errors[1 - failed] == f"PeerError: process {failed} failed"


def test_other_images_in_another_process_are_an_error(trained):
    """Of all at once; otherwise they would wait for each other."""
    errors = [found["error"] for found in trained["two with other images"]]
    assert any("images to train on is 9 in process 0, but 8 in process 1" in error for error in errors), errors


def test_a_batch_that_is_not_finite_is_named(trained):
    """One process has an image of NaN and keeps it; whoever prints names its file."""
    errors = [found["error"] for found in trained["two and a NaN"]]
    assert sorted(error.partition(":")[0] for error in errors) == ["NonFiniteError", "PeerError"]
    told = next(error for error in errors if error.startswith("NonFiniteError"))
    path = Path(told.partition(" is in ")[2])
    failed = load_failed_step(path)
    assert [bool(image.isnan().all()) for image in failed.images].count(True) == 1
    assert failed.before == (4 if path.name == "failed_step_000001_process_1.pt" else 0)
    assert path.parent.name == f"out{failed.before // 4}"


SETTINGS = {
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


def torchrun(*arguments, processes=2) -> subprocess.Popen:
    """``fasterrcnn`` in several processes, as the documentation starts it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "fasterrcnn", *map(str, arguments)]
    # Not in the source folder, where Python would find sources without compiled libraries.
    return subprocess.Popen(
        command, cwd=tempfile.gettempdir(), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def train(out, *more) -> subprocess.Popen:
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    return torchrun("train", "--system", "classic_vgg16", "--backbone", "tiny", "--out", out, *settings, *more)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pgrep") is None, reason="needs pgrep to find the processes")
def test_torchrun_trains_and_goes_on_after_a_kill(tmp_path):
    """Killed with all its processes after the third step, the same command goes on to the same log."""
    said = train(tmp_path / "whole").communicate(timeout=300)[0]
    assert said.count("step 4/4: loss") == 1, said
    entries = list(read_log(tmp_path / "whole" / "log.jsonl"))
    assert [entry["step"] for entry in entries] == [1, 2, 2, 3, 4, 4]
    assert json.loads((tmp_path / "whole" / "evaluation.json").read_text())["images"] == 3
    process = train(tmp_path / "killed", "--set", "train.steps=60")
    log = tmp_path / "killed" / "log.jsonl"
    while process.poll() is None and (not log.exists() or log.read_text().count("train") < 3):
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) >= 2
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    train(tmp_path / "killed", "--set", "train.steps=60").communicate(timeout=300)
    train(tmp_path / "other", "--set", "train.steps=60").communicate(timeout=300)
    assert list(read_log(log)) == list(read_log(tmp_path / "other" / "log.jsonl"))


@pytest.mark.slow
def test_torchrun_says_what_is_wrong_once(tmp_path):
    """Nothing can be written: one line says so, and all end."""
    (tmp_path / "run" / "config.toml").mkdir(parents=True)
    process = train(tmp_path / "run")
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert said.count("Error in process") == 1, said
    assert f"cannot write {tmp_path}/run/config.toml: Is a directory" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_files_are_trained_evaluated_and_detected_on(tmp_path, kind):
    """The command line on a set in files: two processes leave what one with the doubled batch leaves."""

    def alone(*arguments) -> str:
        command = [sys.executable, "-m", "fasterrcnn", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def together(*arguments) -> str:
        process = torchrun(*arguments)
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, said
        return said

    for split, images in (("train", 8), ("val", 5)):
        alone("data", "export", "shapes", tmp_path / "set", "--format", kind, "--split", split, "--images", images)
    data = f"{kind}:{tmp_path / 'set'}"
    settings = ["--set", "train.steps=3", "--set", "warmup_steps=1", "--set", "min_size=64", "--set", "max_size=96"]
    arguments = ["train", "--system", "resnet50_c4", "--backbone", "tiny", "--data", data, *settings]
    alone(*arguments, "--out", tmp_path / "one", "--set", "train.batch_size=4")
    together(*arguments, "--out", tmp_path / "two", "--set", "train.batch_size=2")
    first, second = (list(read_log(tmp_path / name / "log.jsonl")) for name in ("one", "two"))
    assert [entry["kind"] for entry in first] == ["train"] * 3 + ["eval"]
    for one, two in zip(first[:3], second[:3], strict=True):
        assert two == pytest.approx(one, abs=1e-5)
    weights = tmp_path / "one" / "model.safetensors"
    for name, run in (("one", alone), ("two", together)):
        said = run("eval", "--weights", weights, "--data", data, "--out", tmp_path / f"eval {name}")
        assert said.count("precision-recall curves in") == 1
        pictures = next(path for path in (tmp_path / "set").rglob("*.jpg")).parent
        options = ["--recursive", "--no-pictures", "--weights", weights, "--out", tmp_path / f"found {name}"]
        run("detect", pictures, *options, "--score-threshold", "0.01")
    evaluations = [json.loads((tmp_path / f"eval {name}" / "evaluation.json").read_text()) for name in ("one", "two")]
    assert evaluations[0]["images"] == evaluations[1]["images"] == 5
    assert evaluations[1]["voc"] == pytest.approx(evaluations[0]["voc"], abs=1e-3)
    assert evaluations[1]["coco"] == pytest.approx(evaluations[0]["coco"], abs=1e-3)
    found = [{f.name: f.read_text() for f in (tmp_path / f"found {name}").iterdir()} for name in ("one", "two")]
    assert found[0] == found[1]
    assert len(found[0]) >= 5


@pytest.mark.slow
def test_an_evaluation_is_shared(tmp_path):
    """The shipped detector on nine scenes: two processes measure what one does."""
    from fasterrcnn.demo.recipe import WEIGHTS
    from fasterrcnn.evaluation import evaluate

    process = torchrun("eval", "--weights", WEIGHTS, "--data", "scenes", "--images", 9, "--out", tmp_path)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    found = json.loads((tmp_path / "evaluation.json").read_text())
    model = fasterrcnn.checkpoints.load_model(WEIGHTS)
    expected = evaluate(model, open_dataset("scenes", "val", 9)).as_record()
    assert expected["voc"]["area"] > 0.5
    assert found["images"] == 9
    for kind in ("voc", "coco"):
        assert found[kind] == pytest.approx(expected[kind], abs=1e-3)
