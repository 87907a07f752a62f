"""``fasterrcnn detect`` over a folder, killed and shared by processes: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killed import carry_out
from PIL import Image

import fasterrcnn
from fasterrcnn import checkpoints

if sys.platform == "win32":
    pytest.skip("needs fork and POSIX signals", allow_module_level=True)

# One process has what the quick tests of this file share.
pytestmark = pytest.mark.xdist_group("detect_survival")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = fasterrcnn.build("classic_vgg16", num_classes=2, backbone="tiny", min_size=64, max_size=96)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    checkpoints.save(model, path)
    return path


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        noise = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8, generator=generator).numpy()
        Image.fromarray(noise).save(folder / f"{number:02}.png")
    return folder


def written(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


# Where it is killed, and how many pictures are told to be done by the run that is and by the one that goes on.
MOMENTS = {
    ("replace", 2): (0, 4),  # the first picture is written, and has not its name
    ("replace", 5): (1, 3),  # the second has its picture, and not its JSON file
    ("sync", 9): (1, 3),  # likewise, and the JSON file is written, and perhaps not on the disk
    ("placed", 5): (1, 2),  # both files of the second are there
}


@pytest.fixture(scope="module")
def outcomes(weights, tmp_path_factory):
    """What becomes of the runs of the quick tests; one process imports for all of them."""
    folder = tmp_path_factory.mktemp("detect")
    found = pictures(folder / "in", 4)

    def detecting(out: str, *more: str, kill: tuple[str, int] | None = None) -> dict:
        arguments = ["detect", str(found), "--weights", str(weights), "--out", str(folder / out), "--resume", *more]
        return {"arguments": arguments} | ({"kill": {"event": kill[0], "number": kill[1]}} if kill else {})

    plans = {"whole": [detecting("whole")]}
    for moment in MOMENTS:
        plans[moment] = [detecting(f"{moment}", kill=moment), detecting(f"{moment}")]
    plans["settings"] = [
        *(detecting("whole", "--score-threshold", "0.3"), detecting("whole")),
        *(detecting("whole", "--coco", "coco.json"), detecting("whole", "--no-json")),
    ]
    (folder / "unknown").mkdir()  # as a run without --resume leaves it, perhaps of other weights
    (folder / "unknown" / "00_detections.json").write_text(json.dumps({"image": str(found / "00.png")}))
    plans["unknown"] = [detecting("unknown")]
    results = carry_out([scenario for plan in plans.values() for scenario in plan])
    return folder, {name: [results.pop(0) for _ in plan] for name, plan in plans.items()}


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_killed_in_a_write_it_goes_on(outcomes, moment):
    folder, runs = outcomes
    assert runs["whole"][0]["code"] == 0, runs["whole"][0]["said"]
    expected = written(folder / "whole")
    assert len(expected) == 4 * 2 + 1
    first, second = runs[moment]
    assert first["signal"] == signal.SIGKILL, first["said"]
    assert second["code"] == 0, second["said"]
    assert written(folder / f"{moment}") == expected
    assert tuple(run["said"].count("_detections.png") for run in (first, second)) == MOMENTS[moment]


def test_results_of_other_settings_are_not_taken(outcomes):
    runs = outcomes[1]["settings"]
    assert [run["code"] for run in runs] == [2, 0, 2, 2]
    assert "other settings (score_threshold)" in runs[0]["said"]
    assert "4 of 4 were done before" in runs[1]["said"]
    assert all("--resume" in run["said"] for run in runs[2:])


def test_results_of_unknown_settings_are_not_taken(outcomes):
    folder, runs = outcomes
    assert runs["unknown"][0]["code"] == 2
    assert "00_detections.json" in runs["unknown"][0]["said"]
    assert sorted(path.name for path in (folder / "unknown").iterdir()) == ["00_detections.json"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pgrep") is None, reason="needs pgrep to find the processes")
def test_two_processes_share_a_folder_and_one_is_killed(weights, tmp_path):
    """A killed worker ends the run; again, it does what is left, and every picture has its result once."""
    folder = pictures(tmp_path / "in", 60)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    out = tmp_path / "out"

    def detecting(*more: object) -> subprocess.Popen:
        command = [*run, "-m", "fasterrcnn", "detect", folder, "--weights", weights, *more]
        return subprocess.Popen(
            [*map(str, command)], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    process = detecting("--out", out, "--resume")
    while process.poll() is None and (not out.exists() or len(list(out.glob("*.json"))) < 10):
        time.sleep(0.01)
    worker = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()[-1]
    os.kill(int(worker), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert 10 <= len(before) < 60
    said = detecting("--out", out, "--resume").communicate(timeout=120)[0]
    assert f"{len(before)} of 60 were done before" in said
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert len(after) == 60
    assert {name: after[name] for name in before} == before
    assert not list(out.glob(".*partial*"))
    records = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    assert [record["image"] for record in records] == [str(path) for path in sorted(folder.iterdir())]
    # All together, in COCO's format: as one process writes it. What ends in an error waits for the file.
    (folder / "zz.png").write_bytes(b"no picture")
    detecting("--out", tmp_path / "two", "--no-pictures", "--no-json", "--coco", tmp_path / "two.json").communicate()
    run[-1] = "1"
    detecting("--out", tmp_path / "one", "--no-pictures", "--no-json", "--coco", tmp_path / "one.json").communicate()
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert (tmp_path / "two_images.json").read_bytes() == (tmp_path / "one_images.json").read_bytes()
