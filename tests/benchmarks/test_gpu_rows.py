"""Rows of the GPU acceptance: saved one by one, and not measured twice."""

from __future__ import annotations

import time

import pytest
from gpu import report, rows
from gpu.rows import NOT_REACHED, Task
from gpu.stages import FAILED, NOTHING_OF_THAT_NAME, OK, Settings


class Bench:
    """Tasks that count how often they are measured; those in ``broken`` raise ``error``."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.measured: list[str] = []
        self.broken: set[str] = set()
        self.error: BaseException = AssertionError("results differ")

    def task(self, name: str, needs: float = 0.0) -> Task:
        def measure(number: int) -> dict:
            self.measured.append(name)
            if name in self.broken:
                raise self.error
            return {"match": "equal", "number": number}

        return Task(name, {"op": name[0]}, measure, needs)

    def run(self, *names: str, common=None, commit: str = "abc", **settings):
        tasks = [self.task(name) for name in names]
        every = Settings(out=self.folder, card="A Card", commit=commit, **settings)
        return rows.measure_all("operators", tasks, every, common or {})

    def saved(self) -> dict:
        return report.load(self.folder / "gpu_a_card_operators.json")


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


def test_what_is_measured_is_kept(bench, capsys):
    assert bench.run("a1", "a2", only="1")[0] == OK
    assert bench.run("a1", "a2")[0] == OK
    assert bench.measured == ["a1", "a2"]
    expected = [{"name": name, "op": "a", "match": "equal", "number": i} for i, name in enumerate(("a1", "a2"))]
    assert bench.saved()["rows"] == expected
    assert "[1/2, " in capsys.readouterr().out


def test_again(bench):
    bench.run("a1")
    bench.run("a1", again=True)
    assert bench.measured == ["a1", "a1"]


def test_a_failed_row_is_tried_again_and_others_go_on(bench):
    bench.broken = {"a1"}
    assert bench.run("a1", "a2")[0] == FAILED
    assert bench.saved()["rows"][0]["error"] == "AssertionError: results differ"
    bench.broken = set()
    assert bench.run("a1", "a2")[0] == OK
    assert bench.measured == ["a1", "a2", "a1"]


@pytest.mark.parametrize("error", [ValueError("bad"), TypeError("bad"), NotImplementedError("bad")])
def test_whatever_a_row_raises_the_others_go_on(bench, error):
    bench.broken, bench.error = {"a1"}, error
    assert bench.run("a1", "a2")[0] == FAILED
    assert bench.saved()["rows"][0]["error"] == f"{type(error).__name__}: bad"
    assert bench.measured == ["a1", "a2"]


def test_who_stops_it_stops_it(bench):
    bench.broken, bench.error = {"a2"}, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        bench.run("a1", "a2", "a3")
    assert [row["name"] for row in bench.saved()["rows"]] == ["a1"]


def test_order_is_that_of_the_table(bench):
    bench.run("b", "a", only="a")
    bench.run("b", "a")
    assert [row["name"] for row in bench.saved()["rows"]] == ["b", "a"]


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"commit": "abd"}, "commit was 'abc' and is 'abd'"),
        ({"common": {"floors_from": "elsewhere"}}, "floors_from was None and is 'elsewhere'"),
    ],
)
def test_rows_of_other_code_are_dropped_and_it_is_said(bench, second, reason, capsys):
    bench.run("a1", "a2", only="1")
    bench.run("a1", "a2", only="1")
    assert "dropped" not in capsys.readouterr().out
    bench.run("a1", "a2", only="2", **second)
    assert [row["name"] for row in bench.saved()["rows"]] == ["a2"]
    assert f"1 earlier rows of gpu_a_card_operators.json are dropped: {reason}\n" in capsys.readouterr().out


@pytest.mark.parametrize("commit", ["unknown", "abc-dirty"])
def test_code_that_cannot_be_told_is_measured_anew(bench, commit, capsys):
    bench.run("a1", commit=commit)
    bench.run("a1", commit=commit)
    assert bench.measured == ["a1", "a1"]
    assert f"the code of commit {commit!r} may be another" in capsys.readouterr().out


def test_a_result_without_rows_is_no_earlier_result(bench):
    report.save(bench.folder / "gpu_a_card_operators.json", {"unavailable": "no torchvision", "facts": {}})
    assert bench.run("a1")[0] == OK


def test_rows_out_of_time_are_named_and_done_next_time(bench):
    code, content = bench.run("a1", limit=0.0)
    assert (code, content["rows"][0]["error"]) == (FAILED, NOT_REACHED)
    assert bench.run("a1")[0] == OK


def test_time_counts_from_the_start_of_the_process(bench):
    assert bench.run("a1", limit=60.0, began=time.monotonic() - 61)[0] == FAILED
    assert bench.measured == []


def test_a_long_row_is_not_begun_late(bench):
    tasks = [bench.task("a1"), bench.task("a2", needs=1e6)]
    settings = Settings(out=bench.folder, card="A Card", commit="abc")
    code, content = rows.measure_all("operators", tasks, settings, {})
    assert (code, bench.measured) == (FAILED, ["a1"])
    assert content["rows"][1]["error"] == NOT_REACHED


def test_time_out_of_a_repetition_keeps_the_row(bench):
    bench.run("a1")
    assert bench.run("a1", again=True, limit=0.0)[0] == OK
    assert bench.saved()["rows"][0]["match"] == "equal"


def test_nothing_of_that_name(bench):
    code, content = bench.run("a1", only="zebra")
    assert code == NOTHING_OF_THAT_NAME
    assert "no row has 'zebra' in its name:\n  a1" in content["error"]
