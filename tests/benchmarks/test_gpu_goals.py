"""Goals of the GPU acceptance: which rows they are about, and when they are reached."""

from __future__ import annotations

import gpu_acceptance
import pytest
from gpu import goals, models, report, stages
from gpu.goals import GOALS, MISSED, NOT_MEASURED, REACHED, Goal
from gpu.operators import operator_cases
from gpu.race import MEASURED, NOMINAL


def operator_row(name: str, gpu: float | None = 30.0, share: float | None = 70.0) -> dict:
    return {"name": name, "cold": {"ratios": {"gpu": gpu, "busy": gpu, "wall": 60.0}}, "percent_of_floor": share}


def model_row(name: str, peak: float) -> dict:
    return {"name": name, "ratios": {"ours": {"wall": 1.4, "gpu": 1.2, "peak": peak}}}


def verdict(goal: Goal, *rows: dict, **content) -> tuple[str, str]:
    (line,) = goals.judge([goal], {goal.stage: {"rows": rows, **content}})
    return line["verdict"], line["reason"]


def test_every_goal_is_about_a_row_that_exists():
    names = {
        "operators": {case.name for case in operator_cases()},
        "models": {subject.name for subject in models.subjects()},
    }
    assert not [goal.row for goal in GOALS if goal.row not in names[goal.stage]]
    assert len({(goal.row, goal.what) for goal in GOALS}) == len(GOALS)


def test_numbers_of_the_goals():
    least = {}
    for goal in GOALS:
        least.setdefault(f"{goal.row.split()[0]} {goal.what}", set()).add(goal.least)
    assert least["generate_proposals wall time, torchvision ÷ ours"] == {20}
    assert least["multi_scale_roi_align GPU time, torchvision ÷ ours"] == {3, 5}  # forward and backward
    assert least["nms GPU time, torchvision ÷ ours"] == {10}
    assert least["batched_nms GPU time, torchvision ÷ ours"] == {50}
    assert least["select_detections wall time, torchvision ÷ ours"] == {20}
    assert least["roi_align share of the measured copy bandwidth"] == {60}
    assert least["detect wall time, torchvision ÷ ours in a graph"] == {3}
    assert least["train wall time of a training step, torchvision ÷ ours"] == {1.3}
    assert least["train peak memory of a training step, torchvision ÷ ours"] == {1}


def test_reached_or_missed():
    goal = Goal("operators", "nms", "GPU", 30, "×", goals.cold("gpu"))
    assert verdict(goal, operator_row("other", 1), operator_row("nms", 30.0)) == (REACHED, "")
    assert verdict(goal, operator_row("nms", 29.9)) == (MISSED, "")


GPU_GOALS = [goal for goal in GOALS if goal.what.startswith("GPU time")]


@pytest.mark.parametrize("goal", GPU_GOALS, ids=lambda goal: goal.row)
def test_rivals_that_wait_are_taken_without_their_gaps(goal):
    row = operator_row(goal.row)
    ratios = row["cold"]["ratios"]
    ratios |= {"gpu": 1000.0, "busy": 1.0}
    assert verdict(goal, row) == (MISSED, "")
    ratios |= {"gpu": 1.0, "busy": goal.least}
    assert verdict(goal, row) == (REACHED, "")
    ratios |= {"gpu": goal.least, "busy": None}
    assert verdict(goal, row) == (REACHED, "by events, host gaps included")
    ratios["gpu"] = None
    assert verdict(goal, row) == (NOT_MEASURED, "not in the row")


def test_goals_of_gpu_time_are_about_rivals_that_wait():
    waiting = {case.name for case in operator_cases() if not case.theirs_in_graph}
    assert {goal.row for goal in GPU_GOALS} <= waiting


def test_less_memory_means_less():
    goal = next(goal for goal in GOALS if goal.strict)
    assert verdict(goal, model_row(goal.row, 1.0))[0] == MISSED
    assert verdict(goal, model_row(goal.row, 1.01))[0] == REACHED


def test_not_measured_says_why():
    goal = Goal("operators", "nms", "GPU", 30, "×", goals.cold("gpu"))
    assert goals.judge([goal], {})[0]["reason"] == "no result of operators"
    assert verdict(goal) == (NOT_MEASURED, "no such row")
    assert verdict(goal, {"name": "nms", "error": "AssertionError: no\nmore"}) == (NOT_MEASURED, "AssertionError: no")
    assert verdict(goal, operator_row("nms", gpu=None)) == (NOT_MEASURED, "not in the row")


def test_shares_need_measured_ceilings():
    goal = Goal("operators", "nms", "share", 60, "%", goals.share_of_ceiling)
    assert verdict(goal, operator_row("nms"), floors_from=MEASURED) == (REACHED, "")
    assert verdict(goal, operator_row("nms"), floors_from=NOMINAL) == (NOT_MEASURED, "ceilings not measured")
    assert verdict(goal, operator_row("nms", share=59.0), floors_from=MEASURED) == (MISSED, "")


def test_table():
    judged = [
        {"row": "a", "what": "x", "least": 1.3, "unit": "×", "found": 1.234567, "verdict": MISSED, "reason": ""},
        {"row": "b", "what": "x", "least": 60, "unit": "%", "found": None, "verdict": NOT_MEASURED, "reason": "a | b"},
    ]
    lines = goals.table(judged).splitlines()
    assert lines[2] == "| a | x | 1.3 × | 1.23 × | missed |"
    assert lines[3] == "| b | x | 60 % | – | not measured: a / b |"
    assert goals.verdicts(judged) == {REACHED: 0, MISSED: 1, NOT_MEASURED: 1}


# --- the stage -------------------------------------------------------------------------------------------------------


def save_rows(folder, card: str, *, gpu: float) -> None:
    """All rows that goals are about, all of them good but for the GPU ratios."""
    operators, detectors = [], []
    for goal in GOALS:
        if goal.stage == "operators":
            operators.append(operator_row(goal.row, gpu))
        else:
            ratios = {name: {"wall": 4.0, "gpu": 4.0, "peak": 1.5} for name in ("ours", "ours_graph")}
            detectors.append({"name": goal.row, "ratios": ratios})
    facts = {"facts": {"commit": "abc", "torch": "0.0.measured"}}
    common = {"floors_from": MEASURED, **facts}
    report.save(report.result_file(folder, "operators", card), {**common, "rows": operators})
    report.save(report.result_file(folder, "models", card), {**facts, "rows": detectors})


@pytest.mark.parametrize(("gpu", "code"), [(100.0, stages.OK), (2.0, stages.FAILED)])
def test_goals_of_a_card_without_the_card(gpu, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_acceptance, "card_name", lambda: (None, "none here"))
    save_rows(tmp_path, "NVIDIA H200", gpu=gpu)
    assert gpu_acceptance.main(["goals", "--out", str(tmp_path)]) == code
    saved = report.load(tmp_path / "gpu_nvidia_h200_goals.json")
    assert saved["verdicts"][NOT_MEASURED] == 0
    # Of the machine that measured; nothing of this one.
    measured = {"commit": "abc", "torch": "0.0.measured"}
    assert saved["facts"] == {"operators": measured, "models": measured}
    assert sum(saved["verdicts"].values()) == len(GOALS) == len(saved["goals"])
    assert "| nms 6000 float32 |" in capsys.readouterr().out


def test_goals_of_no_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_acceptance, "card_name", lambda: (None, "none here"))
    assert gpu_acceptance.main(["goals", "--out", str(tmp_path)]) == stages.UNAVAILABLE
    said = capsys.readouterr().out
    assert said.count("not measured: no result of ") == len(GOALS)
    assert f"{len(GOALS)} goals are not measured" in said
    assert not list(tmp_path.iterdir())


def test_goals_half_measured(tmp_path):
    save_rows(tmp_path, "A Card", gpu=100.0)
    (tmp_path / "gpu_a_card_models.json").unlink()
    code, content = stages.goals(stages.Settings(out=tmp_path, card="A Card"))
    assert code == stages.UNAVAILABLE
    assert content["verdicts"][NOT_MEASURED] == sum(goal.stage == "models" for goal in GOALS)


def test_the_goals_of_a_card_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_acceptance, "card_name", lambda: ("B Card", ""))
    save_rows(tmp_path, "A Card", gpu=100.0)
    assert gpu_acceptance.main(["goals", "--out", str(tmp_path)]) == stages.UNAVAILABLE
    assert report.load(tmp_path / "gpu_b_card_goals.json")["verdicts"][REACHED] == 0
