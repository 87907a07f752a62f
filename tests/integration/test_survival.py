"""A training that is killed, or whose disk is full, goes on to bitwise the same numbers."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import support
import torch
from killed import carry_out

from fasterrcnn.files import remove_leftovers, replacing
from fasterrcnn.training.checkpoint import last_checkpoint, read_checkpoint, write_checkpoint
from fasterrcnn.training.record import read_log
from fasterrcnn.weights import read_safetensors

if sys.platform == "win32":
    pytest.skip("needs fork and POSIX signals", allow_module_level=True)

# One process has what the quick tests of this file share.
pytestmark = pytest.mark.xdist_group("survival")

SETTINGS = {
    "train.steps": 4,
    "train.batch_size": 1,
    "train.checkpoint_every": 2,
    "train.warmup_steps": 1,
    "train.optimizer": "sgd",
    "train_images": 6,
    "eval_images": 2,
    "eval.every_steps": 2,
    "data.size": [64, 64],
    "min_size": 64,
    "max_size": 64,
}
TRAIN = ["train", "--system", "classic_vgg16", "--backbone", "tiny", "--threads", "1"]
TRAIN += [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]


def training(out: Path, kill: tuple[str, int] | None = None, **more) -> dict:
    scenario = {"arguments": [*TRAIN, "--out", str(out)], **more}
    return scenario if kill is None else {**scenario, "kill": {"event": kill[0], "number": kill[1]}}


def in_bytes(path: Path) -> tuple[dict, dict]:
    """Metadata and tensors; the order of the former is any in each file."""
    metadata, tensors = read_safetensors(path)
    return metadata, {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def left_by(folder: Path) -> dict:
    """What a training leaves, without its durations."""
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation.pop("seconds_per_image", None)
    return {
        "log": list(read_log(folder / "log.jsonl")),
        "weights": in_bytes(folder / "model.safetensors"),
        "best": in_bytes(folder / "best.safetensors"),
        "config": (folder / "config.toml").read_text(),
        "evaluation": evaluation,
        "files": sorted(p.name for p in folder.iterdir()),
    }


def with_kills(folder: Path, moments: list[tuple[str, int]]) -> list[dict]:
    """A whole training, and for each moment one that is killed there and one that goes on."""
    plan = [training(folder / "whole")]
    for event, number in moments:
        out = folder / f"{event}{number}"
        plan += [training(out, (event, number)), training(out)]
    return plan


def assert_survived(folder: Path, moments: list[tuple[str, int]], outcomes: list[dict]) -> None:
    """Killed at each moment and run again, a training leaves exactly what it leaves when nothing happens."""
    whole, *others = outcomes
    assert whole["code"] == 0, whole["said"]
    expected = left_by(folder / "whole")
    assert [entry["step"] for entry in expected["log"]] == [1, 2, 2, 3, 4, 4]
    for (event, number), first, second in zip(moments, others[::2], others[1::2], strict=True):
        assert first["signal"] == signal.SIGKILL, (event, number, first["said"])
        assert second["code"] == 0, (event, number, second["said"])
        assert left_by(folder / f"{event}{number}") == expected, (event, number)


# In a step; in the middle of writing the second checkpoint; between its two renames; after a rename.
MOMENTS = [("step", 3), ("write", 800), ("replace", 9), ("placed", 6)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> tuple[Path, dict[str, list[dict]]]:
    """What becomes of all the trainings of the quick tests; one process imports for all of them."""
    folder = tmp_path_factory.mktemp("survival")
    sealed = folder / "sealed"
    (sealed / "old").mkdir(parents=True)
    for closed in (sealed / "old", sealed):
        closed.chmod(0o555)
    plans = {
        "killed": with_kills(folder, MOMENTS),
        "full": [training(folder / "full", limit={"bytes": 4_000_000}), training(folder / "full")],
        "sealed": [training(sealed / name, limit={"rights": "of a user"}) for name in ("new", "old")],
    }
    found = carry_out([scenario for plan in plans.values() for scenario in plan])
    for closed in (sealed, sealed / "old"):
        closed.chmod(0o755)
    return folder, {name: [found.pop(0) for _ in plan] for name, plan in plans.items()}


def test_killed_at_any_moment(outcomes):
    assert_survived(outcomes[0], MOMENTS, outcomes[1]["killed"])


def test_a_full_disk(outcomes):
    """Files end at 4 MB: the message says which, in one line; with room again the training goes on."""
    folder, (full, again) = outcomes[0] / "full", outcomes[1]["full"]
    assert full["code"] == 2
    assert f"cannot write {folder}/best.safetensors: File too large" in " ".join(full["said"].split())
    assert "Traceback" not in full["said"]
    assert again["code"] == 0, again["said"]
    assert left_by(folder) == left_by(outcomes[0] / "whole")


def test_a_read_only_folder(outcomes):
    """No right to write, in a folder that is not there yet and in one that is."""
    for outcome in outcomes[1]["sealed"]:
        assert outcome["code"] == 2, outcome["said"]
        assert "Permission denied" in outcome["said"]
        assert str(outcomes[0] / "sealed") in outcome["said"]
        assert "Traceback" not in outcome["said"]


@pytest.mark.slow
def test_killed_at_many_moments(tmp_path):
    """At every renaming, and here and there in everything else that changes the disk."""
    events = carry_out([training(tmp_path / "counted")])[0]["events"]
    assert events["step"] == 4
    moments = [(event, n) for event in ("replace", "placed") for n in range(1, events[event] + 1)]
    for event in ("sync", "remove", "write"):
        moments += [(event, n) for n in random.Random(0).sample(range(1, events[event] + 1), 5)]
    assert_survived(tmp_path, moments, carry_out(with_kills(tmp_path, moments), timeout=900))


@pytest.mark.slow
def test_killed_from_outside_again_and_again(tmp_path):
    """kill -9 after a while, with processes that load the images; again and again, until a run comes to its end."""
    arguments = [*TRAIN, "--out", str(tmp_path / "run"), "--set", "train.steps=40", "--set", "num_workers=1"]
    command = [sys.executable, "-m", "fasterrcnn", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    log = tmp_path / "run" / "log.jsonl"
    for steps in (5, 17, 30):
        with subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None and (not log.exists() or log.read_text().count("train") < steps):
                time.sleep(0.02)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    whole = training(tmp_path / "whole")
    whole["arguments"] += arguments[-4:]
    last = {"arguments": arguments}
    for outcome in carry_out([whole, last]):
        assert outcome["code"] == 0, outcome["said"]
    first, second = left_by(tmp_path / "whole"), left_by(tmp_path / "run")
    assert first == second


STATE = {
    "step": 1,
    "images_per_step": 1,
    "config": {},
    "model": {"w": torch.arange(50.0)},
    "optimizer": {},
    "scaler": {},
}


def checkpoints(folder: Path) -> list[dict]:
    """Writes a previous and a last checkpoint."""
    states = [{**STATE, "step": step, "model": {"w": torch.full((50,), step)}} for step in (1, 2)]
    for state in states:
        write_checkpoint(folder, state)
    return states


def test_every_flipped_bit_is_found(tmp_path):
    """A damaged file is an error that names it, or reads as what was written."""
    checkpoints(tmp_path)
    path = tmp_path / "checkpoint.pt"
    good, found = path.read_bytes(), 0
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(good)
        damaged[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            state = read_checkpoint(path)
        except ValueError as error:
            found += str(path) in str(error)
        else:  # in what the format does not use
            found += 1
            assert state["step"] == 2
            assert torch.equal(state["model"]["w"], torch.full((50,), 2))
    assert found == 300


@pytest.mark.parametrize("cut", [0, 1, 0.5, -1])
def test_the_one_before_a_damaged_checkpoint_is_used(tmp_path, cut):
    previous, _ = checkpoints(tmp_path)
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content)) if isinstance(cut, float) else cut])
    warnings = []
    state = last_checkpoint(tmp_path, warnings.append)
    assert state["step"] == 1
    assert torch.equal(state["model"]["w"], previous["model"]["w"])
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert "checkpoint_previous.pt, of step 1" in warnings[0]
    # The next write keeps the good one, not the damaged one.
    write_checkpoint(tmp_path, {**STATE, "step": 3})
    assert read_checkpoint(tmp_path / "checkpoint_previous.pt")["step"] == 1
    assert last_checkpoint(tmp_path, warnings.append)["step"] == 3


def test_without_a_good_checkpoint_it_says_so(tmp_path):
    assert last_checkpoint(tmp_path) is None
    checkpoints(tmp_path)
    for name in ("checkpoint.pt", "checkpoint_previous.pt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 half a zip")
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot.*checkpoint_previous\.pt cannot.*--no-resume"):
        last_checkpoint(tmp_path)


def test_a_failed_write_keeps_both_checkpoints(tmp_path, monkeypatch):
    """The disk is full when the file is flushed: both files are as they were, and nothing else is there."""
    checkpoints(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    message = (
        rf"no checkpoint of step 3, cannot write {tmp_path}/checkpoint\.pt: No space left.*last good.*/checkpoint\.pt"
    )
    with pytest.raises(OSError, match=message):
        write_checkpoint(tmp_path, {**STATE, "step": 3})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    """The disk is full in the middle of a line of the log."""
    script = f"""
import resource
from pathlib import Path
from fasterrcnn.training.record import Recorder
with Recorder(Path({str(tmp_path)!r}), curves=False) as recorder:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    for step in range(1, 9):
        recorder.step(step, {{"loss": 1.0}}, 0.1)
"""
    done = support.run_python("-c", script)
    assert f"cannot write {tmp_path}/log.jsonl: File too large" in done.stderr.splitlines()[-1]


def test_a_damaged_log_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind": "train"\n{"kind": "train", "step": 2}\n')
    with pytest.raises(ValueError, match=rf"{path}, line 1"):
        list(read_log(path))


def test_devices_are_not_replaced(tmp_path):
    """What is no file, as /dev/null, is written to; of a link the file behind it is replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with replacing(pipe) as file:
        file.write(b"here")
    assert os.read(reader, 10) == b"here"
    os.close(reader)
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with replacing(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_leftovers_are_removed(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def failing():
        with replacing(path) as file:
            file.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    (tmp_path / ".file.123.partial").write_text("left by a killed process")
    (tmp_path / ".download.partial").write_text("of another program")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".download.partial", "file"]
    assert path.read_text() == "old"
