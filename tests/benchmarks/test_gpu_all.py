"""Several stages of the GPU acceptance in one command, each a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import gpu_acceptance
import pytest
from gpu import report, stages


@pytest.fixture
def runs(monkeypatch) -> list[tuple[list[str], float]]:
    """What would have been run: words and limit. ``tests`` fails, ``sanitizer`` is not possible."""
    found: list[tuple[list[str], float]] = []
    codes = {"tests": stages.FAILED, "sanitizer": stages.UNAVAILABLE}

    def run(words: list[str], limit: float) -> int:
        found.append((words, limit))
        only = gpu_acceptance.parse(words[2:]).only
        if words[2] in gpu_acceptance.WITH_ROWS and only not in f"row of {words[2]}":
            return stages.NOTHING_OF_THAT_NAME
        return codes.get(words[2], stages.OK)

    monkeypatch.setattr(gpu_acceptance, "card_name", lambda: ("A Card", ""))
    monkeypatch.setattr(gpu_acceptance, "run_apart", run)
    return found


def test_stages_in_order_although_one_fails(runs, tmp_path, capsys):
    assert gpu_acceptance.main(["all", "--out", str(tmp_path), "--commit", "abc"]) == stages.FAILED
    assert [words[2] for words, _ in runs] == ["build", "tests", "sanitizer", "ceilings"]
    assert "all: build 0, tests 1, sanitizer 3, ceilings 0" in capsys.readouterr().out


def test_only_the_stages_asked_for(runs, tmp_path):
    asked = ["all", "--out", str(tmp_path), "--stages", "goals, sanitizer,ceilings"]
    assert gpu_acceptance.main(asked) == stages.UNAVAILABLE
    assert [words[2] for words, _ in runs] == ["sanitizer", "ceilings", "goals"]
    assert gpu_acceptance.main([*asked[:-1], "ceilings"]) == stages.OK


def test_a_stage_without_such_a_row_is_passed_over(runs, tmp_path, capsys):
    asked = ["all", "--out", str(tmp_path), "--stages", "operators,models,graphs,goals", "--only"]
    assert gpu_acceptance.main([*asked, "of operators"]) == stages.OK
    assert "all: operators 0, models 4, graphs 4, goals 0" in capsys.readouterr().out
    assert gpu_acceptance.main([*asked, "zebra"]) == stages.FAILED
    assert gpu_acceptance.main(["all", "--out", str(tmp_path), "--stages", "goals", "--only", "zebra"]) == stages.OK


def test_alone_it_is_an_error_and_earlier_results_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_acceptance, "card_name", lambda: ("A Card", ""))
    nothing = {"rows": [], "error": "no row has 'zebra' in its name"}
    monkeypatch.setitem(stages.STAGES, "operators", lambda settings: (stages.NOTHING_OF_THAT_NAME, nothing))
    report.save(tmp_path / "gpu_a_card_operators.json", {"rows": [1]})
    code = gpu_acceptance.main(["operators", "--out", str(tmp_path), "--only", "zebra"])
    assert code == stages.NOTHING_OF_THAT_NAME != 0
    assert report.load(tmp_path / "gpu_a_card_operators.json") == {"rows": [1]}
    assert "operators: no row has 'zebra' in its name" in capsys.readouterr().out


def test_options_reach_the_stages(runs, tmp_path):
    given = ["--out", str(tmp_path), "--only", "nms 6", "--seconds", "2.5", "--again", "--commit", "abc", "--seed", "7"]
    gpu_acceptance.main(["all", "--stages", "operators", *given])
    (words, _), *_ = runs
    alone, asked = gpu_acceptance.parse(words[2:]), gpu_acceptance.parse(["operators", *given])
    assert {**vars(alone), "limit": None} == {**vars(asked), "limit": None}


def test_time_is_shared_and_what_is_left_over_goes_on(runs, tmp_path):
    """Here every stage takes no time, so the last one may have nearly all."""
    gpu_acceptance.main(["all", "--out", str(tmp_path), "--limit", "200"])
    limits = [limit - gpu_acceptance.GRACE for _, limit in runs]
    assert sum(limit <= 200 for limit in limits) == len(limits)
    assert limits[0] == pytest.approx(200 * 8 / (8 + 3 + 4 + 1), rel=0.05)
    assert limits[-1] == pytest.approx(200, rel=0.05)


def test_limits_by_default():
    assert gpu_acceptance.parse(["build"]).limit == gpu_acceptance.STAGE_LIMIT
    assert gpu_acceptance.parse(["all"]).limit == gpu_acceptance.TOTAL_LIMIT
    assert gpu_acceptance.TOTAL_LIMIT + gpu_acceptance.GRACE + stages.PATIENCE < 600
    for line in (line for line in gpu_acceptance.__doc__.splitlines() if ".py all --stages" in line):
        gpu_acceptance.parse(line.split()[2:])  # the commands of the introduction are right


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (3, 3), (4, 4), (77, stages.FAILED)])
def test_exit_codes_of_programs(code, expected):
    assert gpu_acceptance.run_apart([sys.executable, "-c", f"raise SystemExit({code})"], 60) == expected


def test_a_program_that_takes_too_long_is_ended():
    started = time.monotonic()
    assert gpu_acceptance.run_apart([sys.executable, "-c", "import time; time.sleep(60)"], 1) == stages.FAILED
    assert time.monotonic() - started < 30


SLEEPER = "import os, pathlib, time; pathlib.Path({file!r}).write_text(str(os.getpid())); time.sleep(100)"
STAGE = """
import sys
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from gpu import stages
stages.end_when_asked()
stages.run([sys.executable, "-c", {sleeper!r}], Path.cwd(), 100)
"""
ALL = """
import sys
sys.path.insert(0, {benchmarks!r})
import gpu_acceptance
gpu_acceptance.end_when_asked()
gpu_acceptance.run_apart([sys.executable, "-c", {stage!r}], 100)
"""


@pytest.mark.parametrize("deep", [False, True], ids=["stage", "all"])
def test_what_a_stage_started_ends_with_it(deep, tmp_path):
    """A sleeper of a stage that takes too long, and of a stage of an ``all`` that is ended."""
    file, benchmarks = tmp_path / "pid", str(Path(gpu_acceptance.__file__).parent)
    script = STAGE.format(benchmarks=benchmarks, sleeper=SLEEPER.format(file=str(file)))
    script = ALL.format(benchmarks=benchmarks, stage=script) if deep else script
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        assert comes_true(lambda: file.exists() and file.read_text())
        pid = int(file.read_text())
        os.kill(pid, 0)  # it is there
    finally:
        stages.end(process, patience=30)
    assert process.returncode == stages.FAILED  # of its own, not killed
    assert comes_true(lambda: not Path(f"/proc/{pid}").exists())


def comes_true(condition) -> bool:
    deadline = time.monotonic() + 60
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(found)


def test_the_worst_of_codes():
    assert gpu_acceptance.worst([0, 3, 1, 2]) == stages.FAILED
    assert gpu_acceptance.worst([0, 3]) == stages.UNAVAILABLE
    assert gpu_acceptance.worst([0, 0]) == gpu_acceptance.worst([]) == stages.OK
