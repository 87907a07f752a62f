"""Several stages of the GPU acceptance in one command, each a program of its own."""

from __future__ import annotations

import sys
import time

import gpu_acceptance
import pytest
from gpu import stages


@pytest.fixture
def runs(monkeypatch) -> list[tuple[list[str], float]]:
    """What would have been run: words and limit. ``tests`` fails, ``sanitizer`` is not possible."""
    found: list[tuple[list[str], float]] = []
    codes = {"tests": stages.FAILED, "sanitizer": stages.UNAVAILABLE}

    def run(words: list[str], limit: float) -> int:
        found.append((words, limit))
        return codes.get(words[2], stages.OK)

    monkeypatch.setattr(gpu_acceptance, "card_name", lambda: ("A Card", ""))
    monkeypatch.setattr(gpu_acceptance, "run_apart", run)
    return found


def test_all_stages_in_order_although_one_fails(runs, tmp_path, capsys):
    assert gpu_acceptance.main(["all", "--out", str(tmp_path), "--commit", "abc"]) == stages.FAILED
    assert [words[2] for words, _ in runs] == list(stages.STAGES)
    assert "all: build 0, tests 1, sanitizer 3, ceilings 0" in capsys.readouterr().out


def test_only_the_stages_asked_for(runs, tmp_path):
    asked = ["all", "--out", str(tmp_path), "--stages", "goals, sanitizer,ceilings"]
    assert gpu_acceptance.main(asked) == stages.UNAVAILABLE
    assert [words[2] for words, _ in runs] == ["sanitizer", "ceilings", "goals"]
    assert gpu_acceptance.main([*asked[:-1], "ceilings"]) == stages.OK


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
    assert limits[0] == pytest.approx(200 * 6 / sum(gpu_acceptance.SHARES.values()), rel=0.05)
    assert limits[-1] == pytest.approx(200, rel=0.05)


def test_limits_by_default():
    assert gpu_acceptance.parse(["build"]).limit == gpu_acceptance.STAGE_LIMIT
    assert gpu_acceptance.parse(["all"]).limit == gpu_acceptance.TOTAL_LIMIT
    assert gpu_acceptance.TOTAL_LIMIT + gpu_acceptance.GRACE < 600


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (3, 3), (77, stages.FAILED)])
def test_exit_codes_of_programs(code, expected):
    assert gpu_acceptance.run_apart([sys.executable, "-c", f"raise SystemExit({code})"], 60) == expected


def test_a_program_that_takes_too_long_is_ended():
    started = time.monotonic()
    assert gpu_acceptance.run_apart([sys.executable, "-c", "import time; time.sleep(60)"], 1) == stages.FAILED
    assert time.monotonic() - started < 30


def test_the_worst_of_codes():
    assert gpu_acceptance.worst([0, 3, 1, 2]) == stages.FAILED
    assert gpu_acceptance.worst([0, 3]) == stages.UNAVAILABLE
    assert gpu_acceptance.worst([0, 0]) == gpu_acceptance.worst([]) == stages.OK
