"""Result files of the GPU acceptance, written from a sample."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess

import pytest
from gpu import report
from gpu.arithmetic import finish_row
from gpu.stages import STAGES

FACTS = {"card": "Some Card X-1", "torch": "2.11.0", "torchvision": "0.26.0", "commit": "0123456789abcdef"}


def sample_row(op: str, **contenders: float) -> dict:
    samples = {name: [seconds * share for share in (0.9, 1.0, 1.1)] for name, seconds in contenders.items()}
    return finish_row(
        {"op": op, "shape": "10x4", "dtype": "float32", "layout": "NHWC", "match": "equal"},
        {"cold": samples, "warm": samples},
        least_bytes=1_000_000,
        pairs=0,
        launch_us=1.0,
        bytes_per_second=1e12,
    )


def sample() -> dict:
    everything = {f"{side}_{kind}": 2e-5 for side in ("theirs", "ours") for kind in ("gpu", "wall", "graph")}
    rows = [sample_row("roi_align", **everything), sample_row("nms", theirs_gpu=6e-4, ours_gpu=2e-5, ours_graph=1e-5)]
    failed = {"op": "decode", "shape": "5x4", "dtype": "float32", "layout": "", "error": "AssertionError: a | b\nmore"}
    return {"facts": FACTS, "rows": [*rows, failed]}


def test_file_names_carry_the_card(tmp_path):
    assert report.slug("NVIDIA H200 (80 GB)") == "nvidia_h200_80_gb"
    assert report.slug("//") == "unknown"
    assert report.result_file(tmp_path, "graphs", "NVIDIA H200") == tmp_path / "gpu_nvidia_h200_graphs.json"


def test_a_whole_run_leaves_few_files(tmp_path):
    for stage in STAGES:
        report.save_stage(report.result_file(tmp_path, stage, "A Card"), stage, {"stage": stage})
    assert len(list(tmp_path.iterdir())) == 7  # and a picture
    checks = report.load(tmp_path / "gpu_a_card_checks.json")
    assert checks == {stage: {"stage": stage} for stage in ("build", "tests", "sanitizer")}


def test_saved_and_loaded(tmp_path):
    file = tmp_path / "new" / "a.json"
    assert report.load(file) is None
    report.save(file, sample())
    assert report.load(file) == json.loads(json.dumps(sample()))
    assert [path.name for path in file.parent.iterdir()] == ["a.json"]


def test_not_a_number_is_not_saved(tmp_path):
    report.save(tmp_path / "a.json", {"good": 1})
    with pytest.raises(ValueError, match="JSON"):
        report.save(tmp_path / "a.json", {"bad": float("nan")})
    assert report.load(tmp_path / "a.json") == {"good": 1}


def test_facts_name_versions_and_commit():
    facts = report.facts("Some Card")
    assert facts["card"] == "Some Card"
    assert re.match(r"\d+\.\d+", facts["torch"])
    assert facts["commit"] == "unknown" or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", facts["commit"])
    assert report.facts("Some Card", "abc")["commit"] == "abc"


def test_results_do_not_make_the_code_another(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        settings = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *settings, *words], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(report, "ROOT", tmp_path)
    result, code = tmp_path / "benchmarks" / "results" / "a.json", tmp_path / "a.py"
    result.parent.mkdir(parents=True)
    for file in (result, code):
        file.write_text("1")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "a")
    name = report.commit()
    assert re.fullmatch("[0-9a-f]{40}", name)
    result.write_text("2")
    (tmp_path / "untracked").touch()
    assert report.commit() == name
    code.write_text("2")
    assert report.commit() == f"{name}-dirty"


def test_outside_a_checkout_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert report.commit() == "unknown"


def test_table_has_every_column_and_says_what_is_missing():
    lines = report.table(sample()["rows"]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(lines) == 2 + 2 + 2 + 1  # head; cold and warm of two rows; the failed one
    assert {len(row) for row in cells} == {len(cells[0])}
    by_name = dict(zip(cells[0], cells[4], strict=True))  # nms, cold
    assert by_name["theirs gpu µs"] == "600 (552–648)"
    assert by_name["theirs wall µs"] == by_name["theirs graph µs"] == by_name["graph ratio"] == "n/a"
    assert by_name["GPU ratio"] == "30.0×"
    assert by_name["% of floor"] == "5"
    assert by_name["match"] == "equal"
    assert cells[6][4] == "failed"
    assert cells[6][-1] == "AssertionError: a / b"


def test_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture")
    file = tmp_path / "pictures" / "rows.png"
    assert report.picture(sample(), file) is None
    assert file.read_bytes().startswith(b"\x89PNG")


def test_no_picture_says_why(tmp_path, monkeypatch):
    failed_only = {"facts": FACTS, "rows": sample()["rows"][-1:]}
    if importlib.util.find_spec("matplotlib"):
        assert report.picture(failed_only, tmp_path / "a.png") == "no picture: no row was measured"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert report.picture(sample(), tmp_path / "a.png") == "no picture: matplotlib is not installed"
    assert not list(tmp_path.iterdir())
