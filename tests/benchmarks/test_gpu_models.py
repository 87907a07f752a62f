"""The models stage of the GPU acceptance, tiny and on the CPU: ours and torchvision's detector of the same weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from gpu import models, rivals
from gpu.models import Subject
from gpu.stages import FAILED, OK, Settings
from host_meter import HostMeter
from support import require_torchvision

CPU = torch.device("cpu")
SYSTEMS = tuple(models.SIZES)
pytestmark = pytest.mark.filterwarnings("ignore:CudaGraphed:RuntimeWarning", "ignore:.*create_unbacked_symint")
over_systems = pytest.mark.parametrize("system", SYSTEMS)


def row(kind: str, system: str, batch: int = 1, dtype: str = "float32") -> dict:
    return models.measure(Subject(kind, system, batch, dtype, tiny=True), HostMeter(), seconds=0.0)


# --- the rows --------------------------------------------------------------------------------------------------------


def test_rows_cover_every_combination():
    full, tiny = models.subjects(), models.subjects(tiny=True)
    assert len({subject.name for subject in full}) == len(full) == 3 * len(SYSTEMS) * 2 * 2
    assert [dataclasses.replace(subject, tiny=True) for subject in full] == tiny
    assert all(side % 32 == 0 for subject in full for side in subject.size)  # torchvision pads to that
    assert "detect classic_vgg16 1x608x800 float32" in {subject.name for subject in full}


@over_systems
def test_detections_are_torchvisions(system):
    """Same modules, same detections: proposals, pooling, selection and batches do what torchvision's do."""
    require_torchvision()
    found = row("detect", system, batch=2)
    assert set(found["times"]) == {"theirs", "theirs_same_modules", "ours", "ours_graph"}
    matches = dict(words.split(" and theirs_same_modules: ") for words in found["match"].split("; "))
    for name in ("ours", "ours_graph"):
        assert matches[name] == "equal" or matches[name].endswith(" px")  # none without a twin
    assert "theirs" in matches
    # The meter's peaks are numbered: of the second call, but of a graph of the first, in which it is captured.
    peaks = {name: times["peak_bytes"] // 10**9 for name, times in found["times"].items()}
    assert peaks == {"theirs": 2, "theirs_same_modules": 4, "ours": 6, "ours_graph": 7}
    assert found["ratios"]["ours"]["peak"] == pytest.approx(2 / 6)
    assert found["times"]["theirs"]["wall"]["samples"] >= 5


def test_detections_in_bfloat16():
    require_torchvision()
    assert "ours and theirs_same_modules: " in row("detect", "resnet50_c4", dtype="bfloat16")["match"]


@pytest.mark.parametrize(("system", "dtype"), [("classic_vgg16", "float32"), ("resnet50_c4", "bfloat16")])
def test_training_steps(system, dtype):
    require_torchvision()
    found = row("train", system, dtype=dtype)
    assert set(found["times"]) == {"theirs", "ours"}
    assert found["ratios"]["ours"]["wall"] > 0
    assert found["match"].startswith("losses finite")


def test_a_graph_is_captured_while_its_memory_is_watched(monkeypatch):
    """Replays allocate nothing, so a peak of theirs would be without what the graph works in."""
    require_torchvision()
    events, meter = [], HostMeter()
    captured = models.CudaGraphed

    def peak(call):
        events.append("watch")
        call()
        events.append("done")
        return 0

    monkeypatch.setattr(models, "CudaGraphed", lambda *given: events.append("capture") or captured(*given))
    monkeypatch.setattr(meter, "peak", peak)
    models.measure(Subject("detect", "resnet50_c4", 1, "float32", tiny=True), meter, seconds=0.0)
    assert events[-3:] == ["watch", "capture", "done"]
    assert events.count("capture") == 1


def test_what_a_process_allocates_once_is_there_before_a_training_row(monkeypatch):
    """Or the contender that goes first would pay for it."""
    require_torchvision()
    events, meter = [], HostMeter()
    models.settle.cache_clear()
    step = models.training_step

    def noted(*given):
        call = step(*given)
        return lambda: events.append("step") or call()

    monkeypatch.setattr(models, "training_step", noted)
    monkeypatch.setattr(meter, "allocated", lambda: events.append("allocated") or 1000)
    models.measure(Subject("train", "resnet50_c4", 1, "float32", tiny=True), meter, seconds=0.0)
    assert events[:3] == ["step", "step", "allocated"]  # both sides, once


@pytest.mark.parametrize(("kinds", "stage"), [(("detect", "train"), "models"), (("compiled",), "compiled")])
def test_compiling_has_a_stage_of_its_own(kinds, stage, tmp_path, monkeypatch):
    """It takes minutes a row, and no goal is about it."""
    monkeypatch.setattr("gpu.timing.Meter", lambda device: HostMeter())
    code, content = models.run_rows(Settings(out=tmp_path, card="A Card", limit=0.0), kinds)
    assert code == FAILED
    assert {row["kind"] for row in content["rows"]} == set(kinds)
    assert (tmp_path / f"gpu_a_card_{stage}.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("system", "dtype"), [("classic_vgg16", "float32"), ("resnet50_c4", "bfloat16")])
def test_compiled(system, dtype):
    """By dynamo alone: no graph break in ours; torchvision's may break, or be refused."""
    require_torchvision()
    found = row("compiled", system, dtype=dtype)
    assert {"theirs", "ours_compiled"} <= set(found["times"])


def test_a_rival_that_does_not_compile_is_left_out(monkeypatch):
    def broken():
        raise ValueError("no such thing\nas a compiler")

    def call():
        return [torch.ones(1, 4)], [torch.ones(1)], [torch.ones(1)]

    calls = {"theirs": lambda: call, "theirs_compiled": broken, "ours_compiled": lambda: call}
    monkeypatch.setattr(models, "makers", lambda subject, device: calls)
    found = row("compiled", "resnet50_c4")
    assert found["notes"] == ["theirs_compiled: cannot be compiled: ValueError: no such thing"]
    assert set(found["times"]) == {"theirs", "ours_compiled"}


def test_training_changes_a_copy():
    model = models.built("resnet50_c4", CPU, True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = models.makers(Subject("train", "resnet50_c4", 1, "float32", tiny=True), CPU)["ours"]()
    assert step() > 0
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- comparing -------------------------------------------------------------------------------------------------------


def detections(left: float, count: int = 3) -> tuple[list[torch.Tensor], ...]:
    boxes = torch.tensor([[left + 20 * i, 0.0, left + 20 * i + 10, 10.0] for i in range(count)]).view(-1, 4)
    return [boxes], [torch.ones(count, dtype=torch.int64)], [torch.linspace(0.9, 0.5, count)]


def test_other_detections_fail_the_row():
    subject = Subject("detect", "resnet50_c4", 1, "float32")
    assert "equal" in models.compare(subject, {"theirs_same_modules": detections(0), "ours": detections(0)})
    with pytest.raises(AssertionError, match="have no twin"):
        models.compare(subject, {"theirs_same_modules": detections(0), "ours": detections(3)})
    # Built and optimised modules round differently, layer by layer: told, not judged.
    told = models.compare(subject, {"theirs": detections(3), "theirs_same_modules": detections(0)})
    assert told == "theirs and theirs_same_modules: 6 of 3 boxes have no twin"


def test_nothing_detected_fails_the_row():
    with pytest.raises(AssertionError, match="without detections"):
        models.compare(Subject("detect", "resnet50_c4", 1, "float32"), {"theirs_same_modules": detections(0, 0)})


def test_a_loss_that_is_not_finite_fails_the_row():
    subject = Subject("train", "resnet50_c4", 1, "float32")
    with pytest.raises(AssertionError, match="not finite"):
        models.compare(subject, {"theirs": torch.tensor(1.0), "ours": torch.tensor(float("nan"))})


# --- the table -------------------------------------------------------------------------------------------------------


def test_rows_from_end_to_end(tmp_path, monkeypatch, capsys):
    def measured(subject, meter, seconds):
        assert subject.system != "resnet50_c4", "a | b"
        cell = {"median": 2000.0, "p10": 1000.0, "p90": 3000.0, "samples": 5}
        times = {name: {"wall": cell, "gpu": cell, "peak_bytes": 5_000_000} for name in ("theirs", "ours")}
        return {"match": "equal", "notes": [], "times": times, "ratios": models.ratios(times)}

    monkeypatch.setattr(models, "measure", measured)
    settings = Settings(out=tmp_path, card="A Card", only="detect")
    code, content = models.measure_subjects(models.subjects(tiny=True), HostMeter(), settings)
    assert (code, len(content["rows"])) == (FAILED, 8)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "| detect classic_vgg16 1x64x96 float32 | ours | 2 (1–3) | 2 (1–3) | 5 | 1.00× | 1.00× | 1.00× |" in lines
    assert sum("| failed | AssertionError: a / b |" in line for line in lines) == 4
    classic = Settings(out=tmp_path, card="A Card", only="detect classic")
    assert models.measure_subjects(models.subjects(tiny=True), HostMeter(), classic)[0] == OK


def test_predictions_are_spread():
    """Scores of random weights vary as a trained network's do, and background leads."""
    model = rivals.ours_by_their_rules("resnet50_c4", CPU, tiny=True)
    found = model.detect([rivals.pictures(1, (256, 320), 7, CPU)[0]])[0]
    assert len(found) > 10
    assert found.scores[0] > 0.3
    assert found.scores[-1] < found.scores[0] - 0.1
